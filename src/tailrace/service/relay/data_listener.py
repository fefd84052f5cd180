"""The data listener: takes in local proxies, on picows.

Handshakes are judged synchronously when the request has been read; a connection
gets no task, queue or future of its own.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Any, Final, Protocol, TypeAlias

import aiofastnet
from picows import WSUpgradeRequest, WSUpgradeResponse, WSUpgradeResponseWithListener

from ...common.secret import Secret
from ...flow.token_bucket import Bucket, Buckets
from ...wire import Side
from ..config import DataSettings
from ..errors import StoreFailed
from ..limits import Limits, network
from ..networks import contains, forwarded_client
from ..telemetry.audit import AuditLog
from ..telemetry.counters import Counters
from ..telemetry.picows_log import PicowsLog
from ..telemetry.throttled_log import ThrottledLog
from ..tunnels.records import TunnelRecord
from ..tunnels.rules import AdmissionRefused
from .accept_filter import AcceptFilter
from .client_link import ClientLink, LinkInfo
from .handshake import (
    Handshake,
    HandshakeRefused,
    RequestLine,
    UpgradeRequest,
    check_request_line,
    read_handshake,
    refuse_admission,
)
from .health_check import answer_health_check
from .proxy_protocol import ProxyListener
from .request_reader import RequestReader, make_websocket
from .switchboard import Switchboard

__all__ = ["Admissions", "DataListener"]

_Peer: TypeAlias = tuple[str, int] | None
_LoopHandler: TypeAlias = Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object]

_log = logging.getLogger(__name__)

_ACCEPT_AT_ONCE: Final = 8
"""Connections accepted in one turn of the loop: each will ask for a millisecond of TLS."""

_TLS_BUFFER: Final = 8 * (16 * 1024 + 64)
"""Bytes of ciphertext that a link takes from, or gives to, the system at once: 8 TLS records.

