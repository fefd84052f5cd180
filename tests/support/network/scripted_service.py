"""A scripted tunnel service: real sockets, real TLS, and any misbehaviour one asks for.

Each connection is served by a script in a thread of its own, with blocking calls, so that it
is independent of the event loop under test and can be as slow, mute or rude as it likes.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import trustme

from support.network.certificates import Certificates
from support.network.frames import CLOSE, PING, PONG, Frame, frame, receive_frame
from support.network.sockets import reset
from support.waiting import HANG
from tailrace.common.secret import Secret
from tailrace.link import ServiceEndpoint, TLSOptions
from tailrace.wire import SUBPROTOCOL_V3, Side

__all__ = [
    "ACCESS_TOKEN",
    "CLIENT_TOKEN",
    "Peer",
    "Request",
    "Script",
    "ScriptedService",
    "refuse",
    "serve",
    "until_closed",
]

ACCESS_TOKEN = "access-token-that-nobody-may-see"
CLIENT_TOKEN = "client-token-that-nobody-may-see"


@dataclass(frozen=True)
class Request:
    """The head of an upgrade request."""

    line: str
    headers: list[tuple[str, str]]

    def __getitem__(self, name: str) -> str:
        (value,) = [v for n, v in self.headers if n.lower() == name.lower()]
        return value

    @classmethod
    def parse(cls, head: bytes) -> Self:
        """Take the head apart; it ends with an empty line."""
        line, *fields = head[:-4].decode("ascii").split("\r\n")
        pairs = [each.partition(": ") for each in fields]
        return cls(line, [(name, value) for name, _, value in pairs])

    def answer(
        self,
        *,
        subprotocol: str | None = SUBPROTOCOL_V3,
        upgrade: str = "websocket",
        connection: str = "upgrade",
        accept: str | None = None,
        more: str = "channel-id: channel-7\r\n",
    ) -> bytes:
        """Return the answer that accepts the request, or nearly so."""
        guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        digest = hashlib.sha1(f"{self['Sec-WebSocket-Key']}{guid}".encode()).digest()
        chosen = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol is not None else ""
        return (
            "HTTP/1.1 101 Switching Protocols\r\n"
            f"Upgrade: {upgrade}\r\nConnection: {connection}\r\n"
            f"Sec-WebSocket-Accept: {accept or base64.b64encode(digest).decode()}\r\n"
            f"{chosen}{more}\r\n"
        ).encode()


class Peer:
    """One accepted connection, for a script."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number
        """0 for the first connection of the service."""
        self.released = threading.Event()
        """Set when the test is over."""

    def start_tls(self, context: ssl.SSLContext) -> None:
        self.sock = context.wrap_socket(self.sock, server_side=True)

    def read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            if not piece:
                raise ConnectionError("the client ended the connection")
            data += piece
        return bytes(data)

    def read_request(self) -> Request:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.read(1)
        return Request.parse(head)

    def upgrade(self, first_bytes: bytes = b"", **changes: Any) -> Request:
        """Read the request and accept it, with ``first_bytes`` in the same write."""
        request = self.read_request()
        self.sock.sendall(request.answer(**changes) + first_bytes)
        return request

    def send(self, data: bytes, piece: int = 0) -> None:
        """Send bytes, in pieces of that size."""
        for start in range(0, len(data), piece or max(1, len(data))):
            self.sock.sendall(data[start : start + (piece or len(data))])

    def send_frame(self, opcode: int, payload: bytes = b"", fin: bool = True) -> None:
        self.sock.sendall(frame(opcode, payload, fin))

    def read_frame(self) -> Frame:
        received = receive_frame(self.read)
        assert received.masked, "a client masks its frames (RFC 6455 section 5.1)"
        return received

    def read_to_end(self) -> None:
        """Read until the client has closed the connection."""
        while self.sock.recv(65536):
            pass

    def stay_silent(self) -> None:
        """Do nothing until the test is over."""
        self.released.wait(HANG)

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        reset(self.sock)


Script = Callable[[Peer], None]


class ScriptedService:
    """Listens on loopback and serves each connection with the next script.

    The last script serves all further connections. What a script raises, but for the
    consequences of a client that went away, is raised again at the end of the ``with`` block.
    """

    def __init__(
        self,
        certificates: Certificates,
        *scripts: Script,
        cert: trustme.LeafCert | None = None,
        plain: bool = False,
    ) -> None:
        self._certificates = certificates
        self._context = None if plain else certificates.server_context(cert)
        self._scripts = scripts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._peers: list[Peer] = []
        self._failures: list[Exception] = []
        self._over = threading.Event()
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0

    def endpoint(self, **changes: Any) -> ServiceEndpoint:
        """Return the endpoint that fits this service."""
        fields: dict[str, Any] = {
            "host": "localhost",
            "port": self.port,
            "side": Side.SOURCE,
            "access_token": Secret(ACCESS_TOKEN),
            "client_token": Secret(CLIENT_TOKEN),
            "tls": TLSOptions(self._certificates.ca_file),
            "connect_timeout": HANG,
        }
        return ServiceEndpoint(**(fields | changes))

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # shutdown(), because close() alone does not wake a thread that is in accept().
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._over.set()
        for peer in self._peers:
            peer.released.set()
        for thread in self._threads:
            thread.join(HANG + 5)
            assert not thread.is_alive(), "a script hangs"
        if self._failures and error is None:
            raise self._failures[0]

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(HANG)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer = Peer(sock, self.connections)
            self.connections += 1
            self._peers.append(peer)
            if self._over.is_set():  # it came in the last moment
                peer.released.set()
            script = self._scripts[min(peer.number, len(self._scripts) - 1)]
            self._start(self._serve, peer, script)

    def _serve(self, peer: Peer, script: Script) -> None:
        try:
            if self._context is not None:
                peer.start_tls(self._context)
            script(peer)
        except OSError:
            pass  # the client went away, as it may
        except Exception as error:
            self._failures.append(error)
        finally:
            peer.sock.close()


def refuse(status: str, body: bytes = b"", more: str = "", piece: int = 0) -> Script:
    """Return a script that answers the upgrade with another status."""

    def script(peer: Peer) -> None:
        peer.read_request()
        prefix = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
        peer.send(prefix.encode() + body, piece)
        peer.read_to_end()

    return script


def serve(*steps: bytes | Callable[[Peer], object]) -> Script:
    """Return a script that accepts the upgrade and then sends bytes or calls functions."""

    def script(peer: Peer) -> None:
        peer.upgrade()
        for step in steps:
            if isinstance(step, bytes):
                peer.send(step)
            else:
                step(peer)

    return script


def until_closed(peer: Peer) -> None:
    """Answer pings and the close frame, drop everything else, wait for the end."""
    while True:
        received = peer.read_frame()
        if received.opcode == PING:
            peer.send_frame(PONG, received.payload)
        if received.opcode == CLOSE:
            peer.send_frame(CLOSE, received.payload)
            peer.read_to_end()
            return
