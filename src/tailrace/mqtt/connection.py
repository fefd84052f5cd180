"""A connection to a broker: the shell around :class:`~tailrace.mqtt.session.Session`.

The way to the broker has steps with a time limit each: name resolution and TCP (addresses are
raced), the web proxy, TLS, and from then on what the session allows.

The broker decides how much it sends. One read of the transport is handled, packet for packet,
before the next is made, and no more packets in a second than a client has a use for. What the
client writes are answers, so a broker that sends and does not read is not read either.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, NoReturn, cast

from ..common.network_errors import network_error_text
from ..errors import LinkError
from ..flow.token_bucket import Bucket
from ..link.proxy.settings import WebProxy
from ..link.tcp import connect_any, resolve
from ..link.tls.context import build_trust
from ..link.tls.transport import close_transport, start_tls
from .errors import BrokerError, BrokerFault
from .session import Acknowledged, Event, Received, Session, SessionSettings
from .settings import BrokerSettings

__all__ = ["REACH_TIMEOUT", "TLS_TIMEOUT", "Connection", "open_connection"]

REACH_TIMEOUT: Final = 10.0
"""Seconds for name resolution and TCP together, and for each step of a web proxy."""
TLS_TIMEOUT: Final = 15.0
"""Seconds for TLS, which takes several round trips; mobile networks need seconds for one."""
_CLOSE_TIMEOUT: Final = 1.0
"""Seconds to get DISCONNECT out."""
_RATE, _BURST = 100.0, 200.0
"""Packets that are handled in a second, and at once; acknowledgements of ours are not counted. AWS
IoT Core sends 10 kept messages a second."""
_TURN: Final = 32
"""Packets that are handled before other tasks get a turn."""


async def open_connection(
    broker: BrokerSettings, settings: SessionSettings, web_proxy: WebProxy | None = None
) -> Connection:
    """Connect to a broker; CONNECT is sent, and :meth:`Connection.run` waits for the answer.

    User and password are those of ``broker``.

    Raises:
        BrokerError: the broker could not be reached; the cause says why.
        ConfigurationError: certificates or the web proxy cannot be used.
    """
    settings = replace(settings, user=broker.user, password=broker.password)
    connection = Connection(settings)
    # Read anew for each connection: certificates are renewed while a program runs.
    trust = None if broker.tls is None else await asyncio.to_thread(build_trust, broker.tls)
    try:
        sock = await _reach(broker, web_proxy)
        _notice_dead_peer(sock, settings.keep_alive)
        if trust is None:
            await _start_plain(sock, connection)
        else:
            await start_tls(sock, broker.endpoint(TLS_TIMEOUT), trust, connection)
    except LinkError as error:
        raise BrokerError(BrokerFault.UNREACHABLE, str(error)) from error
    return connection


async def _reach(broker: BrokerSettings, web_proxy: WebProxy | None) -> socket.socket:
    if web_proxy is not None:
        # Few need it, and it takes its time to import.
        from ..link.proxy.through_proxy import open_through_proxy

        return await open_through_proxy(broker.endpoint(REACH_TIMEOUT), web_proxy)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + REACH_TIMEOUT
    addresses = await resolve(broker.host, broker.port, REACH_TIMEOUT)
    # Also after a slow name server TCP gets the time for one round trip.
    left = max(1.0, deadline - loop.time())
    return await connect_any(addresses, broker.authority, left)


def _notice_dead_peer(sock: socket.socket, keep_alive: int) -> None:
    """Let TCP give up on what the other side does not acknowledge (RFC 5482)."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        with contextlib.suppress(OSError):  # a unix socket, behind a web proxy with TLS
            milliseconds = 1500 * keep_alive
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


async def _start_plain(sock: socket.socket, connection: Connection) -> None:
    try:
        await asyncio.get_running_loop().create_connection(lambda: connection, sock=sock)
    except BaseException:
        sock.close()
        raise


