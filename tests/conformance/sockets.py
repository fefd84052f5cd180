"""TCP connections that do nothing by themselves: clients and applications.

Nothing is read before a script reads it, so that the kernel's buffers fill up when it
does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Final

from conformance.progress import waiting
from support.network.sockets import reset

__all__ = ["Application", "Socket", "connect"]

_CHUNK: Final = 65536
_POLL: Final = 0.02


class Socket:
    """One end of a TCP connection."""

    def __init__(self, sock: socket.socket, name: str) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self.name = name

    @property
    def peer(self) -> tuple[str, int]:
        """Address of the other end."""
        host, port, *_ = self._sock.getpeername()
        return host, port

    @property
    def port(self) -> int:
        """Port of this end."""
        return int(self._sock.getsockname()[1])

    async def send(self, data: bytes) -> None:
        """Send all of ``data``."""
        waiting(f"{self.name}: to send {len(data)} bytes")
        await self._loop.sock_sendall(self._sock, data)
        await asyncio.sleep(0)  # what the system takes at once takes no turn of the loop

    async def fill(self, most: int, calm: float) -> int:
        """Send zeros until nothing has been taken for ``calm`` seconds; return how many were.

        Stops at ``most`` bytes.
        """
        sent = 0
        chunk = bytes(_CHUNK)
        room = asyncio.Event()
        while sent < most:
            try:
                sent += self._sock.send(chunk)
                await asyncio.sleep(0)
            except BlockingIOError:
                room.clear()
                self._loop.add_writer(self._sock, room.set)
                try:
                    async with asyncio.timeout(calm):
                        await room.wait()
                except TimeoutError:
                    break
                finally:
                    self._loop.remove_writer(self._sock)
        return sent

    async def receive(self, size: int) -> bytes:
        """Return exactly ``size`` bytes."""
        waiting(f"{self.name}: {size} bytes")
        data = bytearray()
        while len(data) < size:
            piece = await self._loop.sock_recv(self._sock, min(_CHUNK, size - len(data)))
            assert piece, f"{self.name}: ended after {len(data)} of {size} bytes"
            data += piece
        return bytes(data)

    async def expect(self, data: bytes) -> None:
        """Check what comes next."""
        received = await self.receive(len(data))
        if received != data:
            at = next(i for i in range(len(data)) if received[i] != data[i])
            raise AssertionError(f"{self.name}: other bytes than were sent, from byte {at} on")

    async def rest(self) -> bytes:
        """Return what comes until the other side ends the connection."""
        waiting(f"{self.name}: the end of the connection")
        data = bytearray()
        with contextlib.suppress(ConnectionError):
            while piece := await self._loop.sock_recv(self._sock, _CHUNK):
                data += piece
        return bytes(data)

    async def expect_end(self, last: bytes = b"") -> None:
        """Check that nothing but ``last`` comes before the end."""
        received = await self.rest()
        assert received == last, (
            f"{self.name}: {len(received)} bytes before the end instead of {len(last)}"
        )

    async def expect_eof(self, last: bytes = b"") -> None:
        """Check that nothing but ``last`` comes before an orderly end."""
        await self.expect(last)
        waiting(f"{self.name}: end of file")
        try:
            more = await self._loop.sock_recv(self._sock, _CHUNK)
        except ConnectionError:
            raise AssertionError(f"{self.name}: reset instead of end of file") from None
        assert not more, f"{self.name}: {len(more)} bytes instead of end of file"

    async def expect_cut(self, last: bytes, *, told: bool) -> None:
        """Check that ``last`` comes, and then the end of a connection that was cut.

        ``told``: by a reset, so that nobody takes it for an end in order.
        """
        if not told:
            return await self.expect_eof(last)
        await self.expect(last)
        waiting(f"{self.name}: a reset")
        try:
            more = await self._loop.sock_recv(self._sock, _CHUNK)
        except ConnectionResetError:
            return None
        raise AssertionError(f"{self.name}: {len(more)} bytes, or end of file, instead of a reset")

    def widen(self, buffer: int) -> None:
        """Set the size of the receive buffer, in bytes."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)

    def half_close(self) -> None:
        """Send end of file; go on receiving."""
        self._sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """End with a TCP reset."""
        reset(self._sock)

    def close(self) -> None:
        self._sock.close()


async def connect(
    port: int, host: str = "127.0.0.1", buffer: int = 0, what: str = "a listener"
) -> Socket:
    """Connect to a port, once somebody listens there.

    Args:
        buffer: size of the receive buffer, in bytes.
        what: says what is waited for, while nobody does.
    """
    waiting(what)
    loop = asyncio.get_running_loop()
    while True:
        sock = socket.socket()
        try:
            sock.setblocking(False)
            if buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            await loop.sock_connect(sock, (host, port))
        except ConnectionError:
            sock.close()
            await asyncio.sleep(_POLL)
        except BaseException:
            sock.close()
            raise
        else:
            return Socket(sock, "the client")


class Application:
    """A listening application; accepts when a script asks."""

    def __init__(self, port: int = 0, host: str = "127.0.0.1", buffer: int = 0) -> None:
        self._listener = socket.socket()
        if buffer:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((host, port))
        self._listener.listen(1024)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[Socket] = []

    async def accept(self) -> Socket:
        """Return the next connection."""
        waiting("a connection to the application")
        sock, _ = await asyncio.get_running_loop().sock_accept(self._listener)
        accepted = Socket(sock, f"connection {len(self._sockets) + 1} of the application")
        self._sockets.append(accepted)
        return accepted

    def stop_listening(self) -> None:
        """Refuse further connections; those there are stay."""
        self._listener.close()

    def close(self) -> None:
        self.stop_listening()
        for sock in self._sockets:
            sock.close()
