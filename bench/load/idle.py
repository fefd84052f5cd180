"""Local proxies that have a link to the service and nothing to do with it.

They are made with TLS and a few bytes of WebSocket by hand, because thousands of real
ones would measure themselves: the service cannot tell the difference.
"""

from __future__ import annotations

import base64
import os
import select
import socket
import ssl
import time
from functools import partial
from typing import Final

from .loop import Loop

__all__ = ["IdleLinks"]

_SUBPROTOCOL: Final = "aws.iot.securetunneling-3.0"
_PING: Final = bytes((0x89, 0x80 | 4)) + bytes(4) + b"ping"
"""A WebSocket ping (RFC 6455 section 5.5.2), masked with zeros."""
_PONG: Final = bytes((0x8A, 4)) + b"ping"
_TICK: Final = 0.1


class IdleLinks:
    """Opens links one after the other and keeps them alive."""

    def __init__(self, loop: Loop, endpoint: str, ca_file: str, period: float) -> None:
        self._loop = loop
        host, _, port = endpoint.rpartition(":")
        self._host, self._port = host, int(port)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.load_verify_locations(ca_file)
        self._period = period
        self._links: list[ssl.SSLSocket] = []
        self._next = 0
        self._owed = 0.0
        self._ticked = time.monotonic()
        self._pongs = self._lost = 0
        loop.every(_TICK, self._tick)

    def open(self, tokens: list[tuple[str, str]]) -> dict[str, float]:
        """Open a link for each pair of mode and token; return how long it took."""
        start = time.monotonic()
        for mode, token in tokens:
            link = self._connect(mode, token)
            link.setblocking(False)
            self._links.append(link)
            self._loop.watch(link.fileno(), select.EPOLLIN, partial(self._readable, link))
        self._ticked = time.monotonic()
        return {"seconds": time.monotonic() - start, "links": len(self._links)}

    def counts(self) -> dict[str, int]:
        """Return the links that are open, those the service has ended, and pongs received."""
        return {"links": len(self._links), "lost": self._lost, "pongs": self._pongs}

    def _connect(self, mode: str, token: str) -> ssl.SSLSocket:
        plain = socket.create_connection((self._host, self._port), timeout=60)
        sock = self._context.wrap_socket(plain, server_hostname=self._host)
        key = base64.b64encode(os.urandom(16)).decode()
        sock.sendall(
            (
                f"GET /tunnel?local-proxy-mode={mode} HTTP/1.1\r\nHost: {self._host}\r\n"
                "Upgrade: websocket\r\nConnection: upgrade\r\n"
                f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Protocol: {_SUBPROTOCOL}\r\naccess-token: {token}\r\n\r\n"
            ).encode()
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            piece = sock.recv(4096)
            if not piece:
                raise ConnectionError("the service ended a link before it was open")
            answer += piece
        if not answer.startswith(b"HTTP/1.1 101"):
            raise ConnectionError(f"the service refused a link: {answer.splitlines()[0]!r}")
        return sock

    def _readable(self, link: ssl.SSLSocket, events: int) -> None:
        try:
            data = link.recv(4096)
        except ssl.SSLWantReadError:
            return
        except OSError:
            data = b""
        if data:
            self._pongs += data.count(_PONG)
            return
        self._lost += 1
        self._loop.forget(link.fileno())
        self._links.remove(link)
        link.close()

    def _tick(self) -> None:
        """Spread the pings over the period."""
        now = time.monotonic()
        self._owed += (now - self._ticked) / self._period * len(self._links)
        self._ticked = now
        while self._owed >= 1 and self._links:
            self._owed -= 1
            self._next = (self._next + 1) % len(self._links)
            try:
                self._links[self._next].send(_PING)
            except OSError:
                continue
