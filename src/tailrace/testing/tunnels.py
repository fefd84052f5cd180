"""Whole tunnels for code that blocks: service and both local proxies run in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ..aws.control_client import ControlClient
from ..aws.credentials import Credentials
from ..common.addresses import LocalAddress, TCPAddress, format_host_port, parse_tcp_address
from ..common.background_loop import BackgroundLoop
from ..common.secret import Secret
from ..errors import CallRefused, ConfigurationError, OpenFailed
from ..localproxy.events import ProxyEvent, ServicesMapped
from ..localproxy.proxy import LocalProxy
from ..localproxy.settings import ProxySettings
from ..service.config import Endpoints, parse_address
from ..service.service import Service
from ..wire import Side

__all__ = ["LocalTunnel", "ServiceInThread", "TunnelFactory", "service_in_thread"]

_HOST: Final = "127.0.0.1"
_READY_SECONDS: Final = 30.0
"""For a proxy to connect."""
_END_SECONDS: Final = 1.0
"""For a proxy whose tunnel is closed to bring what it has to its clients."""


class LocalTunnel:
    """A tunnel between two local proxies of this process."""

    def __init__(self, tunnel_id: str, addresses: Mapping[str, LocalAddress | None]) -> None:
        self.tunnel_id = tunnel_id
        """Id of the tunnel, for calls of the control API."""
        self._addresses = addresses

    def address(self, service_id: str) -> tuple[str, int]:
        """Return host and port at which clients reach a service through the tunnel.

        Raises:
            ConfigurationError: the tunnel has no such service.

        Example::

            socket.create_connection(tunnel.address("SSH"))
        """
        address = self._addresses.get(service_id)
        if not isinstance(address, TCPAddress):
            known = ", ".join(self._addresses)
            raise ConfigurationError(f"the tunnel has no service {service_id!r}, it has: {known}")
        return address.host, address.port

    def url(self, service_id: str, scheme: str = "http") -> str:
        """Return the URL at which clients reach a service through the tunnel, without a path.

        Raises:
            ConfigurationError: the tunnel has no such service.

        Example::

            httpx.get(tunnel.url("HTTP") + "/status")
        """
        return f"{scheme}://{format_host_port(*self.address(service_id))}"


class TunnelFactory:
    """Opens tunnels, and closes them in the end."""

    def __init__(self, client: ControlClient, endpoints: Endpoints, loop: BackgroundLoop) -> None:
        self._client = client
        self._endpoints = endpoints
        self._loop = loop
        self._undo = contextlib.ExitStack()

    def __call__(self, **services: int | str) -> LocalTunnel:
        """Open a tunnel to applications and return it when it carries connections.

        Each argument is a service id, with the port of an application on this machine or its
        ``"HOST:PORT"``. Nothing needs to listen there yet.

        Raises:
            ConfigurationError: there is no service, or an address is not valid.
            CallRefused: the service does not allow such a tunnel.
            TailraceError: a local proxy cannot connect.

        Example::

            tunnel = tailrace_tunnel(HTTP=8080, SSH="192.0.2.7:22")
        """
        if not services:
            raise ConfigurationError("a tunnel needs services, such as tailrace_tunnel(HTTP=8080)")
        applications: dict[str, LocalAddress] = {
            name: _application(name, where) for name, where in services.items()
        }
        parameters = {"destinationConfig": {"services": list(services)}}
        opened = self._client.call("OpenTunnel", parameters)
        tunnel_id: str = opened["tunnelId"]
        with contextlib.ExitStack() as undo:
            stack = contextlib.AsyncExitStack()
            undo.callback(lambda: self._loop.run(stack.aclose()))
            # Before that, so that the proxies end in order.
            undo.callback(self._close, tunnel_id)
            tokens = {side: opened[f"{side.value}AccessToken"] for side in Side}
            addresses = self._loop.run(_connect(stack, self._endpoints, tokens, applications))
            self._undo.push(undo.pop_all())
        return LocalTunnel(tunnel_id, addresses)

    def close(self) -> None:
        """Close all tunnels."""
        self._undo.close()

    def _close(self, tunnel_id: str) -> None:
        # A test may have closed it.
        with contextlib.suppress(CallRefused):
            self._client.call("CloseTunnel", {"tunnelId": tunnel_id, "delete": True})


class ServiceInThread:
    """A :class:`~tailrace.service.service.Service` that runs in a thread."""

    def __init__(self, service: Service, loop: BackgroundLoop) -> None:
        self._service = service
        self._loop = loop

    @property
    def endpoints(self) -> Endpoints:
        """How clients reach the service.

        Example::

            host, _, port = tailrace_service.endpoints.data_endpoint.rpartition(":")
        """
        return self._service.endpoints

    def environment(self) -> dict[str, str]:
        """Return the variables that ``tailrace env`` prints, for clients in other processes.

        Example::

            subprocess.run(command, env={**os.environ, **tailrace_service.environment()})
        """
        return self._service.environment()

    def control_client(self, timeout: float = 30.0) -> ControlClient:
        """Return a client of the control API whose calls block.

        ``timeout`` is in seconds, for each step of a call.

        Example::

            tailrace_service.control_client().call("ListTunnels", {})
        """
        endpoints = self.endpoints
        key = Credentials(endpoints.access_key_id, Secret(endpoints.secret_access_key))
        ca_file = Path(endpoints.ca_file)
        return ControlClient(endpoints.api_endpoint, endpoints.region, key, ca_file, timeout)

    @contextlib.contextmanager
    def tunnels(self) -> Iterator[TunnelFactory]:
        """Open tunnels within a block; they are closed at its end.

        Example::

            with tailrace_service.tunnels() as open_tunnel:
                tunnel = open_tunnel(HTTP=8080)
        """
        factory = TunnelFactory(self.control_client(), self.endpoints, self._loop)
        with contextlib.closing(factory):
            yield factory


@contextlib.contextmanager
def service_in_thread(settings: Mapping[str, Any]) -> Iterator[ServiceInThread]:
    """Run a service in a thread; ``settings`` are arguments of :class:`tailrace.Service`.

    Its log is of level INFO, which pytest shows with tests that fail.

    Raises:
        ConfigurationError: the settings are wrong, or packages are missing.
        ListenError: an address cannot be bound.
    """
    service = Service(**settings)
    with _logging_everything(), BackgroundLoop("tailrace service") as loop:
        stack = contextlib.AsyncExitStack()
        loop.run(stack.enter_async_context(service))
        try:
            yield ServiceInThread(service, loop)
        finally:
            loop.run(stack.aclose())


@contextlib.contextmanager
def _logging_everything() -> Iterator[None]:
    logger = logging.getLogger("tailrace")
    level = logger.level
    if not level:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)


def _application(service_id: str, where: int | str) -> TCPAddress:
    address = parse_address(str(where), service_id)
    if not address.port:
        raise ConfigurationError(f"{service_id}: port 0 is not the port of an application")
    return TCPAddress(address.host, address.port)


async def _connect(
    stack: contextlib.AsyncExitStack,
    endpoints: Endpoints,
    tokens: Mapping[Side, str],
    applications: Mapping[str, LocalAddress],
) -> Mapping[str, LocalAddress | None]:
    """Run both proxies until ``stack`` is closed; return where the source listens."""
    data = parse_tcp_address(endpoints.data_endpoint)

    def settings(side: Side, services: Mapping[str, LocalAddress]) -> ProxySettings:
        return ProxySettings(
            side=side,
            host=data.host,
            port=data.port,
            access_token=Secret(tokens[side]),
            services=services,
            capath=Path(endpoints.ca_file),
        )

    # The destination first: clients may connect as soon as the source listens.
    await stack.enter_async_context(_running(settings(Side.DESTINATION, applications)))
    ports = dict.fromkeys(applications, TCPAddress(_HOST, 0))
    return await stack.enter_async_context(_running(settings(Side.SOURCE, ports)))


@contextlib.asynccontextmanager
async def _running(settings: ProxySettings) -> AsyncIterator[Mapping[str, LocalAddress | None]]:
    """Run a local proxy; yield the addresses of its services when it carries connections."""
    loop = asyncio.get_running_loop()
    mapped: asyncio.Future[ServicesMapped] = loop.create_future()

    def note(event: ProxyEvent) -> None:
        if isinstance(event, ServicesMapped) and not mapped.done():
            mapped.set_result(event)

    proxy = LocalProxy(settings)
    proxy.subscribe(note)
    task = loop.create_task(proxy.run())
    try:
        first: list[asyncio.Future[Any]] = [task, mapped]
        await asyncio.wait(first, timeout=_READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not mapped.done():
            if task.done():
                task.result()
            raise OpenFailed(f"the {settings.side} has not connected to the service")
        yield mapped.result().services
    finally:
        if not task.done():
            proxy.stop()
            await asyncio.wait([task], timeout=_END_SECONDS)
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled():
            # Why it has ended, a test may have brought about.
            task.exception()
