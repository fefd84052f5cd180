"""One end of a tunnel in a program that blocks: :mod:`tailrace.library.tunnel` in a thread."""

from __future__ import annotations

import asyncio
import io
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar

from .. import library
from ..aws import Secret
from ..errors import ConfigurationError, TimedOut
from ..library import TunnelEvent, TunnelStatus
from ..library.service_map import check_mapping
from ..library.settings import RESUME_TIMEOUT, DialectName, check_seconds
from .block import Block
from .handlers import Application, Handlers

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = [
    "DestinationTunnel",
    "SourceTunnel",
    "Tunnel",
    "TunnelConnection",
    "TunnelListener",
]

_PATIENCE: Final = 30.0
"""Seconds to wait for the service on entry, unless the program says otherwise."""
_THREADS: Final = 100
"""Handlers of a destination that run at the same time, unless the program says otherwise."""

_Result = TypeVar("_Result")


class Tunnel:
    """One end of a tunnel; made by :meth:`source` or :meth:`destination`, and entered once.

    It is :class:`tailrace.Tunnel` for code that blocks, and takes and raises the same. Its methods
    may be called from any thread, at the same time.

    Example::

        with tailrace.sync.Tunnel.source(token, region="eu-central-1") as tunnel:
            tunnel.wait_peer(timeout=30)
            sock = tunnel.open_socket("SSH")
    """

    def __init__(self, tunnel: library.Tunnel, block: Block[object] | None = None) -> None:
        self._tunnel = tunnel
        self._block = block or Block(tunnel, "tunnel")

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
            token: the source access token.
            region, endpoint, ca, client_token, dialect: as for :meth:`tailrace.Tunnel.source`.
            timeout: seconds that entering may take; ``None``: for ever.
            renewal_timeout: seconds to wait for :meth:`renew` when the access token was rotated.
            resume_timeout: seconds, at most a day, for which open connections wait for a lost link,
                or a peer that has left, to come back; 0: they end at once.

        Raises:
            ConfigurationError: an argument or a variable of the environment is not valid.

        Example::

            with tailrace.sync.Tunnel.source(token) as tunnel:
                sock = tunnel.open_socket("SSH")
        """
        return SourceTunnel(
            library.Tunnel.source(
                token,
                region=region,
                endpoint=endpoint,
                ca=ca,
                client_token=client_token,
                dialect=dialect,
                timeout=timeout,
                renewal_timeout=renewal_timeout,
                resume_timeout=resume_timeout,
            )
        )

    @staticmethod
    def destination(
        token: str | Secret,
        services: Mapping[str, Application],
        *,
        region: str | None = None,
        endpoint: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        client_token: str | Secret | None = None,
        timeout: float | None = _PATIENCE,
        renewal_timeout: float = 0.0,
        resume_timeout: float = RESUME_TIMEOUT,
        max_threads: int = _THREADS,
    ) -> DestinationTunnel:
        """Return the destination of a tunnel, the end that serves connections.

        It is not entered yet.

        Args:
            token: the destination access token.
            services: service id -> ``"HOST:PORT"``, a port of this machine, ``"unix:PATH"``, or
                ``def handler(sock)``. A handler is called for each connection, in a thread of its
                own, with a connected, blocking TCP socket. The connection ends when it returns;
                when it raises anything but a ``ConnectionError``, that is logged and the connection
                is reset. When the tunnel ends, its socket is reset.
            region, endpoint, ca, client_token, timeout, renewal_timeout, resume_timeout: as for
                :meth:`source`.
            max_threads: how many handlers run at the same time, 1 or more; further connections wait
                until one has returned.

        Raises:
            ConfigurationError: an argument or a variable of the environment is not valid.

        Example::

            with tailrace.sync.Tunnel.destination(token, {"SSH": "localhost:22"}) as tunnel:
                tunnel.wait_closed()
        """
        if isinstance(services, library.ServiceMap):
            raise ConfigurationError("a ServiceMap belongs to an event loop: give a dictionary")
        check_mapping(services)
        handlers = Handlers(max_threads)
        tunnel = library.Tunnel.destination(
            token,
            {name: handlers.application(name, each) for name, each in services.items()},
            region=region,
            endpoint=endpoint,
            ca=ca,
            client_token=client_token,
            timeout=timeout,
            renewal_timeout=renewal_timeout,
            resume_timeout=resume_timeout,
        )
        return DestinationTunnel(tunnel, handlers)

    @property
    def client_token(self) -> str:
        """The client token, given or made; with it, the access token can be used again.

        It is as secret as the access token.

        Example: ``path.write_text(tunnel.client_token)``
        """
        return self._tunnel.client_token

    def __enter__(self) -> Self:
        """Connect, and wait until the tunnel can be used.

        Raises:
            TimedOut: the service was not reached in ``timeout`` seconds.
            TailraceError: it cannot be used at all; :attr:`TailraceError.advice` says what to do.
        """
        self._block.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End this end of the tunnel, as :meth:`close`."""
        self._block.__exit__(kind, error, traceback)

    def close(self) -> None:
        """End this end of the tunnel, and wait until it has ended; leaving the block does so, too.

        Takes at most about 6 seconds. Calls of other threads that wait end with it.

        Example: ``tunnel.close()``
        """
        if self._block.is_used:
            self._block.run(self._tunnel.close())

    def wait_peer(self, timeout: float | None = None) -> None:
        """Wait until the other side of the tunnel is connected.

        A service that does not tell, as AWS' does not, has nothing to wait for: then this returns
        as soon as there is a link. ``status().peer`` tells the two apart.

        Args:
            timeout: seconds to wait at most; ``None``: for ever.

        Raises:
            TimedOut: it was not connected in time.
            TunnelClosed: the tunnel has ended.

        Example: ``tunnel.wait_peer(timeout=30)``
        """
        self._block.run(self._tunnel.wait_peer(timeout))

    def wait_closed(self, *, timeout: float | None = None) -> None:
        """Wait until the tunnel has been closed or has expired, or this end of it was closed.

        Args:
            timeout: seconds to wait at most; ``None``: for ever.

        Raises:
            TimedOut: it was not closed in time.
            TailraceError: the tunnel has failed: its token was rotated, for example.

        Example: ``tunnel.wait_closed()``
        """
        self._block.run(
            _within(timeout, self._tunnel.wait_closed, "the tunnel was not closed within")
        )

    def renew(self, token: str | Secret) -> None:
        """Use a new access token, that of a rotation, from the next link on.

        All else is as with :meth:`tailrace.Tunnel.renew`.

        Args:
            token: an access token of the same tunnel and side.

        Raises:
            ConfigurationError: it cannot be sent as it is.
            TunnelClosed: the tunnel has ended.

        Example: ``tunnel.renew(rotated.destination_token)``
        """

        async def renew() -> None:
            self._tunnel.renew(token)

        self._block.run(renew())

    def status(self) -> TunnelStatus:
        """Return what this end of the tunnel is doing: link, peer, connections. Never waits.

        Example: ``print(tunnel.status().link.round_trip)``
        """
        return self._block.call(self._tunnel.status)

    def events(self) -> Iterator[TunnelEvent]:
        """Return an iterator over what happens from now on, until the tunnel has ended.

        Its ``next`` waits for the next event. All else is as with :meth:`tailrace.Tunnel.events`.

        Example::

            for event in tunnel.events():
                match event:
                    case tailrace.PeerLeft():
                        print("the device has gone")
        """
        return _Events(self._block, self._block.call(self._tunnel.events))

    def __repr__(self) -> str:
        return f"<sync.{repr(self._tunnel)[1:]}"


