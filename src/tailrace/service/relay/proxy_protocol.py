"""The PROXY protocol, versions 1 and 2: who a client behind a load balancer really is.

Source: "The PROXY protocol", https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt.
The header stands in front of everything else, TLS included. :func:`header_size` and
:func:`read_header` are pure; :class:`ProxyListener` reads headers from sockets.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections import deque
from collections.abc import Iterable
from typing import Final, TypeAlias

from ...common.log_floods import flood_kind
from ...errors import RemoteProtocolError
from ..accept_filter import AcceptedSocket
from ..networks import Network, contains

__all__ = [
    "ClientAddress",
    "ProxyListener",
    "header_size",
    "read_header",
]

_log = logging.getLogger(__name__)

ClientAddress: TypeAlias = tuple[str, int]

_V2_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_V2_FIXED: Final = 16
_V2_MOST: Final = 4096
"""Bytes of a version 2 header that are read; type-length-values may make it long."""
_V1_START: Final = b"PROXY "
_V1_MOST: Final = 107
_LOCAL: Final = 0
_STREAM_FAMILIES: Final = {0x11: 4, 0x21: 16}
"""TCP over IPv4, TCP over IPv6: bytes of one address."""


def header_size(start: bytes) -> int | None:
    """Return the bytes of the header that ``start`` begins with, ``None`` when more are needed.

    Never says ``None`` when ``start`` holds bytes from behind the header.

    Raises:
        RemoteProtocolError: it is not the start of a header.
    """
    if start.startswith(_V2_SIGNATURE):
        if len(start) < _V2_FIXED:
            return None
        size = _V2_FIXED + int.from_bytes(start[14:16], "big")
        if size > _V2_MOST:
            raise RemoteProtocolError(f"PROXY header of {size} bytes")
        return size if len(start) >= size else None
    if start.startswith(_V1_START):
        end = start.find(b"\r\n", 0, _V1_MOST)
        if end < 0 and len(start) >= _V1_MOST:
            raise RemoteProtocolError("PROXY header line without an end")
        return None if end < 0 else end + 2
    if _V2_SIGNATURE.startswith(start) or _V1_START.startswith(start):
        return None
    raise RemoteProtocolError("no PROXY header")


def read_header(header: bytes) -> ClientAddress | None:
    """Return the client that a whole header names; ``None``: the proxy speaks for itself.

    Raises:
        RemoteProtocolError: the header is malformed.
    """
    return _read_v2(header) if header.startswith(_V2_SIGNATURE) else _read_v1(header)


def _read_v2(header: bytes) -> ClientAddress | None:
    version, command = header[12] >> 4, header[12] & 0x0F
    if version != 2 or command > 1:
        raise RemoteProtocolError("PROXY header of an unknown version or command")
    size = _STREAM_FAMILIES.get(header[13])
    if command == _LOCAL or size is None:
        return None
    if len(header) < _V2_FIXED + 2 * size + 4:
        raise RemoteProtocolError("PROXY header without addresses")
    address = ipaddress.ip_address(header[_V2_FIXED : _V2_FIXED + size])
    port = header[_V2_FIXED + 2 * size : _V2_FIXED + 2 * size + 2]
    return str(address), int.from_bytes(port, "big")


def _read_v1(header: bytes) -> ClientAddress | None:
    fields = header[:-2].decode("latin-1").split(" ")
    if fields[1] == "UNKNOWN":
        return None
    try:
        _, family, source, _, port, _ = fields
        version = {"TCP4": 4, "TCP6": 6}[family]
        address = ipaddress.ip_address(source)
        number = int(port)
        if address.version != version or not (port.isascii() and port.isdigit()) or number > 65535:
            raise ValueError
    except (ValueError, KeyError):
        raise RemoteProtocolError("PROXY header line is malformed") from None
    return str(address), number


class _Handover(socket.socket):
    """Looks like a listening socket to a server; its connections have been accepted before.

    One byte in the socket pair stands for each connection that is ready.
    """

    ready: deque[AcceptedSocket]

    def listen(self, backlog: int = 0, /) -> None:
        """Do nothing: the real socket listens."""

    def accept(self) -> tuple[socket.socket, object]:
        self.recv(1)
        connection = self.ready.popleft()
        return connection, connection.client


class ProxyListener:
    """Accepts connections in front of a server and reads their PROXY headers.

    Connections from ``trusted`` networks must begin with a header; what others send is
    not looked at, so that they can claim nothing. Hand :attr:`server_socket` to the
    server in place of the listening socket. It has to accept through the socket's
    methods, as asyncio and aiofastnet do; uvloop's own servers do not. When ``most``
    connections wait for their header, the one that has waited longest makes room.
    """

    __slots__ = ("_bell", "_handover", "_listening", "_most", "_pending", "_timeout", "_trusted")

    def __init__(
        self, listening: socket.socket, trusted: Iterable[Network], timeout: float, most: int
    ) -> None:
        self._listening = listening
        self._trusted = tuple(trusted)
        self._timeout = timeout
        self._most = most
        self._pending: dict[AcceptedSocket, tuple[bytearray, asyncio.TimerHandle]] = {}
        server, self._bell = socket.socketpair()
        self._bell.setblocking(False)
        self._handover = _Handover(fileno=server.detach())
        self._handover.setblocking(False)
        self._handover.ready = deque()

    @property
    def server_socket(self) -> socket.socket:
        """What the server is to accept from."""
        return self._handover

    def start(self) -> None:
        """Accept connections in the running loop."""
        asyncio.get_running_loop().add_reader(self._listening.fileno(), self._accept)

    def stop(self) -> None:
        """Accept no more; connections whose header is not there yet are dropped.

        Close the server first: it still watches :attr:`server_socket`.
        """
        loop = asyncio.get_running_loop()
        if self._listening.fileno() >= 0:
            loop.remove_reader(self._listening.fileno())
            self._listening.close()
        for connection in tuple(self._pending):
            self._drop(connection)
        while self._handover.ready:
            self._handover.ready.popleft().close()
        self._bell.close()
        self._handover.close()

    def _accept(self) -> None:
        try:
            accepted, address = self._listening.accept()
        except OSError as error:
            if not isinstance(error, BlockingIOError | ConnectionAbortedError):
                _log.error("cannot accept connections: %s", error.strerror)
                self._pause()
            return
        connection = AcceptedSocket(fileno=accepted.detach())
        connection.setblocking(False)
        connection.client = address
        if not contains(self._trusted, address[0]):
            self._hand_over(connection)
            return
        if len(self._pending) >= self._most:
            self._refuse(next(iter(self._pending)), "no PROXY header, and too many wait")
        loop = asyncio.get_running_loop()
        deadline = loop.call_later(self._timeout, self._refuse, connection, "no PROXY header")
        self._pending[connection] = (bytearray(), deadline)
        loop.add_reader(connection.fileno(), self._read, connection)

    def _pause(self) -> None:
        """Let a second pass: the system has no descriptor or memory left."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listening.fileno())
        loop.call_later(1.0, self._resume)

    def _resume(self) -> None:
        if self._listening.fileno() >= 0:
            self.start()

    def _read(self, connection: AcceptedSocket) -> None:
        header, deadline = self._pending[connection]
        try:
            seen = connection.recv(_V2_MOST, socket.MSG_PEEK)
            if not seen:
                self._drop(connection)
                return
            size = header_size(bytes(header + seen))
            # What is behind the header belongs to TLS and stays in the socket.
            header += connection.recv(len(seen) if size is None else size - len(header))
            if size is None:
                return
            connection.client = read_header(bytes(header)) or connection.client
        except RemoteProtocolError as error:
            self._refuse(connection, str(error))
            return
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection)
            return
        asyncio.get_running_loop().remove_reader(connection.fileno())
        deadline.cancel()
        del self._pending[connection]
        self._hand_over(connection)

    def _hand_over(self, connection: AcceptedSocket) -> None:
        try:
            self._bell.send(b"\0")
        except OSError:
            # The server is many connections behind.
            connection.close()
            return
        self._handover.ready.append(connection)

    def _refuse(self, connection: AcceptedSocket, reason: str) -> None:
        _log.warning(
            "connection from %s refused: %s",
            connection.client,
            reason,
            extra=flood_kind("PROXY header"),
        )
        self._drop(connection)

    def _drop(self, connection: AcceptedSocket) -> None:
        _, deadline = self._pending.pop(connection)
        deadline.cancel()
        asyncio.get_running_loop().remove_reader(connection.fileno())
        connection.close()
