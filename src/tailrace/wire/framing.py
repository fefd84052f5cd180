"""Find messages in the byte stream that WebSocket frames carry.

Frames and messages are independent of each other: a frame may hold many messages,
a slice of one, or end in the middle of a length prefix (guide V3, tunneling
message frames).
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import DecodeError
from .protocol import MAX_MESSAGE

__all__ = ["MessageSplitter"]


class MessageSplitter:
    """Split the bytes of consecutive frames into message bodies.

    Bodies that lie whole in one frame are views into it; only a message that
    straddles frames is copied. At most one message (64 KiB) is ever held back.
    """

    __slots__ = ("_partial",)

    def __init__(self) -> None:
        self._partial = bytearray()

    @property
    def pending(self) -> int:
        """Bytes held back of a message that is not complete yet."""
        return len(self._partial)

    def only(self, frame: memoryview) -> memoryview | None:
        """Return the body of the message that ``frame`` is; ``None`` when it is not just one.

        Nearly all frames are one message, and need not start a generator.
        """
        size = len(frame)
        if size > 2 and frame[0] << 8 | frame[1] == size - 2 and not self._partial:
            return frame[2:]
        return None

    def feed(self, frame: memoryview) -> Iterator[memoryview]:
        """Yield the body of each message that ``frame`` completes, in order.

        Exhaust the iterator before the next call: what is left of ``frame`` is kept
        only then. A view is valid until the iterator moves on.

        Raises:
            DecodeError: a length prefix is 0; the stream cannot be followed further.
        """
        at = 0
        end = len(frame)
        if self._partial:
            body, at = self._complete(frame)
            if body is None:
                return
            yield body
        while end - at >= 2:
            size = frame[at] << 8 | frame[at + 1]
            if not size:
                raise DecodeError("length prefix is 0")
            stop = at + 2 + size
            if stop > end:
                break
            yield frame[at + 2 : stop]
            at = stop
        if at < end:
            self._partial += frame[at:]

    def _complete(self, frame: memoryview) -> tuple[memoryview | None, int]:
        """Add what the held-back message still needs; return its body when complete."""
        partial = self._partial
        at = 2 - len(partial) if len(partial) < 2 else 0
        partial += frame[:at]
        if len(partial) < 2:
            return None, len(frame)
        size = partial[0] << 8 | partial[1]
        if not size:
            raise DecodeError("length prefix is 0")
        missing = 2 + size - len(partial)
        partial += frame[at : at + missing]
        if len(partial) < 2 + size:
            return None, len(frame)
        self._partial = bytearray()
        return memoryview(partial)[2:], at + missing


assert MAX_MESSAGE == 0xFFFF, "the length prefix has two bytes"
