"""What both back ends share: the life of one open link, from the first frame to the last.

Order of events, for whoever calls :func:`tailrace.link.connector.connect`:

1. ``connect()`` returns the link. No call of the handler has been made so far, whatever came
   in with the upgrade's answer.
2. In its own turn of the event loop, the link begins: a write buffer that filled up meanwhile
   is reported, then the frames that came early, then a connection that has ended already.
   So code that awaits ``connect()`` itself, or under :func:`asyncio.timeout`, runs to its next
   ``await`` before the handler hears anything; code that awaits it through another task may not.
3. Frames, pongs and the write buffer's marks are reported as they come.
4. ``link_closed()`` is called exactly once, when the socket is closed. After :meth:`close`,
   :meth:`abort` or a failure no further frame is delivered.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum
from typing import Final

from ..common.network_errors import network_error_text
from ..errors import LocalProtocolError, RemoteProtocolError
from .interface import Buffer, CloseCode, ClosedBy, LinkClosed, LinkHandler, LinkInfo
from .tls.transport import UpgradeTap, close_transport

__all__ = ["CLOSE_TIMEOUT", "MAX_FRAME_SIZE", "READ_BUFFER_SIZE", "BaseLink", "LinkState"]

logger = logging.getLogger(__name__)

MAX_FRAME_SIZE: Final = 1024 * 1024
"""Bytes of payload of one frame that are tolerated; the guides promise at most 131,076."""

READ_BUFFER_SIZE: Final = 256 * 1024
"""Bytes that one read may deliver: less costs throughput, more costs memory."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds to flush, send a close frame and see the other side's, before the link is dropped."""

PEER_CLOSE_TIMEOUT: Final = 0.5
"""Seconds for our answer to a close frame; the one who sent it may be waiting for the end."""

_MAX_CLOSE_REASON: Final = 123  # a control frame has at most 125 bytes, two are the code's
_NOT_SENT: Final = {1004, CloseCode.NO_STATUS, CloseCode.ABNORMAL, 1015}  # RFC 6455 7.4.1


class LinkState(Enum):
    """Where a link stands."""

    OPEN = "open"
    CLOSING = "closing"
    """A close frame was sent, or the transport was told to close; frames are ignored."""
    CLOSED = "closed"


def _fitting(reason: str) -> str:
    """Return as much of a reason as a close frame holds."""
    return reason.encode()[:_MAX_CLOSE_REASON].decode("utf-8", "ignore")


class _Nobody:
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


_NOBODY: Final = _Nobody()


