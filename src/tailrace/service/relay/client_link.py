"""One link of a local proxy: a WebSocket on picows, between the client and the relay.

Frames go from one WebSocket to the other as views of the receive buffer: picows
writes frame header and view with one ``writelines``, and the aiofastnet transports
copy what they cannot write at once. On any other transport the view is copied first,
because asyncio (3.12 on) and uvloop keep it.

A link goes through the states of :class:`LinkState`, always forward. Whether it is read,
whether more may be sent to it, and how much of its traffic is handled at once, is decided
by its :class:`~.read_gate.ReadGate`, :class:`~.write_gate.WriteGate` and
:class:`~.turn_budget.TurnBudget`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

import aiofastnet
from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport

from ...common.close_codes import may_be_sent
from ...common.log_floods import flood_kind
from ...errors import RemoteProtocolError
from ...flow.token_bucket import Bucket
from ...flow.window_driver import WindowDriver
from ...wire import SUBPROTOCOL_V1, Capabilities, Capability, Side
from ..config import DataSettings
from ..limits import Limits
from ..telemetry.counters import Counters
from .read_gate import ReadBlock, ReadGate
from .relay_end import REPLACED, RelayEnd, service_ids_message
from .switchboard import Switchboard
from .turn_budget import FRAME_COST, LOW_BUDGET, TurnBudget
from .write_gate import WriteGate

__all__ = ["ClientLink", "LinkContext", "LinkInfo", "LinkState"]

_log = logging.getLogger(__name__)

_REASON_LIMIT: Final = 123
"""Bytes of reason in a close frame (RFC 6455 section 5.5)."""

_HEADROOM: Final = 14
"""Bytes that picows wants in front of a buffer it may write a frame header into."""

_NO_STATUS: Final = 1005
"""Stands for a close frame without a code, and is never sent (RFC 6455 section 7.4.1)."""

_RESERVED_BIT: Final = "a reserved bit of a frame is set"
"""No extension gives these bits a meaning (RFC 6455 section 5.2), and picows ignores them."""

_LOST: Final = "lost"
_PROTOCOL_ERROR: Final = "protocol_error"

_BINARY: Final = WSMsgType.BINARY
_CONTINUATION: Final = WSMsgType.CONTINUATION
_DATA_FRAMES: Final = (_BINARY, _CONTINUATION)


class LinkState(Enum):
    """The life of a link."""

    OPEN = "open"
    """What the client sends is judged and passed on."""
    DRAINING = "draining"
    """The client has gone; what it sent before is still being passed on, nothing else."""
    CLOSING = "closing"
    """The link has no place in the tunnel any more, and ends in bounded time."""


_OPEN: Final = LinkState.OPEN


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """What is known of a link since its handshake."""

    channel_id: str
    address: str
    """Where the client is, as a proxy in between tells."""
    tunnel_id: str
    expires_at: float
    """When the tunnel ends, in seconds since the epoch."""
    side: Side
    services: Sequence[str]
    subprotocol: str
    capabilities: Capabilities
    """What the client can do, see :class:`~.handshake.Handshake`."""
    owner: str
    """Side, tunnel and thing in words, for logs."""


class LinkContext(Protocol):
    """What the links of one listener have in common."""

    switchboard: Switchboard
    settings: DataSettings
    limits: Limits
    counters: Counters
    clock: Callable[[], float]
    """Seconds, steadily."""

    def bandwidth_of(self, tunnel_id: str) -> Bucket | None:
        """Return the bucket that all connections of a tunnel share, ``None`` without a limit."""

    def link_opened(self, link: ClientLink) -> None:
        """Called when the handshake of a link is done."""

    def link_closed(self, link: ClientLink) -> None:
        """Called when the connection of a link is gone."""


class ClientLink(WSListener):
    """One WebSocket of a local proxy: picows' callbacks on one side, the relay's on the other."""

    __slots__ = (
        "_bandwidth",
        "_closer",
        "_context",
        "_end",
        "_fragmented",
        "_heard",
        "_pending_pong",
        "_quiet_since",
        "_read_gate",
        "_state",
        "_throttle_timer",
        "_transport",
        "_turn_budget",
        "_write_gate",
        "_zero_copy",
        "cause",
        "descriptor",
        "info",
    )

    def __init__(self, context: LinkContext, info: LinkInfo) -> None:
        self.info = info
        self.descriptor = -1
        """The file descriptor of the connection."""
        self.cause = _LOST
        """Why the link ended or will end, for statistics."""
        self._context = context
        self._state = _OPEN
        self._end: RelayEnd | None = None
        """The place in the tunnel; given up, and ``None``, in state CLOSING."""
        self._transport: WSTransport
        self._zero_copy = False
        self._fragmented = False
        """Whether the next data frame must continue a message."""
        self._turn_budget = TurnBudget()
        self._read_gate = ReadGate(context.counters.stalls)
        window = None
        if Capability.PINGS in info.capabilities:
            loop = asyncio.get_running_loop()
            window = WindowDriver(loop, self.ping, self._update_writing)
        self._write_gate = WriteGate(window)
        self._pending_pong: bytes | None = None
        self._closer: asyncio.TimerHandle | None = None
        self._bandwidth: Bucket | None = None
        self._throttle_timer: asyncio.TimerHandle | None = None
        self._heard = True
        """Whether anything has come since the last sweep."""
        self._quiet_since = 0.0

    # -- picows -> relay ---------------------------------------------------------------

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        context, info = self._context, self.info
        below = transport.underlying_transport
        below.set_write_buffer_limits(context.settings.write_high, context.settings.write_low)
        self._zero_copy = isinstance(below, aiofastnet.Transport)
        self._read_gate.attach(below)
        self.descriptor = below.get_extra_info("socket").fileno()
        _log.info(
            "channel %s: %s connected from %s, %s",
            info.channel_id,
            info.owner,
            info.address,
            info.subprotocol,
            extra=flood_kind(per=info.tunnel_id),
        )
        if info.subprotocol != SUBPROTOCOL_V1:
            self.send(service_ids_message(info.services))
        self._write_gate.start()
        self._bandwidth = context.bandwidth_of(info.tunnel_id)
        context.link_opened(self)
        self._end = RelayEnd(
            self,
            info.side,
            info.services,
            context.counters,
            self._turn_budget,
            info.capabilities,
        )
        self._end.join(context.switchboard, info.tunnel_id, info.expires_at)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        self._heard = True
        # 1. What was read has to be paid for, whatever becomes of it.
        if self._bandwidth is not None:
            self._charge(self._bandwidth, frame.payload_size)
        budget = self._turn_budget
        # 2. The frame.
        if self._state is not _OPEN or self._end is None:
            budget.left -= 1
            if kind == WSMsgType.CLOSE:
                transport.disconnect()
        elif kind in _DATA_FRAMES:
            # Fragments need not be put together: the frames of a link carry one
            # byte stream, wherever they begin and end.
            if frame.rsv1 or frame.rsv2 or frame.rsv3:
                self._break_off(WSCloseCode.PROTOCOL_ERROR, _RESERVED_BIT)
                return
            if (kind == _CONTINUATION) is not self._fragmented:
                self._break_off(WSCloseCode.PROTOCOL_ERROR, "frame is out of sequence")
                return
            self._fragmented = not frame.fin
            try:
                self._end.frame_received(frame.get_payload_as_memoryview())
            except RemoteProtocolError as error:
                self._break_off(WSCloseCode.PROTOCOL_ERROR, str(error))
        else:
            budget.left -= FRAME_COST
            self._control_frame(kind, frame)
        # 3. The turn: a flood of frames cannot be told to wait while one read is handled,
        #    so that what they hold is kept aside as quickly as can be.
        if budget.left < LOW_BUDGET and not budget.overdrawn:
            self._budget_low()

    def _control_frame(self, kind: WSMsgType, frame: WSFrame) -> None:
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self._break_off(WSCloseCode.PROTOCOL_ERROR, _RESERVED_BIT)
        elif kind == WSMsgType.PING:
            self._pending_pong = frame.get_payload_as_bytes()
            if self._turn_budget.left > 0:
                self._send_pong()
        elif kind == WSMsgType.PONG:
            self._pong_received(frame.get_payload_as_bytes())
        elif kind == WSMsgType.CLOSE:
            self._close_frame(frame.get_payload_as_bytes())
        else:
            self._break_off(WSCloseCode.UNSUPPORTED_DATA, "only binary frames are accepted")

    def _close_frame(self, payload: bytes) -> None:
        """Answer with the same code, or with none where none came (RFC 6455 section 5.5.1)."""
        code = int.from_bytes(payload[:2], "big") if payload else _NO_STATUS
        if payload and not may_be_sent(code):
            self._break_off(WSCloseCode.PROTOCOL_ERROR, f"{code} is no close code to send")
            return
        self._log("closed by the client, code %d", code)
        self.cause = "client"
        self._begin_closing()
        self._transport.send(WSMsgType.CLOSE, payload[:2])
        self._transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        sent = transport.close_handshake and transport.close_handshake.sent
        if sent and self._state is _OPEN:
            # picows found the fault, and its own log is kept quiet.
            self.cause = _PROTOCOL_ERROR
            self._log_broken(sent.reason)
        # Break all reference cycles through this link. Otherwise only the garbage collector
        # would free the buffers of TLS, half a megabyte, and it goes by the number of
        # objects: a hundred links would pile up.
        if self._closer is not None:
            self._closer.cancel()
            self._closer = None
        self._write_gate.stop()
        self._stop_taking()
        self._read_gate.detach()
        self._context.link_closed(self)
        self._log("disconnected")

    def _budget_low(self) -> None:
        """Ask for another turn of the loop; with no budget left, read no more until then."""
        budget, gate = self._turn_budget, self._read_gate
        budget.ask_for_turn(self._turn)
        budget.overdrawn = budget.left <= 0
        gate.limit_reads(small=budget.overdrawn)
        if budget.overdrawn:
            self._block_reading(ReadBlock.OVER_BUDGET)
            if gate.can_pause_in_read:
                gate.apply()

    def _turn(self) -> None:
        """Go on with what was received, after other links had their turn."""
        budget = self._turn_budget
        budget.renew()
        # 1. The backlog. A fault in it is found late, possibly when the client has gone.
        if self._end is not None:
            try:
                self._end.proceed()
            except RemoteProtocolError as error:
                if self._state is _OPEN:
                    self._break_off(WSCloseCode.PROTOCOL_ERROR, str(error))
                else:
                    self._log_broken(str(error))
                    self._leave()
        # 2. The latest of the pings that came when there was no time to answer.
        self._send_pong()
        # 3. More of it in the next turn, or the end of waiting.
        if self._end is not None and self._end.has_backlog:
            budget.ask_for_turn(self._turn)
            return
        if self._state is LinkState.DRAINING:
            self._leave()
        budget.overdrawn = False
        self._unblock_reading(ReadBlock.OVER_BUDGET)

    def pause_writing(self) -> None:
        self._write_gate.transport_full = True
        self._update_writing()

    def resume_writing(self) -> None:
        self._write_gate.transport_full = False
        self._send_pong()
        self._update_writing()

    def _update_writing(self) -> None:
        """Let the other side send while this client takes things in."""
        if self._write_gate.update() and self._end is not None:
            if self._write_gate.is_open:
                self._end.write_unblocked()
            else:
                self._end.write_blocked()

    def _pong_received(self, payload: bytes) -> None:
        if self._end is not None:
            self._end.pong_received(payload)
        if self._write_gate.window is not None:
            self._write_gate.window.pong_received(payload)

    def _send_pong(self) -> None:
        """Answer the latest ping, unless the client takes nothing in.

        So pongs cannot pile up, and a flood of pings takes no more time than any other
        (RFC 6455 section 5.5.3 allows it to answer the latest only).
        """
        if self._write_gate.transport_full:
            return
        payload, self._pending_pong = self._pending_pong, None
        if payload is not None and self._state is _OPEN:
            self._transport.send_pong(payload)

    # -- relay -> picows ---------------------------------------------------------------

    def send(self, messages: bytes | memoryview) -> None:
        if self._state is not _OPEN:
            return
        if self._zero_copy:
            self._transport.send(_BINARY, messages)
        else:
            buffer = bytearray(_HEADROOM)
            buffer += messages
            self._transport.send_reuse_external_bytearray(_BINARY, buffer, _HEADROOM)
        if self._write_gate.window is not None:
            self._write_gate.window.count(len(messages))

    def ping(self, payload: bytes) -> None:
        if self._state is _OPEN:
            self._transport.send_ping(payload)

    def pause_reading(self) -> None:
        if self._state is _OPEN:
            self._block_reading(ReadBlock.PEER_BLOCKED)

    def resume_reading(self) -> None:
        self._unblock_reading(ReadBlock.PEER_BLOCKED)

    def _charge(self, bandwidth: Bucket, size: int) -> None:
        """Pay for a frame; when the tunnel is in debt, read nothing until it is paid.

        Only the link that overdraws waits: the first frame of the other direction
        still passes, so that a bulk transfer does not silence an interactive answer.
        """
        delay = bandwidth.take(size, self._context.clock())
        if delay > 0 and self._state is _OPEN:
            self._stop_throttle()
            loop = asyncio.get_running_loop()
            self._throttle_timer = loop.call_later(delay, self._throttle_over)
            self._block_reading(ReadBlock.THROTTLED)

    def _throttle_over(self) -> None:
        self._throttle_timer = None
        self._unblock_reading(ReadBlock.THROTTLED)

    def _stop_throttle(self) -> None:
        if self._throttle_timer is not None:
            self._throttle_timer.cancel()
            self._throttle_timer = None

    def _block_reading(self, reason: ReadBlock) -> None:
        if self._read_gate.block(reason):
            self._reading_changed()

    def _unblock_reading(self, *reasons: ReadBlock) -> None:
        if self._read_gate.unblock(*reasons):
            self._reading_changed()

    def _reading_changed(self) -> None:
        self._write_gate.follow_reading(self._read_gate.is_open)
        if not self._write_gate.is_open:
            # Not at once: the other side may be just about to stop this one.
            asyncio.get_running_loop().call_soon(self._update_writing)

    # -- ending ------------------------------------------------------------------------

    def close(self, code: int, reason: str) -> None:
        if self._state is not _OPEN:
            return
        self._log("closing, code %d: %s", code, reason)
        if code == 1000:
            self.cause = "tunnel_closed"
        else:
            self.cause = "replaced" if reason == REPLACED else "revoked"
        self._begin_closing()
        self._transport.send_close(WSCloseCode(code), reason.encode()[:_REASON_LIMIT])

    def drop(self, cause: str) -> None:
        """Flush and end the link without a close frame: to the client it was lost."""
        is_open = self._state is _OPEN
        self._leave()
        if is_open:
            self.cause = cause
            self._begin_closing()
        self._transport.disconnect()

    def sweep(self, now: float) -> None:
        """Do what time asks for; call it every few seconds."""
        if self._state is not _OPEN or self._end is None:
            return
        self._end.sweep()
        self._read_gate.look_again()
        if self._throttle_timer is not None:
            # As for a peer that is blocked: no pongs come while nothing is read.
            self.ping(b"0")
        idle = self._context.limits.idle_seconds
        if self._heard or not self._read_gate.is_reading:
            self._heard = False
            self._quiet_since = now
        elif idle and now - self._quiet_since >= idle:
            self._log("dropped, idle for %g s", idle)
            self.drop("idle")

    def _break_off(self, code: WSCloseCode, reason: str) -> None:
        """Disconnect a client that broke the protocol."""
        self._log_broken(reason)
        self.cause = _PROTOCOL_ERROR
        self._leave()
        self._begin_closing()
        text = reason.encode()[:_REASON_LIMIT].decode(errors="ignore")
        self._transport.send_close(code, text)

    def _log_broken(self, reason: str | None) -> None:
        self._log(
            "client broke the protocol: %s", reason, level=logging.WARNING, cause="protocol broken"
        )

    def _log(self, text: str, *args: object, level: int = logging.INFO, cause: str = "") -> None:
        """Log what happens to this link, and whose it is; each tunnel has its own flood."""
        info = self.info
        _log.log(
            level,
            f"channel %s: {text}; %s, from %s",
            info.channel_id,
            *args,
            info.owner,
            info.address,
            extra=flood_kind(cause, info.tunnel_id),
            stacklevel=2,
        )

    def _begin_closing(self) -> None:
        """Take no more messages, and see to it that the link ends."""
        self._stop_taking()
        loop = asyncio.get_running_loop()
        timeout = self._context.settings.close_timeout
        self._closer = loop.call_later(timeout, self._transport.disconnect, False)

    def _stop_taking(self) -> None:
        """Take no more messages; leave the tunnel when all that came before is passed on."""
        if self._end is not None and self._end.has_backlog:
            self._state = LinkState.DRAINING
        else:
            self._leave()
        self._stop_throttle()
        # Whatever is to become of the messages, the answer to a close frame has to be read.
        self._unblock_reading(ReadBlock.PEER_BLOCKED, ReadBlock.THROTTLED)

    def _leave(self) -> None:
        """Give up the place in the tunnel."""
        self._state = LinkState.CLOSING
        end, self._end = self._end, None
        if end is not None:
            end.leave()
