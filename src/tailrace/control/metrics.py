"""Metrics over plain HTTP for Prometheus, which is all that is spoken here: GET, and one answer.

Anybody who reaches the address may ask, so a request is bounded like one at the control socket.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from ..common.addresses import TCPAddress, format_host_port
from ..common.installing import how_to_install_extra
from ..errors import ConfigurationError, ListenError
from .documents import Document
from .one_request import Fresh, OneRequest, ending

__all__ = ["metrics_served"]

_LONGEST_REQUEST: Final = 8192
_BACKLOG: Final = 16
_WANTED: Final = re.compile(rb"(GET|HEAD) /metrics(\?\S*)? HTTP/1\.[01]\r?\n")

_log = logging.getLogger("tailrace.control")


@asynccontextmanager
async def metrics_served(
    address: TCPAddress, document: Callable[[], Document]
) -> AsyncIterator[None]:
    """Serve the metrics of a process for the body; port 0 picks one, which the log names.

    Raises:
        ConfigurationError: the package prometheus-client is missing.
        ListenError: the address cannot be bound.
    """
    try:
        from ..common.exposition import CONTENT_TYPE
        from .collector import document_metrics
    except ImportError:
        raise ConfigurationError(
            f"metrics need the package prometheus-client: {how_to_install_extra('metrics')}"
        ) from None
    text = Fresh(document_metrics(document).render)

    def answer(request: bytes, is_all: bool) -> bytes | None:
        if b"\n\r\n" not in request:
            return _response("400 Bad Request", b"not a request\n") if is_all else None
        match = _WANTED.match(request)
        if match is None:
            return _response("404 Not Found", b"there is: GET /metrics\n")
        return _response("200 OK", text(), CONTENT_TYPE, has_body=match[1] == b"GET")

    clients: set[OneRequest] = set()
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(
            lambda: OneRequest(answer, _LONGEST_REQUEST, clients),
            address.host,
            address.port,
            backlog=_BACKLOG,
        )
    except OSError as error:
        known = error.errno is not None and error.errno > 0
        reason = os.strerror(error.errno) if known and error.errno else error.strerror or str(error)
        raise ListenError(
            f"cannot serve metrics at {address}: {reason}; choose another --metrics-listen",
            setting="metrics_listen",
            errno=error.errno or 0,
        ) from None
    async with ending(server, clients):
        host, port = server.sockets[0].getsockname()[:2]
        _log.info("metrics at http://%s/metrics", format_host_port(host, port))
        yield


def _response(
    status: str, body: bytes, content_type: str = "text/plain", *, has_body: bool = True
) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + (body if has_body else b"")
