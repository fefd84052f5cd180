"""The link on picows: framing in C, payloads without a copy."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, cast

from picows import WSAutoPingStrategy, WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport

from ..common.buffered import feed
from ..common.close_codes import may_be_sent
from ..common.counts import Meter
from ..common.extension import load
from .base_link import MAX_FRAME_SIZE, READ_BUFFER_SIZE, BaseLink, LinkState, upgrade
from .endpoint import ServiceEndpoint, user_agent
from .exchange import Exchange
from .http.upgrade import accept_for, request_headers, request_path
from .interface import Buffer, CloseCode, LinkClosed, LinkHandler, LinkInfo
from .tls.aiofastnet_compat import fast_transports

__all__ = ["PicowsLink", "open_link"]

_OPEN: Final = LinkState.OPEN
_BINARY: Final = WSMsgType.BINARY
_CONTINUATION: Final = WSMsgType.CONTINUATION

# The name is not in picows' type stubs.
_WSProtocol: Final[Any] = import_module("picows.picows").WSProtocol

_SILENCE: Final = logging.CRITICAL + 1


async def open_link(
    exchange: Exchange, endpoint: ServiceEndpoint, handler: LinkHandler
) -> PicowsLink:
    """Do the upgrade on a TLS connection and return the open link.

    Raises:
        ServiceUnavailable, AccessRefused, HandshakeFailed: as :func:`.base_link.upgrade`.
    """
    protocol = _make_protocol(endpoint, lambda request, response: link.gate or _Listener(link))
    protocol.connection_made(exchange.transport)  # sends the request, with a key of its own
    key = protocol.transport.request.headers["Sec-WebSocket-Key"]
    info = await upgrade(exchange, b"", endpoint, key, "picows")
    link = PicowsLink(exchange.transport, info, handler, protocol)
    _accept(protocol, key)
    return link


class PicowsLink(BaseLink):
    """One open WebSocket whose frames picows makes and parses."""

    __slots__ = ("_extension", "_outlet", "_parse", "_protocol_core", "_send_frame", "_websocket")

    def __init__(
        self, transport: asyncio.Transport, info: LinkInfo, handler: LinkHandler, protocol: Any
    ) -> None:
        super().__init__(transport, info, handler)
        self._protocol_core = protocol
        self._parse: Any = protocol.buffer_updated
        self._websocket: WSTransport = protocol.transport
        self._send_frame = self._websocket.send
        self._extension = load()
        self._outlet: Any = None
        if self._extension is not None:
            self.gate = self._extension.LinkGate(self)

    def new_outlet(self, window: Meter, mark_reached: Callable[[int], None]) -> Any:
        if self._extension is not None:
            self._outlet = self._extension.LinkOutlet(self._websocket, window, mark_reached)
        return self._outlet

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
        """Called when bytes have come in: let picows parse them, which may close the link."""
        self._last_received = self._time()
        self._parse(size)
        if self._websocket.is_close_frame_sent:
            self.close_frame_sent()

    def close_frame_sent(self) -> None:
        """Called when a close frame was sent: if by picows, it has found a fault."""
        if self._state is _OPEN:
            sent = self._websocket.close_handshake.sent
            assert sent is not None
            self.framing_failed(int(sent.code.value), sent.reason)

    def frame_arrived(self, websocket: WSTransport, frame: WSFrame) -> None:
        """Called by picows for each frame."""
        if self._state is _OPEN:
            kind = frame.msg_type
            if kind is _BINARY or kind is _CONTINUATION:
                # The tunnel is a stream of bytes: where a message begins does not matter.
                if frame.rsv1 or frame.rsv2 or frame.rsv3:
                    self._reserved_bit()
                    return
                self.bytes_arrived(frame.get_payload_as_memoryview())
                return
        self._other_frame(frame)

    def bytes_arrived(self, payload: memoryview) -> None:
        """Called with what came in a data frame, or the rest of it."""
        if self._state is _OPEN:
            try:
                self._frame_received(payload)
            except Exception as error:
                self.handler_failed(error)

    def _begin_closing(self, outcome: LinkClosed, patience: float | None) -> None:
        if self.gate is not None:
            self.gate.shut()
        if self._outlet is not None:
            self._outlet.close()
        super()._begin_closing(outcome, patience)

    def _other_frame(self, frame: WSFrame) -> None:
        kind = frame.msg_type
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self._reserved_bit()
        elif kind is WSMsgType.CLOSE:
            self._close_frame(frame.get_payload_as_bytes())
        elif kind is WSMsgType.PING:
            self.answer_ping(frame.get_payload_as_bytes())
        elif kind is WSMsgType.PONG:
            self.pong_received(frame.get_payload_as_bytes())
        elif kind is WSMsgType.TEXT:
            self.fail(CloseCode.UNSUPPORTED_DATA, "text frames are not part of the protocol")

    def _reserved_bit(self) -> None:
        # RFC 6455 section 5.2: no extension gives these bits a meaning. picows ignores them.
        self.fail(CloseCode.PROTOCOL_ERROR, "a reserved bit of a frame is set")

    def _close_frame(self, payload: bytes) -> None:
        code = int.from_bytes(payload[:2], "big") if payload else CloseCode.NO_STATUS
        if payload and not may_be_sent(code):  # picows accepts some of these
            self.fail(CloseCode.PROTOCOL_ERROR, f"{code} is no close code to send")
            return
        if self._state is _OPEN:
            self._websocket.send(WSMsgType.CLOSE, payload)
        self.close_received(code, payload[2:].decode("utf-8", "replace"))

    def _protocol(self) -> asyncio.BaseProtocol:
        wire = _Wire(self, self._protocol_core)
        transports = fast_transports()
        if self._extension is None or transports is None:
            return wire
        if not isinstance(self._transport, transports.Transport):
            return wire
        wire.buffer_updated = self._parse
        protocol: asyncio.BaseProtocol = self._extension.Wire(wire, self, self._websocket)
        return protocol

    def _feed(self, data: bytes) -> None:
        feed(data, self._protocol_core.get_buffer, self.data_arrived)

    def _break_cycles(self) -> None:
        super()._break_cycles()
        if self.gate is not None:
            self.gate.end()
        self._protocol_core = self._parse = None  # its listener knows this link

    def _send_pong(self, pong: bytes) -> None:
        self._websocket.send_pong(pong)

    def _send_close(self, code: int, reason: str) -> None:
        # Any integer is accepted, although the stubs ask for the enumeration.
        self._websocket.send_close(cast(WSCloseCode, code), reason.encode())


class _Wire(asyncio.BufferedProtocol):
    """Lets picows parse what comes in, and reports everything else to the link.

    What is called for each read is picows' or the link's own method: a call in between would
    cost every round trip.
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
    """Where picows reports frames."""

    on_ws_frame: Any

    def __init__(self, link: PicowsLink) -> None:
        self.on_ws_frame = link.frame_arrived


def _make_protocol(
    endpoint: ServiceEndpoint, make_listener: Callable[[object, object], WSListener]
) -> Any:
    return _WSProtocol(
        endpoint.host_header,
        request_path(endpoint),
        True,  # client
        make_listener,
        # picows logs requests, with the tokens in them; no level of this logger shows them.
        logging.Logger(__name__, _SILENCE),
        False,  # no closing of its own when a listener raises, as ours never does
        None,  # no timeout of its own for the upgrade
        False,  # no pings of its own
        0.0,
        0.0,
        WSAutoPingStrategy.PING_PERIODICALLY,
        False,  # no pongs of its own: it would send them while writing is paused too
        MAX_FRAME_SIZE,
        request_headers(endpoint, user_agent()),
        READ_BUFFER_SIZE,
    )


def _accept(protocol: Any, key: str) -> None:
    """Let picows parse frames from now on.

    It does so once it has read an acceptance, of which it compares some fields literally. So it
    gets one in those words, and not the service's, which has been checked already.
    """
    response = (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_for(key)}\r\n\r\n"
    ).encode("ascii")
    protocol.get_buffer(-1)[: len(response)] = response
    protocol.buffer_updated(len(response))
