"""The service of tests in a thread of its own, and what tunnels through it need."""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ..aws.control_client import ControlClient
from ..aws.credentials import Credentials
from ..common.addresses import LocalAddress, TCPAddress, format_host_port, parse_tcp_address
from ..common.background_loop import BackgroundLoop
from ..common.secret import Secret
from ..errors import ListenError, TunnelNotFound
from ..localproxy.settings import ProxySettings
from ..service.config import Endpoints
from ..service.errors import TunnelClosed as TunnelHasEnded
from ..service.errors import TunnelNotFound as NoSuchTunnel
from ..service.service import Service
from ..wire import Side
from .local_end import LocalEnd
from .middlebox import Middlebox

__all__ = ["Runtime", "running"]

_HOST: Final = "127.0.0.1"
_PING_SECONDS: Final = 2.0
"""A link is given up when it was silent for three of them: less than tests want to wait, more than
a busy machine does nothing."""
_RETRY_SECONDS: Final = 0.1
_LONGEST_RETRY_SECONDS: Final = 1.0


class _OpenService(Service):
    """A service that lets tests do what its clients cannot."""

    @property
    def tls(self) -> ssl.SSLContext:
        """What it shows to clients."""
        return self._live.service.tls_context

    async def expire(self, tunnel_id: str) -> None:
        """End the lifetime of a tunnel."""
        self._live.service.expire(tunnel_id)


class Runtime:
    """A service in a thread, and what tunnels through it need.

    All links go through ``front``; those of local proxies of this process through a box of their
    own before.
    """

    def __init__(
        self, service: _OpenService, front: Middlebox, listen_host: str, loop: BackgroundLoop
    ) -> None:
        self.service = service
        self.front = front
        self.loop = loop
        self.ends: set[LocalEnd] = set()
        """Those of all tunnels."""
        self._listen_host = listen_host

    @property
    def endpoints(self) -> Endpoints:
        """How clients reach the service through ``front``."""
        endpoints = self.service.endpoints
        host = parse_tcp_address(endpoints.data_endpoint).host
        return replace(endpoints, data_endpoint=format_host_port(host, self.front.port))

    def control_client(self, timeout: float = 30.0) -> ControlClient:
        """Return a client whose calls block; ``timeout`` is in seconds, for each step of one."""
        endpoints = self.endpoints
        key = Credentials(endpoints.access_key_id, Secret(endpoints.secret_access_key))
        ca_file = Path(endpoints.ca_file)
        return ControlClient(endpoints.api_endpoint, endpoints.region, key, ca_file, timeout)

    def expire(self, tunnel_id: str) -> None:
        """End the lifetime of a tunnel.

        Raises:
            TunnelNotFound: there is no such tunnel, or it is closed.
        """
        try:
            self.loop.run(self.service.expire(tunnel_id))
        except (NoSuchTunnel, TunnelHasEnded) as error:
            # As the control API says it.
            raise TunnelNotFound("ResourceNotFoundException", str(error)) from None

    async def connect(
        self,
        stack: contextlib.AsyncExitStack,
        tokens: Mapping[Side, Secret],
        applications: Mapping[str, LocalAddress],
    ) -> Mapping[Side, LocalEnd]:
        """Run both proxies until ``stack`` is closed.

        Raises:
            TailraceError: one of them cannot connect.
        """
        # The destination first: clients may connect as soon as the source listens.
        ports = dict.fromkeys(applications, TCPAddress(_HOST, 0))
        return {
            side: await self._end(stack, side, tokens[side], services)
            for side, services in ((Side.DESTINATION, applications), (Side.SOURCE, ports))
        }

    async def _end(
        self,
        stack: contextlib.AsyncExitStack,
        side: Side,
        token: Secret,
        services: Mapping[str, LocalAddress],
    ) -> LocalEnd:
        host = self._listen_host
        box = Middlebox(_reached(host), self.front.port, host, each_way=False)
        await box.start()
        stack.push_async_callback(box.stop)
        endpoints = self.endpoints
        settings = ProxySettings(
            side=side,
            host=parse_tcp_address(endpoints.data_endpoint).host,
            port=box.port,
            access_token=token,
            services=services,
            capath=Path(endpoints.ca_file),
            ping_period=_PING_SECONDS,
            retry_delay=_RETRY_SECONDS,
            retry_delay_cap=_LONGEST_RETRY_SECONDS,
            # Tests want to see what a cut does to their program.
            resume_timeout=0.0,
        )
        end = LocalEnd(settings, box)
        self.ends.add(end)
        stack.callback(self.ends.discard, end)
        stack.push_async_callback(end.stop)
        await end.start()
        return end


@contextlib.contextmanager
def running(settings: Mapping[str, Any]) -> Iterator[Runtime]:
    """Run a service; ``settings`` are arguments of :class:`tailrace.Service`.

    Raises:
        ConfigurationError: the settings are wrong, or packages are missing.
        ListenError: an address cannot be bound.
    """
    # Links come in at the front, so that the service itself takes any port.
    _OpenService(**settings)
    service = _OpenService(**{**settings, "data_port": 0})
    listen_host, port = settings.get("host", _HOST), settings.get("data_port", 0)
    with _quiet_log(), BackgroundLoop("tailrace service") as loop:
        stack = contextlib.AsyncExitStack()
        try:
            yield loop.run(_start(stack, service, listen_host, port, loop))
        finally:
            loop.run(stack.aclose())


async def _start(
    stack: contextlib.AsyncExitStack,
    service: _OpenService,
    listen_host: str,
    port: int,
    loop: BackgroundLoop,
) -> Runtime:
    await stack.enter_async_context(service)
    data = parse_tcp_address(service.endpoints.data_endpoint)
    front = Middlebox(_reached(listen_host), data.port, listen_host, each_way=False)
    try:
        await front.start(port)
    except OSError as error:
        address = format_host_port(listen_host, port)
        raise ListenError(f"cannot listen on {address}: {error.strerror or error}") from error
    stack.push_async_callback(front.stop)
    return Runtime(service, front, listen_host, loop)


def _reached(listen_host: str) -> str:
    """Return where this machine reaches what listens there."""
    return {"": "localhost", "0.0.0.0": _HOST, "::": "::1"}.get(listen_host, listen_host)  # noqa: S104


@contextlib.contextmanager
def _quiet_log() -> Iterator[None]:
    """Let the log of the package have information, and be printed by nobody who was not asked."""
    logger = logging.getLogger("tailrace")
    level, nobody = logger.level, logging.NullHandler()
    if not level:
        logger.setLevel(logging.INFO)
    # Without any handler, Python prints warnings.
    logger.addHandler(nobody)
    try:
        yield
    finally:
        logger.removeHandler(nobody)
        logger.setLevel(level)
