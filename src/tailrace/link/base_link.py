"""What both back ends share: the life of one open link, from the first frame to the last.

Order of events, for code that calls :func:`tailrace.link.connector.connect`:

1. ``connect()`` returns the link. The handler has not been called so far, whatever came in with
   the response to the upgrade. The link may be used already.
2. In its own turn of the event loop the link begins: it becomes the transport's protocol in place
   of the :class:`~tailrace.link.exchange.Exchange`, and reports what that one has seen, in this
   order: a write buffer over its mark, frames, the end of the connection. So code that awaits
   ``connect()`` itself, or within :func:`asyncio.timeout`, runs to its next ``await`` before the
   handler is called; code that awaits it through another task may not.
3. Frames, pongs and the write buffer's marks are reported as they come.
4. The link ends in one of four ways, and the first of them decides what is reported:

   * :meth:`BaseLink.close`: a close frame is sent, the peer's is awaited (RFC 6455 section 7.1.2);
   * the peer's close frame comes in: it is answered, and the transport closed;
   * a fault, of the peer or of the handler: a close frame is sent, and nothing awaited
     (section 7.1.7);
   * :meth:`BaseLink.abort`, or the loss of the connection: there is no close frame.

   Except where it is aborted at once, a timer aborts the transport if it is still there then.
   From here on no frame and no pong is delivered.
5. ``link_closed()`` is called exactly once, when the transport is gone. Nothing follows.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum
from typing import Final

from ..common.close_codes import may_be_sent
from ..common.network_errors import network_error_text
from ..errors import LocalProtocolError, RemoteProtocolError
from .endpoint import ServiceEndpoint
from .exchange import Exchange
from .http.upgrade import UpgradeParser
from .interface import Buffer, CloseCode, ClosedBy, LinkClosed, LinkHandler, LinkInfo
from .tls.transport import close_transport

__all__ = [
    "CLOSE_TIMEOUT",
    "MAX_FRAME_SIZE",
    "READ_BUFFER_SIZE",
    "BaseLink",
    "LinkState",
    "upgrade",
]

logger = logging.getLogger(__name__)

MAX_FRAME_SIZE: Final = 1024 * 1024
"""Bytes of payload that a frame may have; the guides promise at most 131,076."""

READ_BUFFER_SIZE: Final = 256 * 1024
"""Bytes that one read may deliver: less costs throughput, more costs memory."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds to flush, send a close frame and receive the peer's, before the link is dropped."""

PEER_CLOSE_TIMEOUT: Final = 0.5
"""Seconds to send our answer to a close frame; the peer may be waiting for the end."""

_MAX_CLOSE_REASON: Final = 123  # a control frame has at most 125 bytes, two are the code's


class LinkState(Enum):
    """Where a link stands."""

    OPEN = "open"
    CLOSING = "closing"
    """A close frame was sent or received, or the transport aborted; frames are ignored."""
    CLOSED = "closed"


def _fitting(reason: str) -> str:
    """Return as much of a reason as a close frame holds."""
    return reason.encode()[:_MAX_CLOSE_REASON].decode("utf-8", "ignore")


class _NoHandler:
    """The handler of a link that has ended."""

    def frame_received(self, payload: memoryview) -> None:
        pass

    def writing_paused(self) -> None:
        pass

    def writing_resumed(self) -> None:
        pass

    def pong_received(self, payload: bytes) -> None:
        pass

    def link_closed(self, closed: LinkClosed) -> None:
        pass


_NO_HANDLER: Final = _NoHandler()


async def upgrade(
    exchange: Exchange, request: bytes, endpoint: ServiceEndpoint, key: str, backend: str
) -> LinkInfo:
    """Do the upgrade; return what its response told.

    Args:
        request: to send; ``b""`` if ``backend`` has sent it already.
        key: the ``Sec-WebSocket-Key`` of the request.

    Raises:
        ServiceUnavailable, AccessRefused, HandshakeFailed: as
            :meth:`tailrace.link.http.upgrade.UpgradeParser.feed`.
    """
    parser = UpgradeParser(endpoint, key)
    accepted = await exchange.run(request, parser, endpoint.connect_timeout)
    return LinkInfo(accepted.subprotocol, accepted.channel_id, backend, accepted.capabilities)


