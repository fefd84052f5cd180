"""The link on websockets' sans-I/O protocol: pure Python, for where picows is not installed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final, cast

from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State
from websockets.utils import generate_key

from .base_link import MAX_FRAME_SIZE, READ_BUFFER_SIZE, BaseLink, LinkState, upgrade
from .endpoint import ServiceEndpoint, user_agent
from .exchange import Exchange
from .http.upgrade import build_request
from .interface import Buffer, CloseCode, LinkHandler, LinkInfo

__all__ = ["WebsocketsLink", "open_link"]

_OPEN: Final = LinkState.OPEN
_PONG: Final = bytes([0x80 | Opcode.PONG])
_SILENCE: Final = logging.CRITICAL + 1


async def open_link(
    exchange: Exchange, endpoint: ServiceEndpoint, handler: LinkHandler
) -> WebsocketsLink:
    """Do the upgrade on a TLS connection and return the open link.

    Raises:
        ServiceUnavailable, AccessRefused, HandshakeFailed: as :func:`.base_link.upgrade`.
    """
    key = generate_key()
    request = build_request(endpoint, key, user_agent())
    info = await upgrade(exchange, request, endpoint, key, "websockets")
    return WebsocketsLink(exchange.transport, info, handler)


class WebsocketsLink(BaseLink):
    """One open WebSocket whose frames websockets makes and parses."""

    __slots__ = ("_frames", "_framing", "_receive", "_write")

    def __init__(self, transport: asyncio.Transport, info: LinkInfo, handler: LinkHandler) -> None:
        super().__init__(transport, info, handler)
        self._write = transport.write
        self._framing = Protocol(
            Side.CLIENT,
            state=State.OPEN,
            # Per frame, not per message: a message may go on for ever, it is a stream.
            max_size=(None, MAX_FRAME_SIZE),
            # It would log payloads. What matters is reported by the link.
            logger=logging.Logger(__name__, _SILENCE),
        )
        # Declared for bytes, but all it does is to append what it gets to a bytearray.
        self._receive = cast(Callable[[memoryview], None], self._framing.receive_data)
        # Declared for events of the upgrade too, which is over.
        self._frames = cast(Callable[[], list[Frame]], self._framing.events_received)

    def send(self, message: Buffer) -> None:
        """Send one binary frame; ``message`` may be reused as soon as this returns.

        websockets masks it into new bytes, which the transport may keep.
        """
        if self._state is _OPEN:
            try:
                self._framing.send_binary(message)
            except InvalidState:
                return  # what is being parsed just now has closed it, as is reported in a moment
            self._flush()

    def send_ping(self, payload: bytes) -> None:
        if self._state is _OPEN:
            with suppress(InvalidState):
                self._framing.send_ping(payload)
            self._flush()

    def bytes_arrived(self, data: memoryview) -> None:
        """Called when bytes have come in."""
        self._last_received = self._time()
        framing = self._framing
        self._receive(data)
        if framing.writes:  # pongs, or the answer to a close frame
            self._answer()
        for frame in self._frames():
            self._frame_arrived(frame)
        if framing.parser_exc is not None and self._state is _OPEN:
            self._parsing_failed()

    def _frame_arrived(self, frame: Frame) -> None:
        opcode = frame.opcode
        if self._state is _OPEN and (opcode is Opcode.BINARY or opcode is Opcode.CONT):
            try:
                self._frame_received(memoryview(frame.data))
            except Exception as error:
                self.handler_failed(error)
        elif opcode is Opcode.CLOSE:
            self._close_frame()
        elif opcode is Opcode.PONG:
            self.pong_received(bytes(frame.data))
        elif opcode is Opcode.TEXT:
            self.fail(CloseCode.UNSUPPORTED_DATA, "text frames are not part of the protocol")

    def _close_frame(self) -> None:
        received = self._framing.close_rcvd
        assert received is not None
        self.close_received(int(received.code), received.reason)

    def _parsing_failed(self) -> None:
        if self._framing.close_rcvd is not None:
            # websockets objects to a close frame within a message; the tunnel has no messages.
            self._close_frame()
            return
        sent = self._framing.close_sent
        assert sent is not None
        self.framing_failed(int(sent.code), sent.reason)

    def _answer(self) -> None:
        """Send what parsing has made, but no pongs while writing is paused."""
        for data in self._framing.data_to_send():
            if data.startswith(_PONG):
                self.answer_ping(data)
            else:
                self._write(memoryview(data))

    def _send_pong(self, pong: bytes) -> None:
        self._write(memoryview(pong))  # the whole frame, as websockets has made it

    def _flush(self) -> None:
        for data in self._framing.data_to_send():
            # A view, because the loops' TLS writes record by record and slices the rest.
            self._write(memoryview(data))

    def _protocol(self) -> asyncio.BaseProtocol:
        return _Wire(self)

    def _feed(self, data: bytes) -> None:
        self.bytes_arrived(memoryview(data))

    def _send_close(self, code: int, reason: str) -> None:
        with suppress(InvalidState):
            self._framing.send_close(code, reason)
        self._flush()


class _Wire(asyncio.BufferedProtocol):
    """Reads into the same memory again and again."""

    __slots__ = ("_buffer", "_link")

    def __init__(self, link: WebsocketsLink) -> None:
        self._link = link
        self._buffer = memoryview(bytearray(READ_BUFFER_SIZE))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._link.bytes_arrived(self._buffer[:nbytes])

    def pause_writing(self) -> None:
        self._link.writing_paused()

    def resume_writing(self) -> None:
        self._link.writing_resumed()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._link.connection_lost(exc)
