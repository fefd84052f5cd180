"""One end of a tunnel in a program: an asynchronous context manager around the engine."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Final, Self
from weakref import WeakSet

from ..common.addresses import TCPAddress, format_host_port, is_host_name, is_ipv6
from ..common.secret import Secret
from ..errors import (
    ConfigurationError,
    LocalProtocolError,
    OpenFailed,
    TailraceError,
    TimedOut,
    TunnelClosed,
)
from ..localproxy.events import ProxyEvent, ServicesMapped
from ..localproxy.listener import Listener
from ..localproxy.proxy import LocalProxy
from ..localproxy.routes import SocketFactory
from ..localproxy.settings import ProxySettings
from ..localproxy.status import PeerPresence, TunnelStatus
from ..wire import Side
from .advice import NETWORK_ADVICE, advised, with_advice
from .application import Application
from .event_stream import EventStream, TunnelEvent
from .service_map import ServiceMap
from .settings import RESUME_TIMEOUT, DialectName, check_seconds, proxy_settings, secret

__all__ = ["DestinationTunnel", "SourceTunnel", "Tunnel", "TunnelListener"]

_PATIENCE: Final = 30.0
"""Seconds to wait for the service on entry, unless the program says otherwise."""
_MAX_PORT: Final = 65_535
_THERE: Final = frozenset({PeerPresence.CONNECTED, PeerPresence.UNTOLD})
"""Presence with which waiting for the peer is over: there is no more to wait for."""


class Tunnel:
    """One end of a tunnel; made by :meth:`source` or :meth:`destination`, and entered once.

    Entering connects to the service and waits until the tunnel can be used. The link is set up
    again whenever it is lost, with the same access token. Leaving the block ends this end of the
    tunnel: connections that are still open are reset, and what was received for them can be taken
    for up to 5 seconds. The tunnel itself stays open at the service.

    Everything belongs to the event loop of the task that enters; nothing is safe to call from
    another thread. What goes wrong with a connection or a handler is logged to the logger
    ``tailrace``, without any token; all else is told by :meth:`events`.

    Example::

        async with tailrace.Tunnel.source(token, region="eu-central-1") as tunnel:
            await tunnel.wait_peer(timeout=30)
            reader, writer = await tunnel.open_connection("SSH")
    """

    def __init__(self, settings: ProxySettings, timeout: float | None) -> None:
        check_seconds("timeout", timeout)
        self._settings = settings
        self._timeout = timeout
        self._proxy = LocalProxy(settings)
        self._proxy.subscribe(self._happened)
        self._streams: WeakSet[EventStream] = WeakSet()
        self._running: asyncio.Task[None] | None = None
        self._closing = False
        self._mapped = False
        """Whether the services of the tunnel were settled, on any link so far."""
        self._failure: BaseException | None = None
        self._change: asyncio.Future[None] | None = None

    @staticmethod
    def source(
        token: str | Secret,
        *,
        region: str | None = None,
        endpoint: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        client_token: str | Secret | None = None,
        dialect: DialectName | None = None,
        timeout: float | None = _PATIENCE,
        renewal_timeout: float = 0.0,
        resume_timeout: float = RESUME_TIMEOUT,
    ) -> SourceTunnel:
        """Return the source of a tunnel, the end that opens connections. It is not entered yet.

        Args:
            token: the source access token, as a string or as :meth:`Client.open` returns it.
            region: AWS region in which the tunnel was opened, as ``"eu-central-1"``.
            endpoint: ``"HOST"`` or ``"HOST:PORT"`` of the service instead of a region. Without
                either, the environment says which: ``AWSIOT_TUNNEL_ENDPOINT`` or
                ``AWSIOT_TUNNEL_REGION``.
            ca: file or directory of PEM certificates to trust besides the system's, which
                ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` replace.
            client_token: 32 to 128 letters, digits and hyphens. An access token is good only with
                the client token of its first use. ``None`` makes one: see :attr:`client_token`.
            dialect: ``"V1"`` or ``"V2"`` for a destination that speaks an older version of the
                protocol, one connection at a time for each service: V1 for AWS' Device Client and
                Greengrass. ``None`` finds out, unless the destination stays silent: that is the
                event :class:`PeerSilent`.
            timeout: seconds that entering may take; ``None``: for ever.
            renewal_timeout: seconds to wait for :meth:`renew` when the service says that the
                access token was rotated; 0: the tunnel then fails with :class:`TokenRotated`.
            resume_timeout: seconds, at most a day, for which open connections wait for a lost link,
                or a peer that has left, to come back; 0: they end at once. Without a service and a
                peer of this project they always do.

        A web proxy is taken from ``https_proxy``, unless ``no_proxy`` has the endpoint.

        Raises:
            ConfigurationError: an argument or a variable of the environment is not valid.

        Example::

            async with tailrace.Tunnel.source(token) as tunnel:
                sock = await tunnel.open_socket("SSH")
        """
        settings = proxy_settings(
            Side.SOURCE,
            token,
            os.environ,
            region=region,
            endpoint=endpoint,
            ca=ca,
            client_token=client_token,
            dialect=dialect,
            renewal_timeout=renewal_timeout,
            resume_timeout=resume_timeout,
        )
        return SourceTunnel(settings, timeout)

    @staticmethod
    def destination(
        token: str | Secret,
        services: Mapping[str, Application | SocketFactory] | ServiceMap,
        *,
        region: str | None = None,
        endpoint: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        client_token: str | Secret | None = None,
        timeout: float | None = _PATIENCE,
        renewal_timeout: float = 0.0,
        resume_timeout: float = RESUME_TIMEOUT,
    ) -> DestinationTunnel:
        """Return the destination of a tunnel, the end that serves connections.

        It is not entered yet.

        Args:
            token: the destination access token, as for :meth:`source`.
            services: service id -> ``"HOST:PORT"``, a port of this machine, ``"unix:PATH"``, or
                ``async def handler(reader, writer)``. A handler's connection ends when it returns;
                when it raises anything but a ``ConnectionError``, that is logged and the connection
                is reset. It is cancelled when the tunnel ends. Each service of the tunnel needs
                one of them; a :class:`ServiceMap` may change, and serves only those that it has.
            region, endpoint, ca, client_token, timeout, renewal_timeout, resume_timeout: as for
                :meth:`source`.

        Raises:
            ConfigurationError: an argument or a variable of the environment is not valid.

        Example::

            async with tailrace.Tunnel.destination(token, {"SSH": "localhost:22"}) as tunnel:
                await tunnel.wait_closed()
        """
        settings = proxy_settings(
            Side.DESTINATION,
            token,
            os.environ,
            services=services,
            region=region,
            endpoint=endpoint,
            ca=ca,
            client_token=client_token,
            renewal_timeout=renewal_timeout,
            resume_timeout=resume_timeout,
        )
        return DestinationTunnel(settings, timeout)

    @property
    def client_token(self) -> str:
        """The client token, given or made; with it, the access token can be used again.

        It is as secret as the access token.

        Example: ``path.write_text(tunnel.client_token)``
        """
        return self._proxy.client_token.reveal()

    async def __aenter__(self) -> Self:
        """Connect, and wait until the tunnel can be used.

        Raises:
            TimedOut: the service was not reached in ``timeout`` seconds.
            TailraceError: it cannot be used at all; :attr:`TailraceError.advice` says what to do.
        """
        if self._running is not None:
            raise LocalProtocolError("a tunnel is entered once; make another one")
        self._running = asyncio.get_running_loop().create_task(self._run())
        try:
            await self._until(self._is_mapped, self._timeout)
        except TimeoutError:
            await self.close()
            raise self._unreached() from None
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End this end of the tunnel, as :meth:`close`."""
        await self.close()

    async def close(self) -> None:
        """End this end of the tunnel, and wait until it has ended; leaving the block does so, too.

        Takes at most about 6 seconds. If it is cancelled, all that is left is closed at once.

        Example: ``await tunnel.close()``
        """
        running = self._running
        if running is None or running.done():
            return
        if not self._closing:
            # A second stop would end the proxy without waiting for its connections.
            self._closing = True
            self._proxy.stop()
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError:
            running.cancel()
            await asyncio.wait([running])
            raise

    def renew(self, token: str | Secret) -> None:
        """Use a new access token, that of a rotation, from the next link on.

        The open link stays until the service ends it, as it does with a token that was rotated;
        the one that follows has the new token and the same client token. A service that ends the
        link first, before its new token has come here, is the reason for ``renewal_timeout``.

        Args:
            token: an access token of the same tunnel and side.

        Raises:
            ConfigurationError: it cannot be sent as it is.
            TunnelClosed: the tunnel has ended.

        Example: ``tunnel.renew(rotated.destination_token)``
        """
        self._require_open()
        self._proxy.renew(secret("token", token))

    async def wait_peer(self, timeout: float | None = None) -> None:
        """Wait until the other side of the tunnel is connected.

        A service that does not tell, as AWS' does not, has nothing to wait for: then this returns
        as soon as there is a link. ``status().peer`` tells the two apart.

        Args:
            timeout: seconds to wait at most; ``None``: for ever.

        Raises:
            TimedOut: it was not connected in time.
            TunnelClosed: the tunnel has ended.

        Example: ``await tunnel.wait_peer(timeout=30)``
        """
        check_seconds("timeout", timeout)
        try:
            await self._until(self._is_peer_there, timeout)
        except TimeoutError:
            other = self._settings.side.other.value
            raise with_advice(
                TimedOut(f"no {other} has connected to the tunnel within {timeout:g} s"),
                f"Start the {other} with the {other} token of this tunnel",
            ) from None

    async def wait_closed(self) -> None:
        """Wait until the tunnel has been closed or has expired, or this end of it was closed.

        Raises:
            TailraceError: the tunnel has failed: its token was rotated, for example.

        Example: ``await tunnel.wait_closed()``
        """
        if not self._entered().done():
            await asyncio.wait([self._entered()])
        if self._failure is not None:
            raise self._failure

    def status(self) -> TunnelStatus:
        """Return what this end of the tunnel is doing: link, peer, connections. Never waits.

        Example: ``print(tunnel.status().link.round_trip)``
        """
        return self._proxy.status()

    def events(self) -> AsyncIterator[TunnelEvent]:
        """Return an iterator over what happens from now on, until the tunnel has ended.

        Each call gives an iterator of its own; called before the tunnel is entered, it has all.
        It keeps up to 10,000 events that were not taken; of more, the oldest are lost, and
        :class:`EventsDropped` stands in their place.

        Example::

            async for event in tunnel.events():
                match event:
                    case tailrace.PeerLeft():
                        print("the device has gone")
        """
        stream = EventStream()
        if self._running is not None and self._running.done():
            stream.end()
        self._streams.add(stream)
        return stream

    def __repr__(self) -> str:
        place = format_host_port(self._settings.host, self._settings.port)
        phase = self._proxy.status().link.phase.value
        return f"<{type(self).__name__} at {place}: {phase}>"

    # -- what happens -----------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._proxy.run()
        except TailraceError as error:
            self._failure = advised(error, self._settings)
        except Exception as error:
            self._failure = error
        finally:
            self._changed()
            for stream in list(self._streams):
                stream.end()

    def _happened(self, event: ProxyEvent) -> None:
        self._mapped = self._mapped or isinstance(event, ServicesMapped)
        for stream in list(self._streams):
            stream.put(event)
        self._changed()

    def _changed(self) -> None:
        if self._change is not None:
            self._change.set_result(None)
            self._change = None

    def _is_mapped(self) -> bool:
        return self._mapped

    def _is_peer_there(self) -> bool:
        return self._proxy.peer in _THERE

    async def _until(self, condition: Callable[[], bool], timeout: float | None) -> None:
        """Wait for a condition, which only events change.

        Raises:
            TimeoutError: it does not hold in time.
            TunnelClosed: the tunnel has ended.
        """
        async with asyncio.timeout(timeout):
            while not condition():
                self._require_open()
                if self._change is None:
                    self._change = asyncio.get_running_loop().create_future()
                # Shielded, because others wait for it, too.
                await asyncio.shield(self._change)

    def _entered(self) -> asyncio.Task[None]:
        if self._running is None:
            raise LocalProtocolError("the tunnel was not entered: use async with")
        return self._running

    def _require_open(self) -> None:
        if self._entered().done():
            if isinstance(self._failure, TailraceError) and not self._mapped:
                raise self._failure
            cause = f": {self._failure}" if self._failure is not None else ""
            raise self._advised(TunnelClosed(f"the tunnel has ended{cause}")) from self._failure

    def _advised(self, error: OpenFailed) -> OpenFailed:
        return advised(error, self._settings, self._proxy.service_ids)

    def _unreached(self) -> TimedOut:
        """Return why entering has taken too long."""
        link = self._proxy.status().link
        cause = f": {link.last_cause}" if link.last_cause else ""
        return with_advice(
            TimedOut(
                f"the tunnel could not be used within {self._timeout:g} s at {link.endpoint}{cause}"
            ),
            NETWORK_ADVICE,
        )


class SourceTunnel(Tunnel):
    """The source of a tunnel: opens connections to the services of the other side.

    Example::

        async with tailrace.Tunnel.source(token) as tunnel:
            server = await tunnel.listen("HTTP", "127.0.0.1", 8080)
            await tunnel.wait_closed()
    """

    def __init__(
        self, settings: ProxySettings, timeout: float | None, tunnel_id: str | None = None
    ) -> None:
        super().__init__(settings, timeout)
        self._tunnel_id = tunnel_id

    @property
    def tunnel_id(self) -> str | None:
        """The tunnel's id at the service, known where :func:`connect` has opened or taken it.

        ``None`` otherwise: a token does not tell.

        Example: ``await client.close(tunnel.tunnel_id)``
        """
        return self._tunnel_id

    async def open_connection(
        self, service: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a service; return asyncio streams that behave as those of a TCP connection.

        Waits while there is no link. That the other side cannot reach its application is not known
        here yet: the reader then raises ``ConnectionResetError``. So it does when the connection is
        cut, after everything that had arrived. An end in order is an end of file. After
        ``write_eof`` the answer can still be read, for as long as there are never 5 seconds
        without news. ``writer.drain()`` waits while the other side takes nothing; a reader that is
        not read holds up no other connection.

        Args:
            service: a service id of the tunnel, as ``"SSH"``.

        Raises:
            OpenFailed: the tunnel has no such service, or has too many connections.
            TunnelClosed: the tunnel has ended.

        Example::

            reader, writer = await tunnel.open_connection("SSH")
            print(await reader.readline())
            writer.close()
        """
        self._require_open()
        try:
            return await self._proxy.open_connection(service)
        except OpenFailed as error:
            raise self._advised(error) from self._failure

    async def open_socket(self, service: str) -> socket.socket:
        """Connect to a service as :meth:`open_connection`; return a connected TCP socket.

        It is non-blocking and the caller's to close. For libraries that take a socket. Its other
        end is in this process, so what uses it must not block the event loop: a library that
        blocks needs a thread of its own.

        Raises:
            OpenFailed: as :meth:`open_connection`, or this process can have no more sockets.
            TunnelClosed: the tunnel has ended.

        Example::

            sock = await tunnel.open_socket("SSH")
            connection = await asyncssh.connect(sock=sock, known_hosts=None)
        """
        self._require_open()
        try:
            return await self._proxy.open_socket(service)
        except OpenFailed as error:
            raise self._advised(error) from self._failure

    async def listen(self, service: str, host: str = "127.0.0.1", port: int = 0) -> TunnelListener:
        """Listen at a local address; each client that connects gets a connection to the service.

        While there is no link, clients wait. Every program that can reach the address can use
        the tunnel.

        Args:
            service: a service id of the tunnel.
            host: IP address without brackets, or host name, which is bound on all its addresses.
            port: 0 to 65535; 0 picks a free one, which stays the same over lost links.

        Raises:
            ConfigurationError: host or port cannot be.
            ListenError: the address is taken, or not of this machine.
            OpenFailed: the tunnel has no such service.
            TunnelClosed: the tunnel has ended.

        Example::

            server = await tunnel.listen("HTTP", "127.0.0.1", 0)
            print(f"http://{server.host}:{server.port}/")
        """
        self._require_open()
        if not isinstance(host, str) or not (is_host_name(host) or is_ipv6(host)):
            raise ConfigurationError(f"host={host!r} is neither an IP address nor a host name")
        if not isinstance(port, int) or not 0 <= port <= _MAX_PORT:
            raise ConfigurationError(f"port={port!r} is not a number in 0..{_MAX_PORT}")
        try:
            listener = self._proxy.listen(service, TCPAddress(host, port))
        except OpenFailed as error:
            raise self._advised(error) from None
        except TailraceError as error:
            raise advised(error, self._settings) from None
        return TunnelListener(self._proxy, service, listener)


class DestinationTunnel(Tunnel):
    """The destination of a tunnel: serves connections that the source opens.

    Example::

        async def handler(reader, writer):
            writer.write(await reader.readline())

        async with tailrace.Tunnel.destination(token, {"ECHO": handler}) as tunnel:
            await tunnel.wait_closed()
    """


class TunnelListener:
    """A local address where a service can be reached; made by :meth:`SourceTunnel.listen`.

    Closed by :meth:`close`, at the end of a ``with`` block, or with the tunnel.

    Example::

        with await tunnel.listen("SSH", port=2222) as server:
            subprocess.run(["ssh", "-p", str(server.port), server.host])
    """

    def __init__(self, proxy: LocalProxy, service: str, listener: Listener) -> None:
        assert isinstance(listener.address, TCPAddress)
        self.service: Final = service
        """The service id."""
        self.host: Final = listener.address.host
        """Where it listens: IP address without brackets, or host name."""
        self.port: Final = listener.address.port
        """The port, 1 to 65535."""
        self._proxy = proxy
        self._listener = listener

    def close(self) -> None:
        """Listen no more; connections that are open go on.

        Example: ``server.close()``
        """
        self._proxy.close_listener(self._listener)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<TunnelListener of {self.service} at {format_host_port(self.host, self.port)}>"
