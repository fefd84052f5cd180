"""A local proxy's link by hand: it costs its process little, and can do what no proxy does."""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import socket
import ssl
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from .loop import Loop

__all__ = ["IdleLinks", "Link", "frame"]

_PERIOD: Final = 20.0
"""Seconds between two pings of an idle link, as the real proxies send them."""
_TICK: Final = 0.1
_AT_ONCE: Final = 16
_PING: Final = 9


class Link:
    """One WebSocket, blocking; what it sends is masked with zeros."""

    def __init__(
        self, endpoint: str, ca_file: str, side: str, token: str, client_token: str = ""
    ) -> None:
        """Connect to the service at ``endpoint``, as the ``source`` or the ``destination``.

        Raises:
            ConnectionError: the service refused.
        """
        host, _, port = endpoint.rpartition(":")
        plain = socket.create_connection((host, int(port)), timeout=30)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = _context(ca_file).wrap_socket(plain, server_hostname=host)
        more = f"client-token: {client_token}\r\n" if client_token else ""
        self.socket.sendall(
            (
                f"GET /tunnel?local-proxy-mode={side} HTTP/1.1\r\nHost: {host}\r\n"
                "Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
                "Sec-WebSocket-Protocol: aws.iot.securetunneling-3.0\r\n"
                f"access-token: {token}\r\n{more}\r\n"
            ).encode()
        )
        self._content = b""
        while b"\r\n\r\n" not in self._content:
            self._fill()
        head, _, self._content = self._content.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise ConnectionError(head.decode(errors="replace"))

    def receive(self) -> bytes:
        """Return the payload of the next binary frame."""
        while True:
            while len(self._content) < 2 or len(self._content) < self._frame()[1]:
                self._fill()
            begin, end = self._frame()
            opcode, payload = self._content[0] & 15, self._content[begin:end]
            self._content = self._content[end:]
            if opcode == 2:
                return payload
            if opcode == 8:
                raise ConnectionError("closed by the service")

    def _fill(self) -> None:
        more = self.socket.recv(1 << 18)
        if not more:
            raise ConnectionError("closed")
        self._content += more

    def _frame(self) -> tuple[int, int]:
        """Return where the payload of the first frame begins and ends."""
        size = self._content[1]
        if size < 126:
            return 2, 2 + size
        begin = 4 if size == 126 else 10
        return begin, begin + int.from_bytes(self._content[2:begin], "big")


def frame(payload: bytes, opcode: int = 2) -> bytes:
    """Return one frame of a client."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + bytes(4) + payload


class IdleLinks:
    """Links of thousands of proxies; real ones would take the machine for themselves."""

    def __init__(
        self, loop: Loop, endpoint: str, ca_file: str, tokens: Sequence[tuple[str, str]]
    ) -> None:
        """Open a link for each pair of side and token."""
        # One after the other they would cost the service a fifth more memory.
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            links = pool.map(lambda pair: Link(endpoint, ca_file, *pair), tokens)
            self._links = [link.socket for link in links]
        for link in self._links:
            link.setblocking(False)
        self._due = 0.0
        self._at = 0
        self._ticked = time.monotonic()
        self.lost = 0
        """Links that the service has ended."""
        loop.every(_TICK, self._tick)

    def _tick(self) -> None:
        """Spread the pings over the period, as the proxies of a fleet do."""
        now = time.monotonic()
        self._due += (now - self._ticked) / _PERIOD * len(self._links)
        self._ticked = now
        while self._due >= 1:
            self._due -= 1
            self._at = (self._at + 1) % len(self._links)
            self._visit(self._links[self._at])

    def _visit(self, link: ssl.SSLSocket) -> None:
        """Take the last pong and send the next ping, of 13 bytes as the C++ proxy's."""
        try:
            with contextlib.suppress(ssl.SSLWantReadError):
                if not link.recv(4096):
                    raise ConnectionError("closed")
            link.send(frame(b"%013d" % (time.time_ns() // 1_000_000), _PING))
        except OSError:
            self.lost += link.fileno() >= 0
            link.close()


@functools.cache
def _context(ca_file: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file)