class BaseLink(ABC):
    """A link without its framing, which a back end adds in a subclass."""

    __slots__ = (
        "_frame_received",
        "_handler",
        "_info",
        "_last_received",
        "_loop",
        "_outcome",
        "_read_paused",
        "_read_wanted",
        "_state",
        "_time",
        "_timer",
        "_transport",
        "_write_buffer_size",
    )

    def __init__(self, transport: asyncio.Transport, info: LinkInfo, handler: LinkHandler) -> None:
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time
        self._transport = transport
        self._info = info
        self._handler: LinkHandler = handler
        self._frame_received = handler.frame_received
        # aiofastnet's own figure leaves out the ciphertext that waits for the socket.
        self._write_buffer_size: Callable[[], int] = getattr(
            transport, "get_local_write_buffer_size", transport.get_write_buffer_size
        )
        self._state = LinkState.OPEN
        self._outcome: LinkClosed | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._read_wanted = True
        self._read_paused = False
        self._last_received = self._time()

    @property
    def info(self) -> LinkInfo:
        return self._info

    @property
    def write_buffer_size(self) -> int:
        """Bytes accepted by ``send()`` that still wait in this process, as far as is known."""
        return 0 if self._state is LinkState.CLOSED else self._write_buffer_size()

    @property
    def last_received(self) -> float:
        """Loop time at which the last bytes came in; now, while reading is paused.

        Silence that we asked for says nothing about the other side.
        """
        return self._time() if self._read_paused else self._last_received

    @abstractmethod
    def send(self, message: Buffer) -> None:
        """Send one binary frame; ``message`` may be reused as soon as this returns."""

    @abstractmethod
    def send_ping(self, payload: bytes) -> None:
        """Send a ping with at most 125 bytes."""

    def pause_reading(self) -> None:
        """Receive no further frames; those that lie in user space still come, about 1 MiB."""
        if self._state is LinkState.OPEN:
            self._want_reading(False)

    def resume_reading(self) -> None:
        """Receive frames again."""
        self._want_reading(True)

    def close(self, code: int, reason: str) -> None:
        """Flush, send a close frame, wait for the other side's, end the link; bounded.

        Frames that are still to come are dropped. Does nothing on a link that is closing.

        Raises:
            LocalProtocolError: ``code`` may not be sent in a close frame.
        """
        if not 1000 <= code <= 4999 or code in _NOT_SENT:
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

    def begin(self, tap: UpgradeTap) -> None:
        """Take over from the tap, in a turn of the event loop of its own."""
        if not tap.lost:
            self._transport.set_protocol(self._protocol())
        if tap.writing_paused:
            self.writing_paused()
        if tap.leftover:
            self._feed(tap.leftover)
        if tap.lost:
            self.connection_lost(tap.error)

    # What the back ends report.

    def writing_paused(self) -> None:
        self._call(self._handler.writing_paused)

    def writing_resumed(self) -> None:
        self._call(self._handler.writing_resumed)

    def pong_received(self, payload: bytes) -> None:
        if self._state is LinkState.OPEN:
            try:
                self._handler.pong_received(payload)
            except Exception as error:
                self.handler_failed(error)

    def handler_failed(self, error: Exception) -> None:
        """End the link after the handler refused a frame, or stumbled over one."""
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
        """Learn that an open link met a fault of the peer and has sent a close frame."""
        # Nothing the peer could still say matters (RFC 6455 section 7.1.7).
        self._begin_closing(LinkClosed(ClosedBy.US, code, reason), CLOSE_TIMEOUT)
        close_transport(self._transport)

    def close_received(self, code: int, reason: str) -> None:
        """Learn of the peer's close frame, which has been answered where that was due."""
        self._begin_closing(LinkClosed(ClosedBy.PEER, code, reason), PEER_CLOSE_TIMEOUT)
        close_transport(self._transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Learn that the transport is gone."""
        text = network_error_text(exc) if exc else "the connection was closed without a close frame"
        outcome = self._outcome or LinkClosed(ClosedBy.NETWORK, CloseCode.ABNORMAL, text)
        self._state = LinkState.CLOSED
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._call(self._handler.link_closed, outcome)
        self._let_go()

    def _let_go(self) -> None:
        """Give up what leads back to this link: all that it holds is freed with it.

        Else only the garbage collector would free the buffers of TLS and of reading, half a
        megabyte, and it goes by the number of objects: reconnects would pile them up.
        """
        self._handler = _NOBODY
        self._frame_received = _NOBODY.frame_received

    # What a back end does.

    @abstractmethod
    def _protocol(self) -> asyncio.BaseProtocol:
        """Return the transport's protocol from now on."""

    @abstractmethod
    def _feed(self, data: bytearray) -> None:
        """Take bytes as if they had just come in."""

    @abstractmethod
    def _send_close(self, code: int, reason: str) -> None:
        """Send a close frame, unless the framing layer has sent one already."""

    def _begin_closing(self, outcome: LinkClosed, patience: float | None) -> None:
        self._state = LinkState.CLOSING
        self._outcome = self._outcome or outcome
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if patience is not None:
            self._timer = self._loop.call_later(patience, self._transport.abort)
            self._want_reading(True)  # or the peer's close frame would go unseen

    def _want_reading(self, wanted: bool) -> None:
        if self._read_wanted is not wanted:
            self._read_wanted = wanted
            # Never from within a read: aiofastnet 1.2 would strand what it has decrypted
            # beyond that point until the peer sends again.
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
        """Call the handler; what it raises is a bug, but must not take the transport along."""
        try:
            report(*arguments)
        except Exception as error:
            if self._state is LinkState.OPEN:
                self.handler_failed(error)
            else:
                logger.error("a link's handler failed", exc_info=error)
