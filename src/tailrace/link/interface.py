"""What a WebSocket link looks like to the rooms above: one interface, two back ends.

A link carries opaque binary frames. It knows neither messages nor streams; the session above
knows neither WebSocket nor TLS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ..wire import NO_CAPABILITIES, Capabilities

if TYPE_CHECKING:
    from ..common.counts import Meter

__all__ = ["Buffer", "CloseCode", "ClosedBy", "Link", "LinkClosed", "LinkHandler", "LinkInfo"]

Buffer: TypeAlias = bytes | bytearray | memoryview


class CloseCode:
    """WebSocket close codes used here (RFC 6455 section 7.4.1)."""

    OK = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005
    ABNORMAL = 1006
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011


class ClosedBy(Enum):
    """Which side ended a link."""

    PEER = "peer"
    US = "us"
    NETWORK = "network"


@dataclass(frozen=True, slots=True)
class LinkClosed:
    """How a link ended.

    ``code`` and ``reason`` are those of the close frame, 1006 and the network's
    error text when there was none.
    """

    by: ClosedBy
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """What the upgrade told about an open link."""

    subprotocol: str
    channel_id: str
    """The service's id of this link, for support requests; "" when not sent."""
    backend: str
    """``picows`` or ``websockets``."""
    capabilities: Capabilities = NO_CAPABILITIES
    """What the service passes on, and only to peers that can do the same."""


class LinkHandler(Protocol):
    """What a link reports to; all calls come from the event loop's thread."""

    def frame_received(self, payload: memoryview) -> None:
        """Called with the payload of a binary frame; the view is invalid after this returns.

        A :class:`~tailrace.errors.RemoteProtocolError` raised here ends the link
        with close code 1002.
        """

    def writing_paused(self) -> None:
        """Called when the write buffer is over its high mark: send no bulk data until resumed."""

    def writing_resumed(self) -> None:
        """Called when the write buffer has drained to its low mark."""

    def pong_received(self, payload: bytes) -> None:
        """Called with the payload of a pong, unsolicited or not (RFC 6455 section 5.5.3)."""

    def link_closed(self, closed: LinkClosed) -> None:
        """Called exactly once, when the link has ended; no other call follows."""


class Link(Protocol):
    """One open WebSocket."""

    @property
    def info(self) -> LinkInfo: ...

    gate: Any
    """What known messages pass through without Python, if anything: an object of the extension."""

    def new_outlet(self, window: Meter, mark_reached: Callable[[int], None]) -> Any:
        """Return what messages can be sent on without Python, ``None`` if nothing.

        Args:
            window: counts the bytes that are sent.
            mark_reached: called with the size of the frame that brings it to its mark.
        """

    @property
    def last_received(self) -> float:
        """Loop time at which the last bytes came in."""

    def send(self, message: Buffer) -> None:
        """Send one binary frame; ``message`` may be reused as soon as this returns.

        Never blocks and never refuses: watch :meth:`LinkHandler.writing_paused`.
        Does nothing on a link that is closing.
        """

    def send_ping(self, payload: bytes) -> None:
        """Send a ping with at most 125 bytes."""

    def pause_reading(self) -> None:
        """Receive no further frames until :meth:`resume_reading`.

        Frames that are in user space already may still be delivered.
        """

    def resume_reading(self) -> None:
        """Receive frames again."""

    def close(self, code: int, reason: str) -> None:
        """Flush, send a close frame, wait for the peer's (bounded), end the link."""

    def handler_failed(self, error: Exception) -> None:
        """End the link, as if the handler had raised ``error`` when it was called."""

    def abort(self) -> None:
        """Drop the link at once, without a close frame."""
