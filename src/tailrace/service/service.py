"""A tunneling service inside another program."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self, TypeAlias

from ..aws.client import Client
from ..aws.credentials import Credentials
from ..common.secret import Secret
from ..errors import ConfigurationError
from ..mqtt.topics import AWS_TEMPLATE
from .config import Address, Endpoints, ServiceConfig
from .environment import client_environment
from .errors import SettingsError
from .extra import require_extra
from .limits import PRESETS, Limits, check_limits
from .operation import operation_settings

if TYPE_CHECKING:
    from .tunneling_service import TunnelingService

__all__ = ["Service"]

_PathLike: TypeAlias = str | os.PathLike[str]
_Texts: TypeAlias = tuple[str, ...] | list[str]
"""No sequence: a text is one, of characters."""

_MAX_PORT: Final = 65535

_ARGUMENTS: Final = {"api_listen": "api_port", "data_listen": "data_port"}
"""Settings as the errors of the service name them -> arguments, where those differ."""


@contextlib.contextmanager
def _temporary_directory() -> Iterator[Path]:
    """Make a directory that is removed at the end of the block, or of the program.

    Not by a process that was forked inside of the block: the service goes on in the other one.
    """
    path = Path(tempfile.mkdtemp(prefix="tailrace-"))
    remove = partial(_remove, path, os.getpid())
    atexit.register(remove)
    try:
        yield path
    finally:
        atexit.unregister(remove)
        remove()


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Running:
    """A service that runs, and what is undone when it has stopped."""

    service: TunnelingService
    state_dir: Path
    undo: contextlib.ExitStack


class Service:
    """A tunneling service in this process, for as long as an ``async with`` block lasts.

    It is what ``tailrace serve`` runs, with the same defaults but for ports, which are free ones,
    and is ready when the block begins. When the block ends, requests under way are finished and
    links are dropped, which takes a few seconds at most. Nothing is left behind then, not even when
    starting or stopping is cancelled. With a ``state_dir``, tunnels and keys outlive the block;
    without one, they are in a temporary directory.

    The service is a guest in its program: it runs in the current event loop, sets up neither
    logging nor signals, and reads no environment. There may be several of them. Log records are
    those of the logger ``tailrace``.

    Example::

        async with tailrace.Service(limits="aws") as service:
            subprocess.run(["pytest"], env={**os.environ, **service.environment()})
    """

    def __init__(
        self,
        state_dir: _PathLike | None = None,
        *,
        host: str = "127.0.0.1",
        api_port: int = 0,
        data_port: int = 0,
        host_names: _Texts = (),
        region: str = "us-east-1",
        limits: Limits | Literal["default", "aws"] = "default",
        tls_cert: _PathLike | None = None,
        tls_key: _PathLike | None = None,
        tls_ca: _PathLike | None = None,
        audit_log: _PathLike | None = None,
        mqtt_url: str | None = None,
        mqtt_ca: _PathLike | None = None,
        mqtt_cert: _PathLike | None = None,
        mqtt_key: _PathLike | None = None,
        notify_command: _Texts = (),
        notify_topic: str = AWS_TEMPLATE,
    ) -> None:
        """Check the settings; nothing is opened or started.

        Args:
            state_dir: directory of the service's files, made if it does not exist; one service may
                use it at a time.
            host: name or address to listen on, without a port; ``0.0.0.0`` and ``::`` are all
                addresses of the machine.
            api_port: TCP port of the control API, 0-65535; 0 is a free one.
            data_port: TCP port for local proxies, 0-65535; 0 is a free one.
            host_names: further names or addresses by which clients reach the service; its
                certificate holds them, and the first is advertised when it listens on all.
            region: AWS region to emulate.
            limits: what clients may have, or the name of a preset.
            tls_cert: PEM certificate chain to use instead of one from the service's own CA.
            tls_key: its private key, if it is not in the same file.
            tls_ca: CA certificates that clients need for it.
            audit_log: file to append who did what to which tunnel.
            mqtt_url: broker through which things are notified:
                ``mqtt[s]://[user[:password]@]host[:port]``.
            mqtt_ca: CA certificates to trust for ``mqtts://`` instead of the system's.
            mqtt_cert: client certificate for the broker, in PEM.
            mqtt_key: its private key, if it is not in the same file.
            notify_command: program and arguments by which things are notified.
            notify_topic: MQTT topic on which a thing is notified, with ``{thing}`` in place of its
                name.

        Raises:
            ConfigurationError: a value is not valid, or does not go with the others.
        """
        for argument, port in (("api_port", api_port), ("data_port", data_port)):
            if not 0 <= port <= _MAX_PORT:
                text = f"{argument} {port} is not a port from 0 to {_MAX_PORT}"
                raise ConfigurationError(text, setting=argument)
        self._state_dir = _path(state_dir)
        self._config = ServiceConfig(
            Path(),
            Address(host, api_port),
            Address(host, data_port),
            region=region,
            host_names=tuple(host_names),
            operation=operation_settings(
                tls_cert=_path(tls_cert),
                tls_key=_path(tls_key),
                tls_ca=_path(tls_ca),
                audit_log=_path(audit_log),
                mqtt_url=mqtt_url,
                mqtt_ca=_path(mqtt_ca),
                mqtt_cert=_path(mqtt_cert),
                mqtt_key=_path(mqtt_key),
                notify_command=notify_command,
                notify_topic=notify_topic,
                environment={},
            ),
            limits=_limits(limits),
        )
        self._is_entered = False
        self._running: _Running | None = None

    async def __aenter__(self) -> Self:
        """Start the service; it accepts requests when this returns.

        Raises:
            ConfigurationError: packages are missing, a file or directory cannot be used, or
                another service uses the state directory.
            ListenError: an address cannot be bound.
            RuntimeError: the service is in use already.
        """
        if self._is_entered:
            raise RuntimeError("this service is in use already; make another one")
        self._is_entered = True
        try:
            with contextlib.ExitStack() as undo:
                self._running = await self._start(undo)
        except BaseException as error:
            self._is_entered = False
            if isinstance(error, SettingsError):
                raise error.renamed(_ARGUMENTS) from None
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the service; a cancellation meanwhile is raised when it has stopped."""
        running = self._live
        self._running = None
        try:
            with running.undo:
                await running.service.stop()
        finally:
            self._is_entered = False

    async def _start(self, undo: contextlib.ExitStack) -> _Running:
        require_extra()
        # Only now: what it takes is installed, and was not needed for the settings.
        from .tunneling_service import TunnelingService

        state_dir = self._state_dir
        if state_dir is None:
            state_dir = undo.enter_context(_temporary_directory())
        service = TunnelingService(replace(self._config, state_dir=state_dir))
        await service.start()
        return _Running(service, state_dir, undo.pop_all())

    @property
    def _live(self) -> _Running:
        if self._running is None:
            raise RuntimeError("the service is not running: use it inside its async with block")
        return self._running

    @property
    def endpoints(self) -> Endpoints:
        """How clients reach the service: addresses, certificates, region and access key.

        Raises:
            RuntimeError: the service is not running.

        Example::

            host, _, port = service.endpoints.data_endpoint.rpartition(":")
        """
        return self._live.service.endpoints

    def environment(self) -> dict[str, str]:
        """Return the variables that ``tailrace env`` prints, for clients in other processes.

        AWS SDKs and the AWS CLI are pointed to the service, and so are local proxies. A variable
        ``AWS_SESSION_TOKEN`` must not be set along with them: it belongs to another key.

        Raises:
            ConfigurationError: the file of certificates cannot be written.
            RuntimeError: the service is not running.

        Example::

            command = ["aws", "iotsecuretunneling", "list-tunnels"]
            subprocess.run(command, env={**os.environ, **service.environment()})
        """
        running = self._live
        return client_environment(running.service.endpoints, running.state_dir, {})

    def client(self, timeout: float = 30.0) -> Client:
        """Return a client of the control API, with the service's own key.

        ``timeout`` is in seconds, for each step of a call. Close it, or use it with ``async with``.

        Raises:
            ConfigurationError: the file of certificates cannot be read.
            RuntimeError: the service is not running.

        Example::

            async with service.client() as client:
                opened = await client.open(services=["SSH"])
        """
        endpoints = self._live.service.endpoints
        return Client(
            region=endpoints.region,
            endpoint=endpoints.api_endpoint,
            credentials=Credentials(endpoints.access_key_id, Secret(endpoints.secret_access_key)),
            ca=endpoints.ca_file,
            timeout=timeout,
        )


def _path(path: _PathLike | None) -> Path | None:
    # Absolute, so that it stays the same when the program changes its directory.
    return None if path is None else Path(path).absolute()


def _limits(limits: Limits | str) -> Limits:
    if isinstance(limits, str):
        if limits not in PRESETS:
            text = f"limits {limits!r} is neither an object nor one of: {', '.join(PRESETS)}"
            raise ConfigurationError(text, setting="limits")
        return PRESETS[limits]
    check_limits(limits)
    return limits
