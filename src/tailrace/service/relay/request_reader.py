"""The first protocol of a connection: reads one line, then picows takes over.

picows answers requests that are HTTP/1.1 and GET, and any other with words about itself. What a
load balancer asks to see whether the service is well, and what a web proxy makes of an upgrade that
it does not know, often is neither. So the request line is read here, and either answered, once the
whole head is there, or handed to picows with everything that has come.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, cast

from picows import WSAutoPingStrategy, WSUpgradeRequest, WSUpgradeResponseWithListener

from ...common.buffered import feed
from ...wire import MAX_FRAME
from .handshake import RequestLine, read_request_line

__all__ = ["RequestReader", "make_websocket"]

# The name is not in picows' type stubs.
_WSProtocol: Final[Any] = import_module("picows.picows").WSProtocol

_ROOM: Final = 4096
"""Bytes that are kept of a request; picows judges a line that is longer."""
_END_OF_LINE: Final = b"\r\n"
_END_OF_HEAD: Final = b"\r\n\r\n"


class RequestReader(asyncio.BufferedProtocol):
    """Reads the request line of a connection, and gives way to a protocol of picows.

    That one knows the transport from the beginning, and bounds the time for the request.
    """

    __slots__ = (
        "_answer",
        "_buffer",
        "_make_websocket",
        "_response",
        "_size",
        "_transport",
        "_websocket",
    )

    def __init__(
        self,
        make_websocket: Callable[[Any], Any],
        answer: Callable[[RequestLine | None], bytes | None],
    ) -> None:
        """Prepare for one connection.

        Args:
            make_websocket: gets the address of the client, returns picows' protocol.
            answer: gets the request line, ``None`` if there is none; returns the response after
                which the connection ends, or ``None`` for an upgrade.
        """
        self._make_websocket = make_websocket
        self._answer = answer
        self._buffer = bytearray(_ROOM)
        self._size = 0
        self._response: bytes | None = None
        self._transport: asyncio.Transport
        self._websocket: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._websocket = self._make_websocket(transport.get_extra_info("peername"))
        self._websocket.connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)[self._size % _ROOM :]  # full: what follows is not kept

    def buffer_updated(self, nbytes: int) -> None:
        if self._transport.is_closing():
            return
        self._size += nbytes
        data = bytes(self._buffer[: self._size])
        is_full = self._size == _ROOM
        # 1. The line, once it is there.
        if self._response is None:
            if _END_OF_LINE in data:
                self._response = self._answer(read_request_line(data))
            elif not is_full:
                return
            if self._response is None:
                self._hand_over(data)
                return
        # 2. The end of the head: a client that is answered before may see a reset instead.
        if is_full or _END_OF_HEAD in data:
            self._transport.write(self._response)
            self._transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._websocket.connection_lost(exc)

    def _hand_over(self, data: bytes) -> None:
        websocket = self._websocket
        self._transport.set_protocol(websocket)
        feed(data, websocket.get_buffer, websocket.buffer_updated)


def make_websocket(
    accept: Callable[[WSUpgradeRequest], WSUpgradeResponseWithListener],
    logger: logging.LoggerAdapter[logging.Logger],
    timeout: float,
    read_buffer: int,
) -> Any:
    """Return picows' protocol for one connection of a client.

    Args:
        accept: judges the request.
        timeout: seconds until the request is complete.
        read_buffer: bytes that the buffer has at first.
    """
    return _WSProtocol(
        None,  # no host and
        None,  # no path: it is not the client
        False,
        accept,
        logger,
        True,  # disconnects when a listener raises
        timeout,
        False,  # no pings of its own
        0.0,
        0.0,
        WSAutoPingStrategy.PING_PERIODICALLY,
        False,  # no pongs of its own
        MAX_FRAME,
        None,
        read_buffer,
    )
