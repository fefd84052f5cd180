"""The data listener: WebSockets of local proxies, on picows.

Handshakes are judged synchronously when the request has been read; a connection
gets no task, queue or future of its own. Frames go from one WebSocket to the other
as views of the receive buffer: picows writes frame header and view with one
``writelines``, and the aiofastnet transports copy what they cannot write at once.
On any other transport the view is copied first, because asyncio (3.12 on) and
uvloop keep it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, Protocol, TypeAlias

import aiofastnet
from picows import (
    WSCloseCode,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_create_server,
)

from ..errors import RemoteProtocolError
from ..secret import Secret
from ..wire import MAX_FRAME, SUBPROTOCOL_V1
from .audit import AuditLog
from .buckets import Bucket, Buckets
from .config import DataSettings
from .counters import Counters
from .errors import StoreFailed
from .fabric import Fabric
from .gate import Gate
from .handshake import Handshake, HandshakeRefused, UpgradeRequest, read_handshake, refuse_admission
from .limits import DEFAULT, Limits, network
from .loop_faults import LoopFaults
from .picows_log import PicowsLog
from .proxy_protocol import ProxyListener
from .refusals import RefusalLog
from .relay import RelayEnd, service_ids_message
from .store import Side, TunnelRecord
from .tunnels import AdmissionRefused

__all__ = ["Admissions", "DataListener"]

_LoopHandler: TypeAlias = Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object]

_log = logging.getLogger(__name__)

_REASON_LIMIT: Final = 123
"""Bytes of reason in a close frame (RFC 6455 section 5.5)."""

_ACCEPT_AT_ONCE: Final = 8
"""Connections accepted in one turn of the loop: each will ask for a millisecond of TLS."""

_HEADROOM: Final = 14
"""Bytes that picows wants in front of a buffer it may write a frame header into."""

_LOST: Final = "lost"
_PROTOCOL_ERROR: Final = "protocol_error"
_CLOSE_CAUSES: Final = {1000: "tunnel_closed", 1008: "replaced"}

_BINARY: Final = WSMsgType.BINARY
_CONTINUATION: Final = WSMsgType.CONTINUATION
_DATA_FRAMES: Final = (_BINARY, _CONTINUATION)


class Admissions(Protocol):
    """What the listener asks and tells the rest of the service."""

    def admit(self, token: Secret, side: Side, client_token: Secret | None) -> TunnelRecord:
        """Let a bearer in.

        Raises:
            AdmissionRefused: the token does not open this side of an open tunnel.
            StoreFailed: the tokens cannot be looked up.
        """

    def channel_id(self) -> str:
        """Return an id for a new connection."""

    def connected(self, tunnel_id: str, side: Side) -> None:
        """Record that this side now has a connection."""

    def disconnected(self, tunnel_id: str, side: Side) -> None:
        """Record that this side no longer has a connection."""


class DataListener:
    """Accepts local proxies and joins them to the relay's fabric."""

    def __init__(
        self,
        admissions: Admissions,
        fabric: Fabric,
        settings: DataSettings | None = None,
        limits: Limits = DEFAULT,
        *,
        counters: Counters | None = None,
        audit: AuditLog | None = None,
    ) -> None:
        self._admissions = admissions
        self.fabric = fabric
        self.settings = settings or DataSettings()
        self.counters = counters or Counters(time.monotonic)
        self._audit = audit or AuditLog(None, time.time)
        self._proxies: ProxyListener | None = None
        self._stopping = False
        self._loop_handler: _LoopHandler | None = None
        self.limits = limits
        self.clock = time.monotonic
        self.refusals = RefusalLog(_log, self.clock)
        self._faults = LoopFaults(self.refusals)
        self._connections = Buckets(limits.connection_rate, limits.connection_rate)
        self._bandwidth: dict[str, Bucket] = {}
        self._links: set[_DataLink] = set()
        self._current: dict[tuple[str, Side], _DataLink] = {}
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def link_count(self) -> int:
        """Open WebSockets."""
        return len(self._links)

    async def start(self, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Accept connections on a bound socket; ``tls`` is ``None`` behind a TLS terminator."""
        self._faults.install(asyncio.get_running_loop())
        if self.settings.proxies:
            self._proxies = ProxyListener(
                listening, self.settings.proxies, self.limits.handshake_seconds
            )
            listening = self._proxies.server_socket
        self._server = await ws_create_server(
            self._accept,
            sock=Gate(listening, self._let_in, self._out_of_files),
            ssl=tls,
            backlog=_ACCEPT_AT_ONCE,
            logger_name=PicowsLog(self.refusals),
            websocket_handshake_timeout=self.limits.handshake_seconds,
            enable_auto_pong=False,
            max_frame_size=MAX_FRAME,
            read_buffer_init_size=self.settings.read_buffer,
            use_aiofastnet=self.settings.use_aiofastnet,
            ssl_handshake_timeout=self.limits.handshake_seconds if tls else None,
            ssl_shutdown_timeout=self.settings.close_timeout if tls else None,
        )
        if self._proxies is not None:
            self._proxies.start()
        loop = asyncio.get_running_loop()
        self._loop_handler = loop.get_exception_handler()
        loop.set_exception_handler(self._loop_fault)
        self._schedule_sweep()

    async def stop(self) -> None:
        """Drop all links without a close frame, so that clients come back.

        What is recorded of their tunnels stays as it is: whoever stops the listener
        turns all of them DISCONNECTED in one go.
        """
        self._stopping = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._server is not None:
            self._server.close()
            asyncio.get_running_loop().set_exception_handler(self._loop_handler)
        if self._proxies is not None:
            self._proxies.stop()
        self.refusals.flush()
        for link in list(self._links):
            link.drop()
        # Each of them aborts itself when its client does not let it end in time.
        await self._idle.wait()
        self._faults.remove()

    def _loop_fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Keep quiet about clients that leave before TLS is set up, as health checks do.

        aiofastnet 1.2 reports those with the exception's class in place of the exception,
        which logging cannot format.
        """
        if context.get("exception") is ConnectionResetError:
            self.counters.refusals["tls_not_finished"] += 1
        elif self._loop_handler is not None:
            self._loop_handler(loop, context)
        else:
            loop.default_exception_handler(context)

    def _schedule_sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(self.settings.sweep_interval, self._sweep)

    def _sweep(self) -> None:
        now = self.clock()
        for link in tuple(self._links):
            link.sweep(now)
        for tunnel_id, bucket in tuple(self._bandwidth.items()):
            connected = any((tunnel_id, side) in self._current for side in Side)
            # Not with the last link: coming back must not fill the bucket.
            if not connected and bucket.is_full(now):
                del self._bandwidth[tunnel_id]
        self.refusals.flush()
        self._schedule_sweep()

    def bandwidth_of(self, tunnel_id: str) -> Bucket | None:
        """Return the bucket that all connections of a tunnel share, ``None`` without a limit."""
        rate = self.limits.bandwidth
        if not rate:
            return None
        bucket = self._bandwidth.get(tunnel_id)
        if bucket is None:
            bucket = self._bandwidth[tunnel_id] = Bucket(rate, rate, self.clock())
        return bucket

    def _let_in(self, host: str) -> bool:
        if self._connections.try_take(network(host), self.clock()):
            return True
        self.refusals.add(
            "connections per second",
            "connection from %s refused: more than %g in a second",
            host,
            self.limits.connection_rate,
        )
        return False

    def _out_of_files(self) -> None:
        self.refusals.add(
            "out of file descriptors",
            "connection refused: the process is out of file descriptors; raise its limit",
        )

    def _accept(self, request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
        """Judge an upgrade request; the one place where tokens are looked at."""
        channel_id = self._admissions.channel_id()
        try:
            handshake = read_handshake(_upgrade_request(request), self.limits.handshake_bytes)
            tunnel = self._admit(handshake, channel_id)
        except HandshakeRefused as refused:
            self.counters.refusals[refused.cause] += 1
            self.refusals.add(
                refused.cause, "channel %s: handshake refused: %s", channel_id, refused.text
            )
            return _refusal(refused, channel_id)
        # The token list may hold more than the one value that picows looks for
        # (browsers send "keep-alive, Upgrade").
        request.headers["Connection"] = "Upgrade"
        request.headers["Upgrade"] = "websocket"
        response = WSUpgradeResponse.create_101_response(
            {"Sec-WebSocket-Protocol": handshake.subprotocol, "channel-id": channel_id}
        )
        link = _DataLink(self, tunnel, handshake, channel_id)
        return WSUpgradeResponseWithListener(response, link)

    def _admit(self, handshake: Handshake, channel_id: str) -> TunnelRecord:
        try:
            return self._admissions.admit(handshake.token, handshake.side, handshake.client_token)
        except AdmissionRefused as refused:
            raise refuse_admission(refused.refusal) from None
        except StoreFailed as failed:
            _log.error("channel %s: %s", channel_id, failed)
            raise HandshakeRefused(
                HTTPStatus.SERVICE_UNAVAILABLE, "The service cannot look up the access token"
            ) from None

    def link_opened(self, link: _DataLink) -> None:
        """Take note of a link whose handshake is done."""
        self._links.add(link)
        self._idle.clear()
        self.counters.traffic[link.side].links += 1
        self._record("connected", link)
        self._current[link.tunnel_id, link.side] = link
        self._tell(self._admissions.connected, link)

    def link_closed(self, link: _DataLink) -> None:
        """Take note of a link whose connection is gone."""
        self._links.discard(link)
        if not self._links:
            self._idle.set()
        self.counters.traffic[link.side].links -= 1
        self.counters.ended[link.cause] += 1
        self._record("disconnected", link)
        # A link that was replaced leaves while its successor is connected.
        if self._current.get((link.tunnel_id, link.side)) is link:
            del self._current[link.tunnel_id, link.side]
            if not self._stopping:
                self._tell(self._admissions.disconnected, link)

    def _record(self, event: str, link: _DataLink) -> None:
        self._audit.link(event, link.tunnel_id, link.side, link.address, link.channel_id)

    def _tell(self, event: Callable[[str, Side], None], link: _DataLink) -> None:
        try:
            event(link.tunnel_id, link.side)
        except StoreFailed as failed:
            _log.error("channel %s: connection state not recorded: %s", link.channel_id, failed)


def _address(peer: tuple[str, int] | None) -> str:
    """Format an address of the socket module; the peer may be gone already."""
    if not peer:
        return "unknown"
    return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"


def _upgrade_request(request: WSUpgradeRequest) -> UpgradeRequest:
    headers = list(request.headers.items())
    target = request.path.decode("latin-1")
    # Counted with one space behind each colon, as everybody writes them: picows
    # does not keep the bytes.
    size = len(request.method) + len(request.path) + len(request.version) + 6
    size += sum(len(name) + len(value) + 4 for name, value in headers)
    return UpgradeRequest(request.method.decode("latin-1"), target, headers, size)


def _refusal(refused: HandshakeRefused, channel_id: str) -> WSUpgradeResponseWithListener:
    headers = {"X-Status-Reason": refused.text, "channel-id": channel_id}
    if refused.status is HTTPStatus.UPGRADE_REQUIRED:
        headers |= {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    response = WSUpgradeResponse.create_error_response(
        refused.status, refused.text.encode(), headers
    )
    return WSUpgradeResponseWithListener(response, None)


class _DataLink(WSListener):
    """One WebSocket of a local proxy: picows' callbacks on one side, the relay's on the other."""

    __slots__ = (
        "_bandwidth",
        "_closer",
        "_closing",
        "_end",
        "_fragmented",
        "_heard",
        "_listener",
        "_owed_pong",
        "_quiet_since",
        "_reading",
        "_reading_wanted",
        "_stall_began",
        "_stalled",
        "_thaw",
        "_transport",
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
        self, listener: DataListener, tunnel: TunnelRecord, handshake: Handshake, channel_id: str
    ) -> None:
        self.tunnel_id = tunnel.tunnel_id
        self.side = handshake.side
        self.channel_id = channel_id
        self.services = tunnel.services
        self.subprotocol = handshake.subprotocol
        self._listener = listener
        self.address = ""
        self.cause = _LOST
        self._end = RelayEnd(self, handshake.side, tunnel.services, listener.counters)
        self._transport: WSTransport
        self._zero_copy = False
        self._closing = False
        self._fragmented = False
        self._writing_paused = False
        self._owed_pong: bytes | None = None
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
            self._other_frame(kind, frame)

    def _other_frame(self, kind: WSMsgType, frame: WSFrame) -> None:
        if kind == WSMsgType.PING:
            self._answer_ping(frame.get_payload_as_bytes())
        elif kind == WSMsgType.PONG:
            self._end.pong_received(frame.get_payload_as_bytes())
        elif kind == WSMsgType.CLOSE:
            code = frame.get_close_code()
            _log.info("channel %s: closed by the client, code %d", self.channel_id, code.value)
            self.cause = "client"
            self._end.leave()
            self._begin_closing()
            self._transport.send_close(code)
            self._transport.disconnect()
        else:
            self._break_off(WSCloseCode.UNSUPPORTED_DATA, "only binary frames are accepted")

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if self._closer is not None:
            self._closer.cancel()
        self._stop_thaw()
        sent = transport.close_handshake and transport.close_handshake.sent
        if sent and not self._closing:
            # picows found the fault, and its own log is kept quiet.
            self.cause = _PROTOCOL_ERROR
            self._say_broken(sent.reason)
        self._closing = True
        self._decide_reading()
        self._end.leave()
        self._listener.link_closed(self)
        _log.info("channel %s: disconnected", self.channel_id)

    def pause_writing(self) -> None:
        self._writing_paused = True
        self._end.writing_paused()

    def resume_writing(self) -> None:
        self._writing_paused = False
        payload, self._owed_pong = self._owed_pong, None
        if payload is not None:
            self._transport.send_pong(payload)
        self._end.writing_resumed()

    def _answer_ping(self, payload: bytes) -> None:
        """Answer at once, or only the latest to a client that takes nothing in.

        So pongs cannot pile up (RFC 6455 section 5.5.3 allows it).
        """
        if self._writing_paused:
            self._owed_pong = payload
        else:
            self._transport.send_pong(payload)

    # relay -> picows

    def send(self, run: bytes | memoryview) -> None:
        if self._zero_copy:
            self._transport.send(_BINARY, run)
        else:
            message = bytearray(_HEADROOM)
            message += run
            self._transport.send_reuse_external_bytearray(_BINARY, message, _HEADROOM)

    def ping(self, payload: bytes) -> None:
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
        wanted = self._closing or not (self._stalled or self._thaw is not None)
        if self._reading_wanted is not wanted:
            self._reading_wanted = wanted
            stalls = self._listener.counters.stalls
            if wanted:
                stalls.end(self._stall_began)
            else:
                self._stall_began = stalls.begin()
            # Never from within a read: aiofastnet 1.2 would strand what it has
            # decrypted beyond that point until the client sends again.
            asyncio.get_running_loop().call_soon(self._apply_reading)

    def _apply_reading(self) -> None:
        if self._reading is self._reading_wanted:
            return
        self._reading = self._reading_wanted
        if self._reading:
            self._transport.underlying_transport.resume_reading()
        else:
            self._transport.underlying_transport.pause_reading()

    def close(self, code: int, reason: str) -> None:
        if self._closing:
            return
        _log.info("channel %s: closing, code %d: %s", self.channel_id, code, reason)
        self.cause = _CLOSE_CAUSES.get(code, f"code_{code}")
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
            self.drop()

    def drop(self) -> None:
        """Flush and end the link without a close frame: to the client it was lost."""
        self._end.leave()
        if not self._closing:
            self.cause = "shutdown"
            self._begin_closing()
        self._transport.disconnect()

    def abort(self) -> None:
        """End the link at once."""
        self._transport.disconnect(graceful=False)
