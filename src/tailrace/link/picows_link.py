"""The link on picows: framing in C, payloads without a copy."""

from __future__ import annotations

import asyncio
import logging
from importlib import import_module
from typing import Any, Final, cast

from picows import WSAutoPingStrategy, WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport

from .base_link import MAX_FRAME_SIZE, READ_BUFFER_SIZE, BaseLink, LinkState
from .endpoint import ServiceEndpoint, user_agent
from .http.upgrade import UpgradeParser, accept_for, request_headers, request_path
from .interface import Buffer, CloseCode, LinkHandler, LinkInfo
from .tls.transport import UpgradeTap, remote_address

__all__ = ["PicowsLink", "open_link"]

_OPEN: Final = LinkState.OPEN
_BINARY: Final = WSMsgType.BINARY
_CONTINUATION: Final = WSMsgType.CONTINUATION

# The name is not in picows' type stubs.
_WSProtocol: Final[Any] = import_module("picows.picows").WSProtocol

_SILENCE: Final = logging.CRITICAL + 1


async def open_link(
    transport: asyncio.Transport, tap: UpgradeTap, endpoint: ServiceEndpoint, handler: LinkHandler
) -> PicowsLink:
    """Ask for the upgrade on a TLS transport and return the open link.

    Raises:
        ServiceUnavailable, AccessRefused, HandshakeFailed: see :class:`UpgradeParser`.
    """
    listener = _Listener()
    protocol = _make_protocol(endpoint, listener)
    protocol.connection_made(transport)  # writes the request
    websocket: WSTransport = protocol.transport
    key = websocket.request.headers["Sec-WebSocket-Key"]
    accepted = await tap.upgrade(UpgradeParser(endpoint, key), endpoint.connect_timeout)
    tap.leftover[:0] = _plain_answer(key)
    info = LinkInfo(
        subprotocol=accepted.subprotocol,
        channel_id=accepted.channel_id,
        backend="picows",
        remote_address=remote_address(transport),
        flow_messages=accepted.flow_messages,
    )
    link = PicowsLink(transport, info, handler, protocol)
    listener.attach(link)
    return link


class PicowsLink(BaseLink):
    """One open WebSocket whose frames picows makes and parses."""

    __slots__ = ("_parse", "_protocol_core", "_send_frame", "_websocket")

    def __init__(
        self, transport: asyncio.Transport, info: LinkInfo, handler: LinkHandler, protocol: Any
    ) -> None:
        super().__init__(transport, info, handler)
        self._protocol_core = protocol
        self._parse: Any = protocol.buffer_updated
        self._websocket: WSTransport = protocol.transport
        self._send_frame = self._websocket.send

    def send(self, message: Buffer) -> None:
        """Send one binary frame; ``message`` may be reused as soon as this returns.

        picows masks it into memory of its own, and aiofastnet copies of that what the socket
        does not take at once.
        """
        if self._state is _OPEN:
            self._send_frame(_BINARY, message)

    def send_ping(self, payload: bytes) -> None:
        if self._state is _OPEN:
            self._websocket.send_ping(payload)

    def data_arrived(self, size: int) -> None:
        """Let picows parse what came in, and learn whether it closed the link because of it."""
        self._last_received = self._time()
        self._parse(size)
        if self._websocket.is_close_frame_sent and self._state is _OPEN:
            sent = self._websocket.close_handshake.sent
            assert sent is not None
            self.framing_failed(int(sent.code.value), sent.reason)

    def frame_arrived(self, websocket: WSTransport, frame: WSFrame) -> None:
        """Take one frame; pings have been answered already."""
        if self._state is _OPEN:
            kind = frame.msg_type
            if kind is _BINARY or kind is _CONTINUATION:
                # The tunnel is a stream of bytes: where messages begin does not matter.
                try:
                    self._frame_received(frame.get_payload_as_memoryview())
                except Exception as error:
                    self.handler_failed(error)
                return
        self._other_frame(frame)

    def _other_frame(self, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind is WSMsgType.CLOSE:
            self._close_frame(frame.get_payload_as_bytes())
        elif kind is WSMsgType.PONG:
            self.pong_received(frame.get_payload_as_bytes())
        elif kind is WSMsgType.TEXT:
            self.fail(CloseCode.UNSUPPORTED_DATA, "text frames are not part of the protocol")

    def _close_frame(self, payload: bytes) -> None:
        code = int.from_bytes(payload[:2], "big") if payload else CloseCode.NO_STATUS
        if code in (0, CloseCode.ABNORMAL):  # picows lets these two pass
            self.fail(CloseCode.PROTOCOL_ERROR, f"{code} is no close code to send")
            return
        if self._state is _OPEN:
            self._websocket.send(WSMsgType.CLOSE, payload)
        self.close_received(code, payload[2:].decode("utf-8", "replace"))

    def _protocol(self) -> asyncio.BaseProtocol:
        return _Wire(self, self._protocol_core)

    def _feed(self, data: bytearray) -> None:
        wire = _Wire(self, self._protocol_core)
        rest = memoryview(data)
        while rest:
            room = wire.get_buffer(-1)
            size = min(len(room), len(rest))
            room[:size] = rest[:size]
            rest = rest[size:]
            wire.buffer_updated(size)

    def _let_go(self) -> None:
        super()._let_go()
        self._protocol_core = self._parse = None  # its listener knows this link

    def _send_close(self, code: int, reason: str) -> None:
        # Any integer is accepted, although the stubs ask for the enumeration.
        self._websocket.send_close(cast(WSCloseCode, code), reason.encode())


class _Wire(asyncio.BufferedProtocol):
    """Lets picows parse what comes in, and leaves the life of the link to the link.

    What is called for each read is the other's method itself: every call in between would
    add to every round trip.
    """

    __slots__ = ("_link", "buffer_updated", "get_buffer")

    get_buffer: Any
    buffer_updated: Any

    def __init__(self, link: PicowsLink, protocol: Any) -> None:
        self._link = link
        self.get_buffer = protocol.get_buffer
        self.buffer_updated = link.data_arrived

    def pause_writing(self) -> None:
        self._link.writing_paused()

    def resume_writing(self) -> None:
        self._link.writing_resumed()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._link.connection_lost(exc)


class _Listener(WSListener):
    """Where picows reports frames; knows its link once the upgrade is accepted."""

    on_ws_frame: Any

    def attach(self, link: PicowsLink) -> None:
        self.on_ws_frame = link.frame_arrived


def _make_protocol(endpoint: ServiceEndpoint, listener: _Listener) -> Any:
    return _WSProtocol(
        endpoint.host_header,
        request_path(endpoint),
        True,  # client
        lambda request, response: listener,
        # picows logs requests, with the tokens in them; this logger cannot be made to speak.
        logging.Logger(__name__, _SILENCE),
        False,  # no closing of its own when a listener raises: ours never does
        None,  # no timeout of its own for the upgrade
        False,  # no pings of its own
        0.0,
        0.0,
        WSAutoPingStrategy.PING_PERIODICALLY,
        True,  # answer pings, with their payload
        MAX_FRAME_SIZE,
        request_headers(endpoint, user_agent()),
        READ_BUFFER_SIZE,
    )


def _plain_answer(key: str) -> bytes:
    """Return the accepted answer as picows wants it: it compares some fields literally."""
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_for(key)}\r\n\r\n"
    ).encode("ascii")
