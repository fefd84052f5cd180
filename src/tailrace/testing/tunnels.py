"""Whole tunnels for code that blocks: service and both local proxies run in a thread."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from ..aws.client import Client
from ..aws.control_client import ControlClient
from ..common.addresses import LocalAddress, TCPAddress, format_host_port
from ..common.secret import Secret
from ..errors import CallRefused, ConfigurationError
from ..service.config import Endpoints, parse_address
from ..wire import Side
from .client import LooplessClient
from .faults import AWS_BANDWIDTH, in_background, refused, silenced, throttled
from .local_end import LocalEnd
from .middlebox import Middlebox
from .runtime import Runtime, running

__all__ = ["LocalTunnel", "ServiceInThread", "TunnelFactory", "service_in_thread"]


class LocalTunnel:
    """A tunnel between two local proxies of this process, whose links can be disturbed.

    Each side has a link to the service. Faults are done to both of them, or to that of ``side``.
    All methods block, until what they do is done.
    """

    def __init__(self, tunnel_id: str, service: Runtime, ends: Mapping[Side, LocalEnd]) -> None:
        self.tunnel_id = tunnel_id
        """Id of the tunnel, for calls of the control API."""
        self._service = service
        self._loop = service.loop
        self._ends = ends

    def address(self, service_id: str) -> tuple[str, int]:
        """Return host and port at which clients reach a service through the tunnel.

        Raises:
            ConfigurationError: the tunnel has no such service.

        Example::

            socket.create_connection(tunnel.address("SSH"))
        """
        services = self._ends[Side.SOURCE].services
        address = services.get(service_id)
        if not isinstance(address, TCPAddress):
            known = ", ".join(services)
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

    def cut(self, side: Side | None = None) -> None:
        """Reset the links, and return when the local proxies have noticed.

        Connections through the tunnel are reset. The local proxies set their links up again by
        themselves, within a second or two: see :meth:`wait_connected`.

        Raises:
            TimedOut: a local proxy has not noticed within 30 s.

        Example::

            tunnel.cut()
            tunnel.wait_connected()
        """
        ends = self._chosen(side)

        async def cut() -> None:
            for end in ends:
                await end.cut()

        self._loop.run(cut())

    def silence(self, side: Side | None = None) -> AbstractContextManager[None]:
        """Let nothing through the links for as long as a ``with`` block lasts, and tell nobody.

        What is sent meanwhile is not lost: it arrives when the block ends, as it does when a
        network comes back. A local proxy gives its link up when nothing has come for 6 s, and
        resets its connections; the link that it sets up then has to wait for the end of the block.

        Example::

            with tunnel.silence():
                tunnel.wait_disconnected()
        """
        return in_background(self._loop, silenced(self._boxes(side)))

    def throttle(
        self, bytes_per_second: float = AWS_BANDWIDTH, side: Side | None = None
    ) -> AbstractContextManager[None]:
        """Slow the links down for as long as a ``with`` block lasts.

        Each link carries so many bytes a second, in both directions together; the default is what
        AWS documents for a tunnel.

        Raises:
            ConfigurationError: the rate is not more than 0.

        Example::

            with tunnel.throttle(bytes_per_second=16_000):
                client.sendall(firmware)
        """
        return in_background(self._loop, throttled(self._boxes(side), bytes_per_second))

    def refuse(
        self, status: int | None = None, side: Side | None = None
    ) -> AbstractContextManager[None]:
        """Refuse new links for as long as a ``with`` block lasts; those that are up stay.

        Args:
            status: the status of HTTP with which upgrade requests are refused, 400-599. After
                5xx, 408, 425 and 429 local proxies try again; after others they end, as with a
                token that is not valid. ``None``: the TCP connection is refused.

        Raises:
            ConfigurationError: the status is not one of these.

        Example::

            with tunnel.refuse(503):
                tunnel.cut()
        """
        return in_background(
            self._loop, refused(self._boxes(side), status, self._service.service.tls)
        )

    def rotate(self, side: Side | None = None) -> None:
        """Replace the access tokens by RotateTunnelAccessToken, and connect with the new ones.

        The service disconnects the links of these sides, whose local proxies end. Others take their
        place, with the same addresses; the method returns when they carry connections.

        Raises:
            CallRefused: the tunnel is closed.
            TailraceError: a local proxy cannot connect.

        Example::

            tunnel.rotate(tailrace.Side.SOURCE)
        """
        parameters = {
            "tunnelId": self.tunnel_id,
            "clientMode": "ALL" if side is None else side.name,
        }
        rotated = self._service.control_client().call("RotateTunnelAccessToken", parameters)

        async def restart() -> None:
            # The destination first, as when the tunnel was opened.
            for end in self._chosen(side):
                await end.restart(Secret(rotated[f"{end.side.value}AccessToken"]))

        self._loop.run(restart())

    def expire(self) -> None:
        """End the tunnel as the service does when its lifetime is over.

        The method returns when both local proxies have ended, and what had arrived was taken, for
        which clients have 5 s.

        Raises:
            CallRefused: the tunnel is closed.

        Example::

            tunnel.expire()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(tunnel.address("SSH"))
        """
        self._service.expire(self.tunnel_id)
        self._loop.run(self._ended())

    def close(self) -> None:
        """Close the tunnel by CloseTunnel; the method returns as :meth:`expire` does.

        A tunnel that is closed already stays so.

        Example::

            tunnel.close()
        """
        # A test may have deleted it.
        with contextlib.suppress(CallRefused):
            parameters = {"tunnelId": self.tunnel_id}
            self._service.control_client().call("CloseTunnel", parameters)
        self._loop.run(self._ended())

    def wait_connected(self, timeout: float = 30.0) -> None:
        """Wait until both sides have their links, and carry connections.

        ``timeout`` is in seconds.

        Raises:
            TimedOut: they do not.
            TailraceError: a local proxy has ended, and why.

        Example::

            tunnel.wait_connected()
        """

        async def wait() -> None:
            for end in self._chosen(None):
                await end.regained(timeout)

        self._loop.run(wait())

    def wait_disconnected(self, side: Side | None = None, timeout: float = 30.0) -> None:
        """Wait until the local proxies have noticed that their links are gone.

        ``timeout`` is in seconds.

        Raises:
            TimedOut: they have not.

        Example::

            with tunnel.silence():
                tunnel.wait_disconnected()
        """

        async def wait() -> None:
            for end in self._chosen(side):
                await end.given_up(timeout)

        self._loop.run(wait())

    def _chosen(self, side: Side | None) -> list[LocalEnd]:
        if side is not None and side not in self._ends:
            raise ConfigurationError(f"side {side!r} is not a tailrace.Side, as Side.SOURCE")
        return [end for end in self._ends.values() if side in (None, end.side)]

    def _boxes(self, side: Side | None) -> list[Middlebox]:
        return [end.box for end in self._chosen(side)]

    async def _ended(self) -> None:
        for end in self._ends.values():
            await end.ended()


class TunnelFactory:
    """Opens tunnels, and closes them in the end."""

    def __init__(self, service: Runtime) -> None:
        self._service = service
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
        service, loop = self._service, self._service.loop
        parameters = {"destinationConfig": {"services": list(services)}}
        opened = service.control_client().call("OpenTunnel", parameters)
        tunnel_id: str = opened["tunnelId"]
        with contextlib.ExitStack() as undo:
            stack = contextlib.AsyncExitStack()
            undo.callback(lambda: loop.run(stack.aclose()))
            # Before that, so that the proxies end in order.
            undo.callback(self._close, tunnel_id)
            tokens = {side: Secret(opened[f"{side.value}AccessToken"]) for side in Side}
            ends = loop.run(service.connect(stack, tokens, applications))
            self._undo.push(undo.pop_all())
        return LocalTunnel(tunnel_id, service, ends)

    def close(self) -> None:
        """Close all tunnels."""
        self._undo.close()

    def _close(self, tunnel_id: str) -> None:
        # A test may have closed it.
        with contextlib.suppress(CallRefused):
            parameters = {"tunnelId": tunnel_id, "delete": True}
            self._service.control_client().call("CloseTunnel", parameters)


class ServiceInThread:
    """A :class:`tailrace.Service` that runs in a thread, and whose links can be disturbed."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @property
    def endpoints(self) -> Endpoints:
        """How clients reach the service.

        Example::

            host, _, port = tailrace_service.endpoints.data_endpoint.rpartition(":")
        """
        return self._runtime.endpoints

    def environment(self) -> dict[str, str]:
        """Return the variables that ``tailrace env`` prints, for clients in other processes.

        Example::

            subprocess.run(command, env={**os.environ, **tailrace_service.environment()})
        """
        found = self._runtime.service.environment()
        return found | {"AWSIOT_TUNNEL_ENDPOINT": self.endpoints.data_endpoint}

    def client(self) -> Client:
        """Return a client of the control API that need not be closed, for any event loop.

        Example::

            opened = asyncio.run(tailrace_service.client().open(services=["SSH"]))
        """
        return LooplessClient(self.endpoints)

    def control_client(self, timeout: float = 30.0) -> ControlClient:
        """Return a client of the control API whose calls block.

        ``timeout`` is in seconds, for each step of a call.

        Example::

            tailrace_service.control_client().call("ListTunnels", {})
        """
        return self._runtime.control_client(timeout)

    @contextlib.contextmanager
    def tunnels(self) -> Iterator[TunnelFactory]:
        """Open tunnels within a block; they are closed at its end.

        Example::

            with tailrace_service.tunnels() as open_tunnel:
                tunnel = open_tunnel(HTTP=8080)
        """
        with contextlib.closing(TunnelFactory(self._runtime)) as factory:
            yield factory

    def cut(self) -> None:
        """Reset the links of all local proxies, whoever runs them.

        Those of :class:`TunnelFactory` have noticed when the method returns.

        Raises:
            TimedOut: one of these has not noticed within 30 s.

        Example::

            tailrace_service.cut()
        """

        async def cut() -> None:
            before = {end: end.losses for end in self._runtime.ends if end.is_connected}
            self._runtime.front.cut()
            for end, losses in before.items():
                await end.lost(losses)

        self._runtime.loop.run(cut())

    def silence(self) -> AbstractContextManager[None]:
        """Let nothing through any link for as long as a ``with`` block lasts, and tell nobody.

        What is sent meanwhile is not lost: it arrives when the block ends.

        Example::

            with tailrace_service.silence():
                ...
        """
        return in_background(self._runtime.loop, silenced([self._runtime.front]))

    def throttle(self, bytes_per_second: float = AWS_BANDWIDTH) -> AbstractContextManager[None]:
        """Slow each link down for as long as a ``with`` block lasts, see the tunnel's method.

        Raises:
            ConfigurationError: the rate is not more than 0.

        Example::

            with tailrace_service.throttle():
                client.sendall(firmware)
        """
        return in_background(self._runtime.loop, throttled([self._runtime.front], bytes_per_second))

    def refuse(self, status: int | None = None) -> AbstractContextManager[None]:
        """Refuse all new links for as long as a ``with`` block lasts, see the tunnel's method.

        Raises:
            ConfigurationError: the status is not one of HTTP, 400 or above.

        Example::

            with tailrace_service.refuse(503):
                tailrace_service.cut()
        """
        runtime = self._runtime
        return in_background(runtime.loop, refused([runtime.front], status, runtime.service.tls))

    def expire(self, tunnel_id: str) -> None:
        """End a tunnel as if its lifetime were over.

        Raises:
            TunnelNotFound: there is no such tunnel, or it is closed.

        Example::

            tailrace_service.expire(opened.tunnel_id)
        """
        self._runtime.expire(tunnel_id)


@contextlib.contextmanager
def service_in_thread(settings: Mapping[str, Any]) -> Iterator[ServiceInThread]:
    """Run a service in a thread; ``settings`` are arguments of :class:`tailrace.Service`.

    Its log is of level INFO, which pytest shows with tests that fail.

    Raises:
        ConfigurationError: the settings are wrong, or packages are missing.
        ListenError: an address cannot be bound.

    Example::

        @pytest.fixture(scope="module")
        def tailrace_service():
            with service_in_thread({"limits": "aws"}) as service:
                yield service
    """
    with running(settings) as runtime:
        yield ServiceInThread(runtime)


def _application(service_id: str, where: int | str) -> TCPAddress:
    address = parse_address(str(where), service_id)
    if not address.port:
        raise ConfigurationError(f"{service_id}: port 0 is not the port of an application")
    return TCPAddress(address.host, address.port)