A link that was busy once keeps the memory of both buffers; twice as much made nothing faster.
"""

_TLS_BUFFERS: Final[dict[str, Any]] = {
    "ssl_incoming_bio_size": _TLS_BUFFER,
    "ssl_outgoing_bio_size": _TLS_BUFFER,
}


class Admissions(Protocol):
    """What the listener asks and tells the rest of the service."""

    def admit(self, token: Secret, side: Side, client_token: Secret | None) -> TunnelRecord:
        """Return the tunnel that a token opens, and use the token up.

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
    """Accepts local proxies and connects them through the switchboard."""

    __slots__ = (
        "_admissions",
        "_audit",
        "_bandwidth",
        "_connections",
        "_current",
        "_idle",
        "_links",
        "_loop_handler",
        "_picows_log",
        "_proxies",
        "_server",
        "_stopping",
        "_sweeper",
        "clock",
        "counters",
        "limits",
        "settings",
        "switchboard",
        "throttled_log",
    )

    def __init__(
        self,
        admissions: Admissions,
        switchboard: Switchboard,
        settings: DataSettings,
        limits: Limits,
        counters: Counters,
        audit: AuditLog,
    ) -> None:
        self._admissions = admissions
        self.switchboard = switchboard
        self.settings = settings
        self.counters = counters
        self._audit = audit
        self._proxies: ProxyListener | None = None
        self._stopping = False
        self._loop_handler: _LoopHandler | None = None
        self.limits = limits
        self.clock: Callable[[], float] = time.monotonic
        self.throttled_log = ThrottledLog(_log, self.clock)
        self._picows_log = PicowsLog(self.throttled_log)
        self._connections = Buckets(limits.connection_rate, limits.connection_rate)
        self._bandwidth: dict[str, Bucket] = {}
        self._links: set[ClientLink] = set()
        self._current: dict[tuple[str, Side], ClientLink] = {}
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Accept connections on a bound socket; ``tls`` is ``None`` behind a TLS terminator."""
        if self.settings.proxies:
            self._proxies = ProxyListener(
                listening, self.settings.proxies, self.limits.handshake_seconds
            )
            listening = self._proxies.server_socket
        loop = asyncio.get_running_loop()
        create_server: Callable[..., Awaitable[asyncio.Server]] = loop.create_server
        if self.settings.use_aiofastnet:
            create_server = partial(aiofastnet.create_server, loop)
        self._server = await create_server(
            self._new_connection,
            sock=AcceptFilter(listening, self._let_in, self._out_of_files),
            ssl=tls,
            backlog=_ACCEPT_AT_ONCE,
            ssl_handshake_timeout=self.limits.handshake_seconds if tls else None,
            ssl_shutdown_timeout=self.settings.close_timeout if tls else None,
            **(_TLS_BUFFERS if tls and self.settings.use_aiofastnet else {}),
        )
        if self._proxies is not None:
            self._proxies.start()
        self._loop_handler = loop.get_exception_handler()
        loop.set_exception_handler(self._loop_fault)
        self._schedule_sweep()

    async def stop(self) -> None:
        """Drop all links without a close frame, so that clients come back.

        The records of their tunnels stay as they are: the caller marks all of them
        DISCONNECTED at once.
        """
        self._stopping = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._server is not None:
            self._server.close()
            asyncio.get_running_loop().set_exception_handler(self._loop_handler)
        if self._proxies is not None:
            self._proxies.stop()
        self.throttled_log.flush()
        for link in list(self._links):
            link.drop("shutdown")
        # Each of them aborts itself when its client does not let it end in time.
        await self._idle.wait()

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
        self.throttled_log.flush()
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

    def _new_connection(self) -> RequestReader:
        return RequestReader(self._make_websocket, self._answer_other)

    def _make_websocket(self, peer: tuple[str, int] | None) -> Any:
        return make_websocket(
            partial(self._accept, peer=peer),
            self._picows_log,
            self.limits.handshake_seconds,
            self.settings.read_buffer,
        )

    def _let_in(self, host: str) -> bool:
        # The clients behind a proxy are counted when their requests name them.
        if contains(self.settings.forwarders, host) or self._within_rate(host):
            return True
        self.counters.refusals["connection_rate"] += 1
        self.throttled_log.add(
            "connections per second",
            "connection from %s refused: more than %g in a second",
            host,
            self.limits.connection_rate,
        )
        return False

    def _within_rate(self, host: str) -> bool:
        return self._connections.try_take(network(host), self.clock())

    def _out_of_files(self) -> None:
        self.counters.refusals["out_of_files"] += 1
        self.throttled_log.add(
            "out of file descriptors",
            "connection refused: the process is out of file descriptors; raise its limit",
        )

    def _answer_other(self, line: RequestLine | None, peer: _Peer) -> bytes | None:
        """Answer a request that cannot become a WebSocket; ``None`` if it may be an upgrade."""
        try:
            health = answer_health_check(line)
            if health is None:
                check_request_line(line)
        except HandshakeRefused as refused:
            response = self._refuse(refused, self._admissions.channel_id()).response
            response.headers["Connection"] = "close"
            return bytes(response.to_bytes())
        return health

    def _accept(self, request: WSUpgradeRequest, peer: _Peer) -> WSUpgradeResponseWithListener:
        """Judge an upgrade request; the one place where tokens are looked at."""
        channel_id = self._admissions.channel_id()
        try:
            address = self._client_address(request, peer)
            handshake = read_handshake(
                _upgrade_request(request), self.limits.handshake_bytes, self.settings.origins
            )
            tunnel = self._admit(handshake, channel_id)
        except HandshakeRefused as refused:
            return self._refuse(refused, channel_id)
        # The token list may hold more than the one value that picows looks for
        # (browsers send "keep-alive, Upgrade").
        request.headers["Connection"] = "Upgrade"
        request.headers["Upgrade"] = "websocket"
        headers = {"Sec-WebSocket-Protocol": handshake.subprotocol, "channel-id": channel_id}
        if handshake.is_tailrace:
            headers["X-Tailrace-Flow"] = "1"
        response = WSUpgradeResponse.create_101_response(headers)
        link = ClientLink(
            self,
            LinkInfo(
                channel_id,
                address,
                tunnel.tunnel_id,
                handshake.side,
                tunnel.services,
                handshake.subprotocol,
                handshake.is_tailrace,
            ),
        )
        return WSUpgradeResponseWithListener(response, link)

    def _client_address(self, request: WSUpgradeRequest, peer: _Peer) -> str:
        """Return where the client is; charge it for its connection if a proxy made that.

        Raises:
            HandshakeRefused: it has made too many of them.
        """
        trusted = self.settings.forwarders
        if peer is None or not contains(trusted, peer[0]):
            return _format_peer(peer)
        fields = request.headers.getall("X-Forwarded-For", [])
        client = forwarded_client(fields, peer[0], trusted)
        if not self._within_rate(client):
            raise HandshakeRefused(
                HTTPStatus.TOO_MANY_REQUESTS,
                "Too many connections from this address",
                "connection_rate",
            )
        return _format_peer(peer) if client == peer[0] else client

    def _refuse(self, refused: HandshakeRefused, channel_id: str) -> WSUpgradeResponseWithListener:
        self.counters.refusals[refused.cause] += 1
        self.throttled_log.add(
            refused.cause, "channel %s: handshake refused: %s", channel_id, refused.text
        )
        return _refusal(refused, channel_id)

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

    def link_opened(self, link: ClientLink) -> None:
        """Called when the handshake of a link is done."""
        self._links.add(link)
        self._idle.clear()
        self.counters.traffic[link.info.side].links += 1
        self._record("connected", link)
        self._current[link.info.tunnel_id, link.info.side] = link
        self._tell(self._admissions.connected, link.info)

    def link_closed(self, link: ClientLink) -> None:
        """Called when the connection of a link is gone."""
        self._links.discard(link)
        if not self._links:
            self._idle.set()
        place = (link.info.tunnel_id, link.info.side)
        self.counters.traffic[link.info.side].links -= 1
        self.counters.ended[link.cause] += 1
        self._record("disconnected", link)
        # A link that was replaced leaves while its successor is connected.
        if self._current.get(place) is link:
            del self._current[place]
            if not self._stopping:
                self._tell(self._admissions.disconnected, link.info)

    def _record(self, event: str, link: ClientLink) -> None:
        info = link.info
        self._audit.link(event, info.tunnel_id, info.side, info.address, info.channel_id)

    def _tell(self, event: Callable[[str, Side], None], info: LinkInfo) -> None:
        try:
            event(info.tunnel_id, info.side)
        except StoreFailed as failed:
            _log.error("channel %s: connection state not recorded: %s", info.channel_id, failed)


def _format_peer(peer: _Peer) -> str:
    """Format an address of the socket module; the peer may be gone already."""
    if not peer:
        return "unknown"
    return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"


def _upgrade_request(request: WSUpgradeRequest) -> UpgradeRequest:
    headers = list(request.headers.items())
    target = request.path.decode("latin-1")
    # Counted with one space after each colon, as all clients write them: picows does
    # not keep the bytes.
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
