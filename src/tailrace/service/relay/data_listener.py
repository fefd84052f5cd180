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

from ...common.log_floods import flood_kind
from ...common.secret import Secret
from ...flow.token_bucket import Bucket
from ...wire import Side
from ..accept_filter import ACCEPT_AT_ONCE, AcceptFilter
from ..config import DataSettings
from ..connection_limiter import ConnectionLimiter
from ..errors import StoreFailed
from ..limits import Limits
from ..networks import contains, forwarded_client
from ..telemetry.audit import AuditLog
from ..telemetry.client_address import client_address, name_client
from ..telemetry.counters import Counters
from ..telemetry.picows_log import PicowsLog
from ..tunnels.records import TunnelRecord
from ..tunnels.rules import AdmissionRefused
from .client_link import ClientLink, LinkInfo
from .handshake import (
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

_log = logging.getLogger(__name__)

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
        "_current",
        "_idle",
        "_limiter",
        "_links",
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
        self.limits = limits
        self.clock: Callable[[], float] = time.monotonic
        self._limiter = ConnectionLimiter(
            limits, "connection", counters.refusals, lambda: self.clock(), settings.forwarders
        )
        self._picows_log = PicowsLog()
        self._bandwidth: dict[str, Bucket] = {}
        self._links: set[ClientLink] = set()
        self._current: dict[tuple[str, Side], ClientLink] = {}
        self._server: Any = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Accept connections on a bound socket; ``tls`` is ``None`` behind a TLS terminator."""
        if self.settings.proxies:
            self._proxies = ProxyListener(
                listening,
                self.settings.proxies,
                self.limits.handshake_seconds,
                self._limiter.most,
            )
            listening = self._proxies.server_socket
        loop = asyncio.get_running_loop()
        create_server: Callable[..., Awaitable[asyncio.Server]] = loop.create_server
        if self.settings.use_aiofastnet:
            create_server = partial(aiofastnet.create_server, loop)
        self._server = await create_server(
            lambda: RequestReader(self._make_websocket, self._answer_other),
            sock=AcceptFilter(listening, self._limiter),
            ssl=tls,
            backlog=ACCEPT_AT_ONCE,
            # Or a cancellation would come between the server and who has to close it.
            start_serving=False,
            ssl_handshake_timeout=self.limits.handshake_seconds if tls else None,
            ssl_shutdown_timeout=self.settings.close_timeout if tls else None,
            **(_TLS_BUFFERS if tls and self.settings.use_aiofastnet else {}),
        )
        await self._server.start_serving()
        if self._proxies is not None:
            self._proxies.start()
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
        if self._proxies is not None:
            self._proxies.stop()
        for link in list(self._links):
            link.drop("shutdown")
        try:
            # Each of them aborts itself when its client does not let it end in time.
            await self._idle.wait()
        finally:
            if self._server is not None and self.settings.use_aiofastnet:
                # What is left has not got past the handshake.
                self._server.abort_clients()
        if self._server is not None and self.settings.use_aiofastnet:
            await self._server.wait_closed()

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

    def _make_websocket(self, peer: _Peer) -> Any:
        return make_websocket(
            partial(self._accept, peer=peer),
            self._picows_log,
            self.limits.handshake_seconds,
            self.settings.read_buffer,
        )

    def _answer_other(self, line: RequestLine | None) -> bytes | None:
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
            self._find_client(request, peer)
            handshake = read_handshake(
                _upgrade_request(request), self.limits.handshake_bytes, self.settings.origins
            )
        except HandshakeRefused as refused:
            return self._refuse(refused, channel_id)
        side = handshake.side
        try:
            tunnel = self._admissions.admit(handshake.token, side, handshake.client_token)
        except AdmissionRefused as refused:
            return self._refuse(refuse_admission(refused.refusal), channel_id, side, refused.tunnel)
        except StoreFailed as failed:
            _log.error("channel %s: %s", channel_id, failed)
            return self._refuse(_cannot_look_up(), channel_id, side)
        # The token list may hold more than the one value that picows looks for
        # (browsers send "keep-alive, Upgrade").
        request.headers["Connection"] = "Upgrade"
        request.headers["Upgrade"] = "websocket"
        headers = {"Sec-WebSocket-Protocol": handshake.subprotocol, "channel-id": channel_id}
        if handshake.agreement is not None:
            headers.update([handshake.agreement])
        response = WSUpgradeResponse.create_101_response(headers)
        link = ClientLink(
            self,
            LinkInfo(
                channel_id,
                client_address(),
                tunnel.tunnel_id,
                tunnel.expires_at,
                side,
                tunnel.services,
                handshake.subprotocol,
                handshake.capabilities,
                _describe_side(side, tunnel),
            ),
        )
        return WSUpgradeResponseWithListener(response, link)

    def _find_client(self, request: WSUpgradeRequest, peer: _Peer) -> None:
        """Note which client a proxy has connected, and charge it for the connection.

        Raises:
            HandshakeRefused: it has made too many of them.
        """
        trusted = self.settings.forwarders
        if peer is None or not contains(trusted, peer[0]):
            return
        client = forwarded_client(request.headers.getall("X-Forwarded-For", []), peer[0], trusted)
        if client != peer[0]:
            name_client(client)
        if not self._limiter.charge(client):
            raise HandshakeRefused(
                HTTPStatus.TOO_MANY_REQUESTS,
                "Too many connections from this address",
                "connection_rate",
            )

    def _refuse(
        self,
        refused: HandshakeRefused,
        channel_id: str,
        side: Side | None = None,
        tunnel: TunnelRecord | None = None,
    ) -> WSUpgradeResponseWithListener:
        """Answer, count and record a handshake for ``side``, with a token of ``tunnel``."""
        address, tunnel_id = client_address(), tunnel.tunnel_id if tunnel else None
        owner = f"{_describe_side(side, tunnel)}, " if side and tunnel else ""
        self.counters.refusals[refused.cause] += 1
        self._audit.refused(refused.cause, address, channel_id, side, tunnel_id)
        _log.warning(
            "channel %s: handshake refused: %s; %sfrom %s",
            channel_id,
            refused.text,
            owner,
            address,
            extra=flood_kind(refused.cause, tunnel_id or ""),
        )
        return _refusal(refused, channel_id)

    def link_opened(self, link: ClientLink) -> None:
        """Called when the handshake of a link is done."""
        # A link is bounded by its tunnel, not by what strangers may have open.
        self._limiter.release(link.descriptor)
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
            _log.error(
                "channel %s: connection state not recorded: %s",
                info.channel_id,
                failed,
            )


def _upgrade_request(request: WSUpgradeRequest) -> UpgradeRequest:
    headers = list(request.headers.items())
    target = request.path.decode("latin-1")
    # Counted with one space after each colon, as all clients write them: picows does
    # not keep the bytes.
    size = len(request.method) + len(request.path) + len(request.version) + 6
    size += sum(len(name) + len(value) + 4 for name, value in headers)
    return UpgradeRequest(request.method.decode("latin-1"), target, headers, size)


def _describe_side(side: Side, tunnel: TunnelRecord) -> str:
    """Return a side of a tunnel in words, for logs."""
    thing = "" if tunnel.thing_name is None else f" (thing {tunnel.thing_name})"
    return f"{side} of tunnel {tunnel.tunnel_id}{thing}"


def _cannot_look_up() -> HandshakeRefused:
    return HandshakeRefused(
        HTTPStatus.SERVICE_UNAVAILABLE, "The service cannot look up the access token"
    )


def _refusal(refused: HandshakeRefused, channel_id: str) -> WSUpgradeResponseWithListener:
    headers = {"X-Status-Reason": refused.text, "channel-id": channel_id}
    if refused.status is HTTPStatus.UPGRADE_REQUIRED:
        headers |= {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    if refused.status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "1"
    response = WSUpgradeResponse.create_error_response(
        refused.status, refused.text.encode(), headers
    )
    return WSUpgradeResponseWithListener(response, None)
