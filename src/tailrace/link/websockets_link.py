"""The link on websockets' sans-I/O protocol: pure Python where nothing faster is installed."""

from __future__ import annotations

import asyncio
import base64
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Final, cast

from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

from .base_link import MAX_FRAME_SIZE, READ_BUFFER_SIZE, BaseLink, LinkState
from .endpoint import ServiceEndpoint, user_agent
from .http.upgrade import UpgradeParser, build_request
from .interface import Buffer, CloseCode, LinkHandler, LinkInfo
from .tls.transport import UpgradeTap, remote_address

__all__ = ["WebsocketsLink", "open_link"]

_OPEN: Final = LinkState.OPEN
_SILENCE: Final = logging.CRITICAL + 1


async def open_link(
    transport: asyncio.Transport, tap: UpgradeTap, endpoint: ServiceEndpoint, handler: LinkHandler
) -> WebsocketsLink:
    """Ask for the upgrade on a TLS transport and return the open link.

    Raises:
        ServiceUnavailable, AccessRefused, HandshakeFailed: see :class:`UpgradeParser`.
    """
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    transport.write(build_request(endpoint, key, user_agent()))
    accepted = await tap.upgrade(UpgradeParser(endpoint, key), endpoint.connect_timeout)
    info = LinkInfo(
        subprotocol=accepted.subprotocol,
        channel_id=accepted.channel_id,
        backend="websockets",
        remote_address=remote_address(transport),
        flow_messages=accepted.flow_messages,
    )
    return WebsocketsLink(transport, info, handler)


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
            # It would log payloads; what matters is reported by the link.
            logger=logging.Logger(__name__, _SILENCE),
        )
        # Declared for bytes, but all it does is to append what it gets to a bytearray.
        self._receive = cast(Callable[[memoryview], None], self._framing.receive_data)
        # The upgrade's request and answer, declared too, never pass through here.
        self._frames = cast(Callable[[], list[Frame]], self._framing.events_received)

    def send(self, message: Buffer) -> None:
        """Send one binary frame; ``message`` may be reused as soon as this returns.

        websockets masks it into new bytes, which the transport may keep.
        """
        if self._state is _OPEN:
            try:
                self._framing.send_binary(message)
            except InvalidState:
                return  # closed by what is just being parsed, as the link will learn in a moment
            self._flush()

    def send_ping(self, payload: bytes) -> None:
        if self._state is _OPEN:
            with suppress(InvalidState):
                self._framing.send_ping(payload)
            self._flush()

    def bytes_arrived(self, data: memoryview) -> None:
        """Take the next bytes of the connection."""
        self._last_received = self._time()
        framing = self._framing
        self._receive(data)
        if framing.writes:  # pongs, or the answer to a close frame
            self._flush()
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
            # websockets minds a close frame within a message; the tunnel has no messages.
            self._close_frame()
            return
        sent = self._framing.close_sent
        assert sent is not None
        self.framing_failed(int(sent.code), sent.reason)

    def _flush(self) -> None:
        for data in self._framing.data_to_send():
            # A view, because the loops' TLS writes record by record and slices what is left.
            self._write(memoryview(data))

    def _protocol(self) -> asyncio.BaseProtocol:
        return _Wire(self)

    def _feed(self, data: bytearray) -> None:
        self.bytes_arrived(memoryview(data))

    def _send_close(self, code: int, reason: str) -> None:
        with suppress(InvalidState):
            self._framing.send_close(code, reason)
        self._flush()


class _Wire(asyncio.BufferedProtocol):
    """Reads into memory of its own, again and again."""

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
