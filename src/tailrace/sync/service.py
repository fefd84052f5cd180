"""``tailrace.sync.Service``: a tunneling service inside a program that blocks."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Literal, Self, TypeAlias

from ..mqtt.topics import AWS_TEMPLATE
from ..service.config import Endpoints
from ..service.limits import Limits
from ..service.service import Service as AsynchronousService
from .block import Block
from .client import Client, client_around

__all__ = ["Service"]

_PathLike: TypeAlias = str | os.PathLike[str]
_Texts: TypeAlias = tuple[str, ...] | list[str]
"""No sequence: a text is one, of characters."""


class Service:
    """A tunneling service in this process, for as long as a ``with`` block lasts.

    It is :class:`tailrace.Service` for code that blocks, and runs in a thread.

    Example::

        with tailrace.sync.Service(limits="aws") as service:
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
        """Check the settings, which are those of :class:`tailrace.Service`; start nothing.

        Raises:
            ConfigurationError: a value is not valid, or does not go with the others.
        """
        self._service = AsynchronousService(
            state_dir,
            host=host,
            api_port=api_port,
            data_port=data_port,
            host_names=host_names,
            region=region,
            limits=limits,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_ca=tls_ca,
            audit_log=audit_log,
            mqtt_url=mqtt_url,
            mqtt_ca=mqtt_ca,
            mqtt_cert=mqtt_cert,
            mqtt_key=mqtt_key,
            notify_command=notify_command,
            notify_topic=notify_topic,
        )
        self._block = Block(self._service, "service")

    def __enter__(self) -> Self:
        """Start the service; it accepts requests when this returns.

        Raises:
            ConfigurationError: packages are missing, a file or directory cannot be used, or
                another service uses the state directory.
            ListenError: an address cannot be bound.
            RuntimeError: the service is in use already.
        """
        block = Block(self._service, "service")
        block.__enter__()
        self._block = block
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the service, and wait until it has stopped."""
        self._block.__exit__(kind, error, traceback)

    @property
    def endpoints(self) -> Endpoints:
        """How clients reach the service: addresses, certificates, region and access key.

        Raises:
            RuntimeError: the service is not running.

        Example::

            host, _, port = service.endpoints.data_endpoint.rpartition(":")
        """
        return self._service.endpoints

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
        return self._service.environment()

    def client(self, timeout: float = 30.0) -> Client:
        """Return a client of the control API, with the service's own key.

        ``timeout`` is in seconds, for each step of a call.

        Raises:
            ConfigurationError: the file of certificates cannot be read.
            RuntimeError: the service is not running.

        Example::

            with service.client() as client:
                opened = client.open(services=["SSH"])
        """
        return client_around(self._service.client(timeout))
