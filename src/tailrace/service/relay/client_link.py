"""One link of a local proxy: a WebSocket on picows, between the client and the relay.

Frames go from one WebSocket to the other as views of the receive buffer: picows
writes frame header and view with one ``writelines``, and the aiofastnet transports
copy what they cannot write at once. On any other transport the view is copied first,
because asyncio (3.12 on) and uvloop keep it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

import aiofastnet
from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport

from ...errors import RemoteProtocolError
from ...flow.token_bucket import Bucket
from ...flow.window_driver import WindowDriver
from ...wire import SUBPROTOCOL_V1
from ..config import DataSettings
from ..limits import Limits
from ..telemetry.counters import Counters
from ..telemetry.throttled_log import ThrottledLog
from ..tunnels.records import TunnelRecord
from .handshake import Handshake
from .read_limiter import BITE, NIBBLE, PacedProtocol
from .relay_end import REPLACED, SHARE, RelayEnd, service_ids_message
from .switchboard import Fabric

__all__ = ["ClientLink", "LinkContext"]

_log = logging.getLogger(__name__)

_REASON_LIMIT: Final = 123
"""Bytes of reason in a close frame (RFC 6455 section 5.5)."""

_HEADROOM: Final = 14
"""Bytes that picows wants in front of a buffer it may write a frame header into."""

_LOST: Final = "lost"
_PROTOCOL_ERROR: Final = "protocol_error"

_SHARE_LOW: Final = SHARE // 2
"""Below this, the end's share is renewed in the next turn of the loop: a link that moves
large messages does not ask for it with every read."""

_RETRY: Final = "_retry_ssl_read"
"""How aiofastnet 1.2 is told to look at what it has received but not decrypted yet. It does
not by itself when reading was paused from within a read, until the client sends again."""

_FRAME: Final = 8
"""What a control frame takes of the share."""

_BINARY: Final = WSMsgType.BINARY
_CONTINUATION: Final = WSMsgType.CONTINUATION
_DATA_FRAMES: Final = (_BINARY, _CONTINUATION)


class LinkContext(Protocol):
    """What the links of one listener have in common."""

    fabric: Fabric
    settings: DataSettings
    limits: Limits
    counters: Counters
    refusals: ThrottledLog
    clock: Callable[[], float]
    """Seconds, steadily."""

    def bandwidth_of(self, tunnel_id: str) -> Bucket | None:
        """Return the bucket that all connections of a tunnel share, ``None`` without a limit."""

    def link_opened(self, link: ClientLink) -> None:
        """Take note of a link whose handshake is done."""

    def link_closed(self, link: ClientLink) -> None:
        """Take note of a link whose connection is gone."""


def _address(peer: tuple[str, int] | None) -> str:
    """Format an address of the socket module; the peer may be gone already."""
    if not peer:
        return "unknown"
    return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"


class ClientLink(WSListener):
    """One WebSocket of a local proxy: picows' callbacks on one side, the relay's on the other."""

    __slots__ = (
        "_bandwidth",
        "_behind",
        "_choked",
        "_closer",
        "_closing",
        "_departing",
        "_end",
        "_fragmented",
        "_heard",
        "_listener",
        "_owed_pong",
        "_paced",
        "_quiet_since",
        "_reading",
        "_reading_wanted",
        "_stall_began",
        "_stalled",
        "_thaw",
        "_transport",
        "_turning",
        "_window",
        "_writing_paused",
        "_zero_copy",
        "address",
        "cause",
        "channel_id",
        "services",
        "side",
        "subprotocol",
        "tunnel_id",
    )

    def __init__(
        self, listener: LinkContext, tunnel: TunnelRecord, handshake: Handshake, channel_id: str
    ) -> None:
        self.tunnel_id = tunnel.tunnel_id
        self.side = handshake.side
        self.channel_id = channel_id
        self.services = tunnel.services
        self.subprotocol = handshake.subprotocol
        self._listener = listener
        self.address = ""
        self.cause = _LOST
        self._end = RelayEnd(
            self, handshake.side, tunnel.services, listener.counters, ours=handshake.ours
        )
        self._transport: WSTransport
        self._zero_copy = False
        self._paced: PacedProtocol | None = None
        self._closing = False
        self._fragmented = False
        self._writing_paused = False
        self._choked = False
        self._window: WindowDriver | None = None
        if handshake.ours:
            loop = asyncio.get_running_loop()
            self._window = WindowDriver(loop, self.ping, self._decide_writing)
        self._owed_pong: bytes | None = None
        self._behind = False
        self._turning = False
        self._departing = False
        self._reading = True
        self._reading_wanted = True
        self._stall_began = 0.0
        self._stalled = False
        self._closer: asyncio.TimerHandle | None = None
        self._bandwidth: Bucket | None = None
        self._thaw: asyncio.TimerHandle | None = None
        self._heard = True
        self._quiet_since = 0.0

    # picows -> relay

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        settings = self._listener.settings
        below = transport.underlying_transport
        below.set_write_buffer_limits(settings.write_high, settings.write_low)
        self._zero_copy = isinstance(below, aiofastnet.Transport)
        encrypted = below.get_extra_info("ssl_object") is not None
        if self._zero_copy and (hasattr(below, _RETRY) or not encrypted):
            inner = below.get_protocol()
            assert isinstance(inner, asyncio.BufferedProtocol)
            self._paced = PacedProtocol(inner)
            below.set_protocol(self._paced)
        self.address = _address(below.get_extra_info("peername"))
        _log.info(
            "channel %s: %s of tunnel %s connected from %s, %s",
            self.channel_id,
            self.side,
            self.tunnel_id,
            self.address,
            self.subprotocol,
        )
        if self.subprotocol != SUBPROTOCOL_V1:
            self.send(service_ids_message(self.services))
        self._bandwidth = self._listener.bandwidth_of(self.tunnel_id)
        self._listener.link_opened(self)
        self._end.join(self._listener.fabric, self.tunnel_id)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        self._heard = True
        if self._bandwidth is not None:
            self._charge(frame.payload_size)
        if self._closing:
            self._end.share -= 1
            if kind == WSMsgType.CLOSE:
                transport.disconnect()
        elif kind in _DATA_FRAMES:
            # Fragments need not be put together: the frames of a link carry one
            # byte stream, wherever they begin and end.
            if (kind == _CONTINUATION) is not self._fragmented or frame.rsv1:
                self._break_off(WSCloseCode.PROTOCOL_ERROR, "frame is out of sequence")
                return
            self._fragmented = not frame.fin
            try:
                self._end.frame_received(frame.get_payload_as_memoryview())
            except RemoteProtocolError as error:
                self._break_off(WSCloseCode.PROTOCOL_ERROR, str(error))
        else:
            self._end.share -= _FRAME
            self._other_frame(kind, frame)
        if self._end.share < _SHARE_LOW and not self._behind:
            self._run_low()

    def _other_frame(self, kind: WSMsgType, frame: WSFrame) -> None:
        if kind == WSMsgType.PING:
            self._answer_ping(frame.get_payload_as_bytes())
        elif kind == WSMsgType.PONG:
            self._pong_received(frame.get_payload_as_bytes())
        elif kind == WSMsgType.CLOSE:
            code = frame.get_close_code()
            _log.info("channel %s: closed by the client, code %d", self.channel_id, code.value)
            self.cause = "client"
            self._leave()
            self._begin_closing()
            self._transport.send_close(code)
            self._transport.disconnect()
        else:
            self._break_off(WSCloseCode.UNSUPPORTED_DATA, "only binary frames are accepted")

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._let_go()
        sent = transport.close_handshake and transport.close_handshake.sent
        if sent and not self._closing:
            # picows found the fault, and its own log is kept quiet.
            self.cause = _PROTOCOL_ERROR
            self._say_broken(sent.reason)
        self._closing = True
        self._decide_reading()
        self._leave()
        self._listener.link_closed(self)
        _log.info("channel %s: disconnected", self.channel_id)

    def _let_go(self) -> None:
        """Give up what leads back to this link, or who holds it.

        Else only the garbage collector would free the buffers of TLS, half a megabyte, and
        it goes by the number of objects: it would let a hundred links pile up.
        """
        if self._closer is not None:
            self._closer.cancel()
            self._closer = None
        if self._window is not None:
            self._window.stop()
            self._window = None
        self._paced = None
        self._stop_thaw()

    def _run_low(self) -> None:
        """Ask for another turn of the loop; with nothing left of the share, read no more till then.

        A read may bring thousands of tiny frames, which cannot be told to wait: so what
        they hold is kept aside as quickly as can be.
        """
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)
        if self._end.share <= 0:
            self._behind = True
            self._decide_reading()
        if self._paced is not None:
            self._paced.bite = NIBBLE if self._behind else BITE
            if self._behind:
                self._apply_reading()

    def _turn(self) -> None:
        """Go on with what was received, after other links had their turn."""
        self._turning = False
        try:
            self._end.proceed()
        except RemoteProtocolError as error:
            if not self._closing:
                self._break_off(WSCloseCode.PROTOCOL_ERROR, str(error))
            else:
                self._say_broken(str(error))
                self._end.leave()
        if not self._writing_paused:
            self._answer_owed()
        self._behind = bool(self._end.backlog)
        if self._behind:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)
        elif self._departing:
            self._end.leave()
        self._decide_reading()

    def _leave(self) -> None:
        """Give up the place in the tunnel, when all that the client has sent is passed on."""
        if self._end.backlog:
            self._departing = True
        else:
            self._end.leave()

    def pause_writing(self) -> None:
        self._writing_paused = True
        self._decide_writing()

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._answer_owed()
        self._decide_writing()

    def _decide_writing(self) -> None:
        """Let the other side send while this client takes things in."""
        choked = self._writing_paused or (self._window is not None and self._window.full)
        if choked is not self._choked:
            self._choked = choked
            if choked:
                self._end.writing_paused()
            else:
                self._end.writing_resumed()

    def _pong_received(self, payload: bytes) -> None:
        self._end.pong_received(payload)
        if self._window is not None:
            self._window.pong_received(payload)

    def _answer_ping(self, payload: bytes) -> None:
        """Answer at once, or only the latest to a client that takes nothing in.

        So pongs cannot pile up, and a flood of pings takes no more than its share of
        the time (RFC 6455 section 5.5.3 allows it).
        """
        if self._writing_paused or self._end.share <= 0:
            self._owed_pong = payload
        else:
            self._transport.send_pong(payload)

    def _answer_owed(self) -> None:
        payload, self._owed_pong = self._owed_pong, None
        if payload is not None and not self._closing:
            self._transport.send_pong(payload)

    # relay -> picows

    def send(self, run: bytes | memoryview) -> None:
        if self._departing:
            return
        if self._zero_copy:
            self._transport.send(_BINARY, run)
        else:
            message = bytearray(_HEADROOM)
            message += run
            self._transport.send_reuse_external_bytearray(_BINARY, message, _HEADROOM)
        if self._window is not None:
            self._window.count(len(run))

    def ping(self, payload: bytes) -> None:
        if not self._departing:
            self._transport.send_ping(payload)

    def pause_reading(self) -> None:
        self._stalled = True
        self._decide_reading()

    def resume_reading(self) -> None:
        self._stalled = False
        self._decide_reading()

    def _charge(self, size: int) -> None:
        """Pay for a frame; when the tunnel is in debt, read nothing until it is paid.

        Only the link that overdraws waits: the first frame of the other direction
        still passes, so that a bulk transfer does not silence an interactive answer.
        """
        assert self._bandwidth is not None
        delay = self._bandwidth.take(size, self._listener.clock())
        if delay > 0 and not self._closing:
            self._stop_thaw()
            self._thaw = asyncio.get_running_loop().call_later(delay, self._thawed)
            self._decide_reading()

    def _thawed(self) -> None:
        self._thaw = None
        self._decide_reading()

    def _stop_thaw(self) -> None:
        if self._thaw is not None:
            self._thaw.cancel()
            self._thaw = None

    def _decide_reading(self) -> None:
        # The client's answer to a close frame has to be read.
        wanted = not self._behind and (
            self._closing or not (self._stalled or self._thaw is not None)
        )
        if self._reading_wanted is not wanted:
            self._reading_wanted = wanted
            stalls = self._listener.counters.stalls
            if wanted:
                stalls.end(self._stall_began)
            else:
                self._stall_began = stalls.begin()
            # Not from within a read, unless that is known to be safe.
            asyncio.get_running_loop().call_soon(self._apply_reading)
            if self._window is not None:
                self._bound_while_reading(self._window)

    def _bound_while_reading(self, window: WindowDriver) -> None:
        """Bound what is in flight only while pongs can come in."""
        if self._reading_wanted:
            window.resume()
        else:
            window.suspend()
        if self._choked:
            # Not at once: the other side may be just about to stop this one.
            asyncio.get_running_loop().call_soon(self._decide_writing)

    def _apply_reading(self) -> None:
        if self._reading is self._reading_wanted:
            return
        self._reading = self._reading_wanted
        below = self._transport.underlying_transport
        if self._reading:
            below.resume_reading()
            retry = getattr(below, _RETRY, None)
            if retry is not None:
                retry()
        else:
            below.pause_reading()

    def close(self, code: int, reason: str) -> None:
        if self._closing:
            return
        _log.info("channel %s: closing, code %d: %s", self.channel_id, code, reason)
        if code == 1000:
            self.cause = "tunnel_closed"
        else:
            self.cause = "replaced" if reason == REPLACED else "revoked"
        self._begin_closing()
        self._transport.send_close(WSCloseCode(code), reason.encode()[:_REASON_LIMIT])

    def _break_off(self, code: WSCloseCode, reason: str) -> None:
        """Disconnect a client that broke the protocol."""
        self._say_broken(reason)
        self.cause = _PROTOCOL_ERROR
        self._end.leave()
        self._begin_closing()
        text = reason.encode()[:_REASON_LIMIT].decode(errors="ignore")
        self._transport.send_close(code, text)

    def _say_broken(self, reason: str | None) -> None:
        self._listener.refusals.add(
            "protocol broken",
            "channel %s: client broke the protocol: %s",
            self.channel_id,
            reason,
        )

    def _begin_closing(self) -> None:
        """Take no more messages, and see to it that the link ends."""
        self._closing = True
        self._stop_thaw()
        self._decide_reading()
        loop = asyncio.get_running_loop()
        self._closer = loop.call_later(self._listener.settings.close_timeout, self.abort)

    # listener -> link

    def sweep(self, now: float) -> None:
        """Do what time asks for; call it every few seconds."""
        if self._closing:
            return
        self._end.sweep()
        if self._thaw is not None:
            # As for a stalled link: no pongs come while nothing is read.
            self.ping(b"0")
        idle = self._listener.limits.idle_seconds
        if self._heard or not self._reading:
            self._heard = False
            self._quiet_since = now
        elif idle and now - self._quiet_since >= idle:
            _log.info("channel %s: dropped, idle for %g s", self.channel_id, idle)
            self.drop("idle")

    def drop(self, cause: str) -> None:
        """Flush and end the link without a close frame: to the client it was lost."""
        self._end.leave()
        if not self._closing:
            self.cause = cause
            self._begin_closing()
        self._transport.disconnect()

    def abort(self) -> None:
        """End the link at once."""
        self._transport.disconnect(graceful=False)
