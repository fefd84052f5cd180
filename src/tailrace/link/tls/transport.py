"""TLS over a connected socket, and the bytes of the upgrade before a back end takes over."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final, cast

from ...common.addresses import format_host_port
from ...common.network_errors import network_error_text
from ...errors import HandshakeFailed, LinkError
from ..endpoint import ServiceEndpoint
from ..http.upgrade import UpgradeAccepted, UpgradeParser
from .context import Trust, presented_certificates, tls_failure, tls_timeout

__all__ = [
    "HIGH_WATER",
    "LOW_WATER",
    "SHUTDOWN_TIMEOUT",
    "UpgradeTap",
    "close_transport",
    "fast_transports",
    "remote_address",
    "start_tls",
]

logger = logging.getLogger(__name__)

HIGH_WATER: Final = 256 * 1024
LOW_WATER: Final = 64 * 1024
"""Bytes in a link's write buffer at which writing pauses, and resumes."""

SHUTDOWN_TIMEOUT: Final = 2.0
"""Seconds that flushing and the TLS closing may take once a transport is told to close."""

_TLS_BUFFER: Final = 8 * (16 * 1024 + 64)
"""Bytes of ciphertext for one system call: 8 full TLS records; more made nothing faster."""


class UpgradeTap(asyncio.Protocol):
    """The transport's protocol until a back end takes over: it reads the upgrade's answer.

    Whatever comes after the answer, bytes, the end of the connection, a full write buffer,
    is kept for the back end, which asks for it when it takes over.
    """

    def __init__(self) -> None:
        self.leftover = bytearray()
        """Bytes that came after the answer."""
        self.writing_paused = False
        self.lost = False
        self.error: BaseException | None = None
        """Why the connection was lost; ``None`` for its plain end."""
        self._transport: asyncio.Transport | None = None
        self._parser: UpgradeParser | None = None
        self._answer: asyncio.Future[UpgradeAccepted] | None = None
        self._gone = asyncio.get_running_loop().create_future()

    async def upgrade(self, parser: UpgradeParser, timeout: float) -> UpgradeAccepted:
        """Return the acceptance; the request has been written just before.

        The connection is gone when this raises.

        Raises:
            ServiceUnavailable, AccessRefused, HandshakeFailed: see :class:`UpgradeParser`.
        """
        self._parser = parser
        self._answer = asyncio.get_running_loop().create_future()
        try:
            if self.lost:
                parser.finish(self._end())
            self._read()
            try:
                async with asyncio.timeout(timeout):
                    return await self._answer
            except TimeoutError:
                parser.finish(f"no answer within {timeout:g} s")
        except LinkError:
            self._abort()
            await self._gone
            raise
        except BaseException:
            self._abort()
            raise

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.leftover += data
        self._read()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost = True
        self.error = exc
        self._gone.set_result(None)
        if self._parser is not None:
            self._judge(lambda parser: parser.finish(self._end()))

    def pause_writing(self) -> None:
        self.writing_paused = True

    def resume_writing(self) -> None:
        self.writing_paused = False

    def _read(self) -> None:
        if self._parser is not None and self.leftover:
            data = bytes(self.leftover)
            self.leftover.clear()
            self._judge(lambda parser: parser.feed(data))

    def _judge(self, step: Callable[[UpgradeParser], UpgradeAccepted | None]) -> None:
        parser, answer = self._parser, self._answer
        assert parser is not None
        assert answer is not None
        try:
            accepted = step(parser)
        except HandshakeFailed as error:
            self._parser = None
            if not answer.done():
                answer.set_exception(error)
            return
        if accepted is not None:
            self._parser = None
            self.leftover += accepted.leftover
            if not answer.done():
                answer.set_result(accepted)

    def _end(self) -> str:
        if self.error is None:
            return "the connection was closed"
        return f"the connection was lost: {network_error_text(self.error)}"

    def _abort(self) -> None:
        self._parser = None
        if self._transport is not None:
            self._transport.abort()


