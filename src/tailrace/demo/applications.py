"""The applications that the destination of the demonstration forwards to."""

from __future__ import annotations

import hashlib
import http.server
import shutil
import socket
import socketserver
import threading
from functools import partial
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

__all__ = ["EchoServer", "FileServer"]

_CHUNK: Final = 1 << 18
_MAX_UPLOAD: Final = 1 << 30
_DIGITS: Final = 20
_POLL: Final = 0.05
"""Seconds between checks whether a server should stop."""
_LOOPBACK: Final = ("127.0.0.1", 0)


class _FileHandler(http.server.SimpleHTTPRequestHandler):
    """Lists and serves a directory; accepts uploads with PUT and returns their SHA-256."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_PUT(self) -> None:
        """Read the body, respond, then send its hash: hashing does not slow the transfer."""
        length = self.headers["Content-Length"] or ""
        if not (length.isascii() and length.isdigit()):
            self.close_connection = True
            self.send_error(HTTPStatus.LENGTH_REQUIRED)
            return
        size = int(length[:_DIGITS])
        if size > _MAX_UPLOAD:
            self.close_connection = True
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        body = bytearray(size)
        view = memoryview(body)
        got = 0
        while got < size:
            piece = self.rfile.read1(min(_CHUNK, size - got))
            if not piece:
                return
            view[got : got + len(piece)] = piece
            got += len(piece)
        self.send_response(HTTPStatus.ACCEPTED)
        self.send_header("Content-Length", "64")
        self.end_headers()
        self.wfile.write(hashlib.sha256(body).hexdigest().encode())

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """Send large files in large pieces."""
        shutil.copyfileobj(source, outputfile, _CHUNK)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the terminal is for the demonstration."""


class _EchoHandler(socketserver.BaseRequestHandler):
    """Sends back what it receives until the other side closes."""

    request: socket.socket

    def handle(self) -> None:
        """Echo one connection."""
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := self.request.recv(_CHUNK):
            self.request.sendall(data)


class _Server:
    """A threading server on a loopback port of its own, running while the block does."""

    def __init__(self, server: socketserver.TCPServer) -> None:
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": _POLL}, daemon=True
        )

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.socket.getsockname()[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _ThreadingServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: the client reports that its connection broke."""


class FileServer(_Server):
    """An HTTP server for one directory."""

    def __init__(self, directory: Path) -> None:
        handler = partial(_FileHandler, directory=str(directory))
        super().__init__(_ThreadingServer(_LOOPBACK, handler))


class EchoServer(_Server):
    """A TCP echo."""

    def __init__(self) -> None:
        super().__init__(_ThreadingServer(_LOOPBACK, _EchoHandler))
