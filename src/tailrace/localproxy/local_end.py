"""What a local connection drives: one end of a local byte stream, of any kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

__all__ = ["LocalEnd"]


class LocalEnd(Protocol):
    """One end of a local byte stream, non-blocking.

    What reads and writes raises ``BlockingIOError`` when it would have to wait, and another
    ``OSError`` when the stream has failed. Readiness is level-triggered: the callbacks are
    called, in turns of the loop of their own, for as long as there is something to read (an end
    of file or a failure included) or room to write.
    """

    def recv_into(self, buffer: memoryview, limit: int, /) -> int:
        """Read at most ``limit`` bytes (> 0); 0 is the end of file."""

    def send(self, data: memoryview, /) -> int:
        """Write; return how many bytes were taken. The memory may be reused on return."""

    def sendmsg(self, pieces: list[memoryview], /) -> int:
        """Write pieces; return how many bytes were taken."""

    def start_reading(self, readable: Callable[[], None], /) -> object:
        """Call ``readable`` from now on."""

    def stop_reading(self) -> object:
        """Call ``readable`` no more."""

    def start_writing(self, writable: Callable[[], None], /) -> object:
        """Call ``writable`` from now on."""

    def stop_writing(self) -> object:
        """Call ``writable`` no more."""

    def expect_end(self) -> None:
        """Note that the connection has ended: nothing need be held back either way."""

    def pending_error(self) -> int:
        """Return the error number of a failure that has come and was not raised yet, or 0."""

    def unacknowledged(self) -> int:
        """Return how many written bytes have not reached the other end; 1 if unknown."""

    def shut_down(self) -> None:
        """End the writing half."""

    def is_gone(self) -> bool:
        """Return whether the other end is known to have given up both halves."""

    def close(self) -> None:
        """Give up both halves, after what was started was stopped."""

    def reset(self, reason: str = "", /) -> None:
        """Give up both halves, so that the other end sees a failure and no end of file.

        What has not reached the other end is lost. Not every kind of end can be reset, and only
        one within this process can tell the ``reason``.
        """