class Connection(asyncio.Protocol):
    """A session on a transport. :meth:`run` it, and :meth:`close` it in the end, whatever comes."""

    def __init__(self, settings: SessionSettings) -> None:
        self._loop = asyncio.get_running_loop()
        self._session = Session(settings)
        self._transport: asyncio.Transport
        self._failure: BrokerError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._news = asyncio.Event()
        """Set when bytes have come, or the connection has failed."""
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._ended = asyncio.Event()
        self._wants_more = False
        self._is_closing = False

    async def run(self, handle: Callable[[Event], Awaitable[None]]) -> NoReturn:
        """Hand each event to ``handle``, one at a time.

        A message is acknowledged when ``handle`` returns. What ``handle`` raises leaves, and the
        message is not acknowledged.

        Raises:
            BrokerError: the broker refuses or breaks the rules, or the connection is lost.
        """
        handled = 0
        pace = Bucket(_RATE, _BURST, self._loop.time())
        while True:
            event = self._session.next_event(self._loop.time())
            if event is None:
                self._flush()
                await self._more()
                continue
            await handle(event)
            if isinstance(event, Received):
                self._session.acknowledge(self._loop.time())
            self._flush()
            handled += 1
            is_asked_for = isinstance(event, Acknowledged)
            delay = 0.0 if is_asked_for else pace.take(1, self._loop.time())
            if delay or handled % _TURN == 0:
                await asyncio.sleep(delay)

    def publish(self, topic: str, payload: bytes) -> int:
        """Publish at QoS 1; return the packet id that its :class:`Acknowledged` will have."""
        packet_id = self._session.publish(topic, payload, self._loop.time())
        self._flush()
        return packet_id

    async def close(self) -> None:
        """Disconnect, and wait until the socket is closed: at most a second, even if cancelled."""
        self._is_closing = True
        if self._timer is not None:
            self._timer.cancel()
        if not self._transport.is_closing():
            self._session.disconnect(self._loop.time())
            self._transport.write(self._session.data_to_send())
            self._transport.resume_reading()  # TLS reads until the other side says goodbye
        close_transport(self._transport)
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self._ended.wait()
        except TimeoutError:
            pass
        finally:
            if not self._ended.is_set():
                self._transport.abort()

    # -- called by the transport ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._session.start(self._loop.time())
        self._flush()

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            return
        self._session.receive_data(data, self._loop.time())
        # In another turn of the loop: aiofastnet must not be paused from within a read.
        self._loop.call_soon(self._pause_reading)
        self._news.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._ended.set()
        self._fail(self._session.lost(_cause(exc)))

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    # ------------------------------------------------------------------------------------------

    def _pause_reading(self) -> None:
        if self._wants_more and not self._news.is_set():
            return  # all is handled already
        if not self._is_closing and not self._transport.is_closing():
            self._transport.pause_reading()

    async def _more(self) -> None:
        """Return when more bytes have come; raise why none will."""
        if not self._news.is_set():
            if self._failure is not None:
                raise self._failure
            await self._may_write.wait()
            if not self._transport.is_closing():
                self._transport.resume_reading()
            self._wants_more = True
            await self._news.wait()
            self._wants_more = False
        self._news.clear()

    def _flush(self) -> None:
        """Send what the session wants to be sent, and set the timer for what it does next."""
        data = self._session.data_to_send()
        if self._failure is not None or self._is_closing:
            return
        if data:
            self._transport.write(data)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._session.next_deadline(), self._tick)

    def _tick(self) -> None:
        try:
            self._session.tick(self._loop.time())
        except BrokerError as error:
            self._fail(error)
        self._flush()

    def _fail(self, error: BrokerError) -> None:
        """Remember why the connection ended, unless that is known; wake what waits."""
        self._failure = self._failure or error
        if self._timer is not None:
            self._timer.cancel()
        self._may_write.set()
        self._news.set()


def _cause(exc: BaseException | None) -> str:
    if exc is None:
        return "the connection was closed"
    if isinstance(exc, ssl.SSLError):
        # Libraries raise it without the attributes that the ssl module adds.
        reason = getattr(exc, "reason", None) or exc.strerror or "TLS failed"
        text = reason.lower().replace("_", " ")
    else:
        text = network_error_text(exc)
    return f"the connection was lost ({text})"