class SourceTunnel(Tunnel):
    """The source of a tunnel: opens connections to the services of the other side.

    Example::

        with tailrace.sync.Tunnel.source(token) as tunnel:
            server = tunnel.listen("HTTP", "127.0.0.1", 8080)
            tunnel.wait_closed()
    """

    def __init__(self, tunnel: library.SourceTunnel, block: Block[object] | None = None) -> None:
        super().__init__(tunnel, block)
        self._source = tunnel

    @property
    def tunnel_id(self) -> str | None:
        """The tunnel's id at the service, known where :func:`connect` has opened or taken it.

        ``None`` otherwise: a token does not tell.

        Example: ``client.close(tunnel.tunnel_id)``
        """
        return self._source.tunnel_id

    def open_connection(self, service: str, *, timeout: float | None = None) -> TunnelConnection:
        """Connect to a service; return a binary file to read from and to write to.

        Waits while there is no link. All else is as with :meth:`open_socket`.

        Args:
            service: a service id of the tunnel, as ``"SSH"``.
            timeout: seconds to wait at most; ``None``: for ever.

        Raises:
            OpenFailed: the tunnel has no such service, or too many connections; or this process can
                have no more sockets.
            TunnelClosed: the tunnel has ended.
            TimedOut: there was no link in time.

        Example::

            with tunnel.open_connection("SSH") as connection:
                print(connection.readline())
        """
        return TunnelConnection(self.open_socket(service, timeout=timeout))

    def open_socket(self, service: str, *, timeout: float | None = None) -> socket.socket:
        """Connect to a service; return a connected TCP socket, which blocks and is yours to close.

        For libraries that take a socket: ``settimeout``, ``makefile`` and TLS work as with any. Its
        other end is in this process. That the other side cannot reach its application is not known
        here yet: ``recv`` then raises ``ConnectionResetError``. So it does when the connection is
        cut, after everything that had arrived. An end in order is an end of file.

        Args:
            service: a service id of the tunnel, as ``"SSH"``.
            timeout: seconds to wait at most; ``None``: for ever.

        Raises:
            OpenFailed, TunnelClosed, TimedOut: as :meth:`open_connection`.

        Example::

            transport = paramiko.Transport(tunnel.open_socket("SSH"))
        """
        opened: list[socket.socket] = []

        async def work() -> None:
            opened.append(await self._source.open_socket(service))

        what = f"no connection to {service} could be opened within"
        try:
            self._block.run(_within(timeout, work, what))
            opened[0].setblocking(True)
        except BaseException:
            for each in opened:  # interrupted when there was one
                each.close()
            raise
        return opened[0]

    def listen(self, service: str, host: str = "127.0.0.1", port: int = 0) -> TunnelListener:
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

            server = tunnel.listen("HTTP", "127.0.0.1", 0)
            print(urlopen(f"http://{server.host}:{server.port}/").read())
        """
        listener = self._block.run(self._source.listen(service, host, port))
        return TunnelListener(listener, self._block)


class DestinationTunnel(Tunnel):
    """The destination of a tunnel: serves connections that the source opens.

    Leaving the block waits for handlers that still run, for 5 seconds.

    Example::

        def handler(sock):
            sock.sendall(sock.recv(1024))

        with tailrace.sync.Tunnel.destination(token, {"ECHO": handler}) as tunnel:
            tunnel.wait_closed()
    """

    def __init__(self, tunnel: library.DestinationTunnel, handlers: Handlers) -> None:
        super().__init__(tunnel)
        self._handlers = handlers

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, traceback)
        self._handlers.join()


class TunnelConnection(io.BufferedReader):
    """A connection as a binary file: reads are buffered, each write is sent at once and whole.

    All that a file opened with ``"rb"`` has: ``read``, ``readline``, ``peek``, iteration over
    lines, ``with``; what cannot be done is to seek. An end of file means that the connection has
    ended in order; one that was cut raises ``ConnectionResetError`` after what had arrived.

    Example::

        with tunnel.open_connection("CMD") as connection:
            connection.write(b"uptime\\n")
            print(connection.readline())
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket: Final = sock
        super().__init__(sock.makefile("rb", buffering=0))

    @property
    def socket(self) -> socket.socket:
        """The socket; a timeout that it is given holds for reads and writes of the file, too.

        After a read that has timed out, nothing more can be read, as with any file of a socket.

        Example: ``connection.socket.settimeout(5)``
        """
        return self._socket

    def writable(self) -> bool:
        """Return True.

        Example: ``assert connection.writable()``
        """
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        """Send data, all of it; wait while the other side takes nothing. Return its size in bytes.

        Raises:
            ConnectionError: the connection has ended.

        Example: ``connection.write(b"uptime\\n")``
        """
        view = memoryview(data)
        self._socket.sendall(view)
        return view.nbytes

    def write_eof(self) -> None:
        """End the sending half; the answer can still be read.

        The protocol does not know half-closed connections: the answer is waited for until no data
        has come for 5 seconds.

        Raises:
            OSError: the connection has ended.

        Example: ``connection.write_eof()``
        """
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the connection; what was written is still sent.

        Example: ``connection.close()``
        """
        super().close()
        self._socket.close()


class TunnelListener:
    """A local address where a service can be reached; made by :meth:`SourceTunnel.listen`.

    Closed by :meth:`close`, at the end of a ``with`` block, or with the tunnel.

    Example::

        with tunnel.listen("SSH", port=2222) as server:
            subprocess.run(["ssh", "-p", str(server.port), server.host])
    """

    def __init__(self, listener: library.TunnelListener, block: Block[object]) -> None:
        self.service: Final = listener.service
        """The service id."""
        self.host: Final = listener.host
        """Where it listens: IP address without brackets, or host name."""
        self.port: Final = listener.port
        """The port, 1 to 65535."""
        self._listener = listener
        self._block = block

    def close(self) -> None:
        """Listen no more; connections that are open go on.

        Example: ``server.close()``
        """
        self._block.call(self._listener.close)

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
        return f"<sync.{repr(self._listener)[1:]}"


class _Events:
    """The events of a tunnel, one after the other."""

    def __init__(self, block: Block[object], events: AsyncIterator[TunnelEvent]) -> None:
        self._block = block
        self._events = events

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TunnelEvent:
        event = self._block.run_anytime(self._next())
        if event is None:
            raise StopIteration
        return event

    async def _next(self) -> TunnelEvent | None:
        return await anext(self._events, None)


async def _within(
    timeout: float | None, work: Callable[[], Awaitable[_Result]], what: str
) -> _Result:
    """Return the result of ``work``, which has to be in time.

    Raises:
        TimedOut: it is not; ``what`` is how the text begins.
    """
    check_seconds("timeout", timeout)
    try:
        async with asyncio.timeout(timeout) as bound:
            return await work()
    except TimeoutError:
        if not bound.expired():
            raise
        raise TimedOut(f"{what} {timeout:g} s") from None