async def start_tls(
    sock: socket.socket, endpoint: ServiceEndpoint, trust: Trust, tap: UpgradeTap
) -> asyncio.Transport:
    """Return a TLS transport over a connected socket, which it owns from now on.

    aiofastnet's transports are used where they are installed, the loop's own elsewhere.

    Raises:
        TLSFailed: the handshake failed, or took longer than the endpoint allows.
    """
    loop = asyncio.get_running_loop()
    fast = fast_transports()
    view = _LoopView(loop)
    options: dict[str, Any] = {
        "sock": sock,
        "ssl": trust.context,
        "server_hostname": endpoint.server_name,
        # Ours ends first and knows what to say.
        "ssl_handshake_timeout": endpoint.connect_timeout + 1,
        "ssl_shutdown_timeout": SHUTDOWN_TIMEOUT,
    }
    try:
        async with asyncio.timeout(endpoint.connect_timeout):
            if fast is None:
                transport, _ = await loop.create_connection(lambda: tap, **options)
            else:
                transport, _ = await fast.create_connection(
                    view,
                    lambda: tap,
                    ssl_incoming_bio_size=_TLS_BUFFER,
                    ssl_outgoing_bio_size=_TLS_BUFFER,
                    **options,
                )
    except TimeoutError:
        loop.call_soon(sock.close)
        raise tls_timeout(endpoint) from None
    except OSError as error:
        loop.call_soon(sock.close)
        raise tls_failure(error, endpoint, trust, view.presented_certificates()) from None
    except BaseException:
        loop.call_soon(sock.close)
        raise
    view.handshake_done()
    transport.set_write_buffer_limits(high=HIGH_WATER, low=LOW_WATER)
    return transport


def close_transport(transport: asyncio.BaseTransport) -> None:
    """Close a transport that is not closing already.

    Closed twice, asyncio's own TLS transport cannot be aborted any more: up to Python 3.11.6
    that raises AttributeError, later it does nothing.
    """
    if not transport.is_closing():
        transport.close()


def remote_address(transport: asyncio.Transport) -> str:
    """Return the address a transport is connected to."""
    peer = transport.get_extra_info("peername")
    return format_host_port(*peer[:2]) if peer else ""


def fast_transports() -> ModuleType | None:
    """Return aiofastnet where it is installed and fits this Python's OpenSSL."""
    try:
        import aiofastnet
    except ImportError:
        return None
    return aiofastnet


class _LoopView:
    """The event loop as one transport of aiofastnet sees it: three defects of 1.2 stop here.

    When the other side closes the connection during the TLS handshake, aiofastnet not only says
    so to its caller but also hands the loop's exception handler an exception class for an
    instance, which ends as a traceback on the terminal. It does not give its transport away
    before the handshake is done, although only that one knows which certificate was refused.
    And it expects to be called again while there is more to read, but libuv reports a reset
    connection just once, even if the bytes before the reset are still to be read.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._shaking = True
        self._transport: asyncio.BaseTransport | None = None
        self._tells_once = type(loop).__module__.partition(".")[0] == "uvloop"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        if self._shaking:
            self._transport = getattr(callback, "__self__", None)
        if not self._tells_once:
            self._loop.add_reader(fd, callback)
            return

        def read_twice() -> None:
            callback()
            callback()  # nearly always there is nothing, for the price of one system call

        self._loop.add_reader(fd, read_twice)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._shaking:
            self._loop.call_exception_handler(context)

    def handshake_done(self) -> None:
        """Step aside: from now on this is the loop."""
        self._shaking = False
        self._transport = None

    def presented_certificates(self) -> list[str]:
        """Describe what the other side presented in a handshake that failed."""
        if self._transport is None:
            return []
        return presented_certificates(self._transport.get_extra_info("ssl_object"))