class BaseLink(ABC):
    """A link without its framing, which a back end adds in a subclass."""

    __slots__ = (
        "_frame_received",
        "_handler",
        "_info",
        "_last_received",
        "_loop",
        "_outcome",
        "_pong_owed",
        "_read_paused",
        "_read_wanted",
        "_state",
        "_time",
        "_timer",
        "_transport",
        "_write_paused",
    )

    def __init__(self, transport: asyncio.Transport, info: LinkInfo, handler: LinkHandler) -> None:
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time
        self._transport = transport
        self._info = info
        self._handler: LinkHandler = handler
        self._frame_received = handler.frame_received
        self._state = LinkState.OPEN
        self._outcome: LinkClosed | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._read_wanted = True
        self._read_paused = False
        self._write_paused = False
        self._pong_owed: bytes | None = None
        self._last_received = self._time()

    @property
    def info(self) -> LinkInfo:
        return self._info

    @property
    def last_received(self) -> float:
        """Loop time at which the last bytes came in; the present while reading is paused.

        Silence that we caused says nothing about the peer.
        """
        return self._time() if self._read_paused else self._last_received

    @abstractmethod
    def send(self, message: Buffer) -> None:
        """Send one binary frame; ``message`` may be reused as soon as this returns."""

    @abstractmethod
    def send_ping(self, payload: bytes) -> None:
        """Send a ping with at most 125 bytes."""

    def pause_reading(self) -> None:
        """Receive no further frames; about 1 MiB of them is in user space and still comes."""
        if self._state is LinkState.OPEN:
            self._want_reading(False)

    def resume_reading(self) -> None:
        """Receive frames again."""
        self._want_reading(True)

    def close(self, code: int, reason: str) -> None:
        """Flush, send a close frame, wait for the peer's, end the link; bounded.

        Frames that come in meanwhile are dropped. Does nothing on a link that is closing.

        Raises:
            LocalProtocolError: ``code`` may not be sent in a close frame.
        """
        if not may_be_sent(code):
            raise LocalProtocolError(f"{code} cannot be sent as a close code")
        if self._state is not LinkState.OPEN:
            return
        self._send_close(code, _fitting(reason))
        self._begin_closing(LinkClosed(ClosedBy.US, code, reason), CLOSE_TIMEOUT)

    def abort(self) -> None:
        """Drop the link at once, without a close frame."""
        if self._state is LinkState.CLOSED:
            return
        self._begin_closing(LinkClosed(ClosedBy.US, CloseCode.ABNORMAL, "dropped"), None)
        self._transport.abort()

    def begin(self, exchange: Exchange) -> None:
        """Take over from the exchange: to be called once, in another turn of the event loop."""
        missed = exchange.hand_over(self._protocol())
        if missed.writing_paused:
            self.writing_paused()
        if missed.received:
            self._feed(missed.received)
        if missed.lost:
            self.connection_lost(missed.error)

    # What the back ends report.

    def writing_paused(self) -> None:
        """Called when the write buffer is over its high mark."""
        self._write_paused = True
        self._call(self._handler.writing_paused)

    def writing_resumed(self) -> None:
        """Called when the write buffer is at its low mark again."""
        self._write_paused = False
        pong, self._pong_owed = self._pong_owed, None
        if pong is not None and self._state is LinkState.OPEN:
            # Before the handler, which may fill the buffer again.
            self._send_pong(pong)
        self._call(self._handler.writing_resumed)

    def pong_received(self, payload: bytes) -> None:
        """Called when a pong has come in."""
        if self._state is LinkState.OPEN:
            try:
                self._handler.pong_received(payload)
            except Exception as error:
                self.handler_failed(error)

    def answer_ping(self, pong: bytes) -> None:
        """Send what :meth:`_send_pong` takes; while writing is paused, owe the latest only.

        RFC 6455 section 5.5.3 allows it. A peer that sends pings and reads nothing would fill the
        write buffer without end.
        """
        if self._write_paused:
            self._pong_owed = pong
        else:
            self._send_pong(pong)

    def handler_failed(self, error: Exception) -> None:
        """Called when the handler raised: end the link, as it refuses a frame or has a bug."""
        if isinstance(error, RemoteProtocolError):
            self.fail(CloseCode.PROTOCOL_ERROR, str(error))
        else:
            logger.error("a link's handler failed; closing the link", exc_info=error)
            self.fail(CloseCode.INTERNAL_ERROR, "internal error")

    def fail(self, code: int, reason: str) -> None:
        """End the link because of a fault: flush, send a close frame, wait for no answer."""
        if self._state is LinkState.OPEN:
            self._send_close(code, _fitting(reason))
            self.framing_failed(code, reason)

    def framing_failed(self, code: int, reason: str) -> None:
        """Called when a close frame was sent because of a fault."""
        self._begin_closing(LinkClosed(ClosedBy.US, code, reason), CLOSE_TIMEOUT)
        close_transport(self._transport)

    def close_received(self, code: int, reason: str) -> None:
        """Called when the peer's close frame has come in, and was answered if that was due."""
        self._begin_closing(LinkClosed(ClosedBy.PEER, code, reason), PEER_CLOSE_TIMEOUT)
        close_transport(self._transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Called when the transport is gone."""
        text = network_error_text(exc) if exc else "the connection was closed without a close frame"
        outcome = self._outcome or LinkClosed(ClosedBy.NETWORK, CloseCode.ABNORMAL, text)
        self._state = LinkState.CLOSED
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._call(self._handler.link_closed, outcome)
        self._break_cycles()

    def _break_cycles(self) -> None:
        """Drop the references that lead back to this link, so that it is freed with its last user.

        Otherwise only the garbage collector would free the buffers of TLS and of reading, half a
        megabyte, and as it counts objects and not bytes, those of many reconnects would pile up.
        """
        self._handler = _NO_HANDLER
        self._frame_received = _NO_HANDLER.frame_received

    # What a back end does.

    @abstractmethod
    def _protocol(self) -> asyncio.BaseProtocol:
        """Return a protocol for the transport that reports to this link."""

    @abstractmethod
    def _feed(self, data: bytes) -> None:
        """Take bytes as if they had just come in."""

    @abstractmethod
    def _send_pong(self, pong: bytes) -> None:
        """Send a pong in the form that this back end keeps one in."""

    @abstractmethod
    def _send_close(self, code: int, reason: str) -> None:
        """Send a close frame, unless the framing layer has sent one already."""

    def _begin_closing(self, outcome: LinkClosed, patience: float | None) -> None:
        """Deliver no more frames, report the first outcome, abort after ``patience`` seconds.

        ``None``: the transport is being aborted.
        """
        self._state = LinkState.CLOSING
        self._outcome = self._outcome or outcome
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if patience is not None:
            self._timer = self._loop.call_later(patience, self._transport.abort)
            self._want_reading(True)  # for the peer's close frame, and its end of TLS

    def _want_reading(self, wanted: bool) -> None:
        if self._read_wanted is not wanted:
            self._read_wanted = wanted
            # Not from within a read: see tailrace.link.tls.aiofastnet_compat.
            self._loop.call_soon(self._apply_reading)

    def _apply_reading(self) -> None:
        paused = not self._read_wanted
        if self._read_paused is paused or self._state is LinkState.CLOSED:
            return
        self._read_paused = paused
        if paused:
            self._transport.pause_reading()
        else:
            self._last_received = self._time()
            self._transport.resume_reading()

    def _call(self, report: Callable[..., None], *arguments: object) -> None:
        """Call the handler; what it raises is a bug, which must not reach the transport."""
        try:
            report(*arguments)
        except Exception as error:
            if self._state is LinkState.OPEN:
                self.handler_failed(error)
            else:
                logger.error("a link's handler failed", exc_info=error)
