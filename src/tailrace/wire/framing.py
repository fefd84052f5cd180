"""Find length-prefixed messages in the byte stream that WebSocket frames carry.

A frame and a message have nothing to do with each other: a frame may hold many messages,
a slice of one, or end in the middle of a length prefix (guide V3, tunneling message
frames). Only one message can be unfinished at any time, so one splitter that follows a
link in one direction holds back that one, with its prefix, and nothing else. All other
messages are views of the frame they came in.

Most frames are exactly one message of a connection that is known, and are not split at all: see
:meth:`tailrace.wire.fastpath.ConnectionIndex.find_only`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ..errors import DecodeError
from .protocol import MAX_MESSAGE

__all__ = ["MessageSplitter"]

_PREFIX: Final = 2
"""Bytes of a length prefix, big-endian."""


class MessageSplitter:
    """Split the bytes of consecutive frames into messages.

    An end of a tunnel needs the bodies, and feeds each frame. A relay passes messages on with
    their prefixes and may have to stop in the middle of a frame: while something is
    :attr:`partial` it calls :meth:`complete` first, and :meth:`feed` with the rest.
    """

    __slots__ = ("partial",)

    def __init__(self) -> None:
        self.partial = bytearray()
        """The beginning of a message that is not complete yet: at most 65,536 bytes."""

    def feed(self, frame: memoryview) -> Iterator[memoryview]:
        """Yield the body of each message that ``frame`` completes, in order.

        What is left of ``frame`` is held back when the iterator is exhausted. A caller may
        stop after any body, and feeds the bytes that follow it later. A view is valid
        until the iterator moves on.

        Raises:
            DecodeError: a length prefix is 0; the stream cannot be followed further.
        """
        at = 0
        end = len(frame)
        if self.partial:
            message, at = self.complete(frame)
            if message is None:
                return
            yield message[_PREFIX:]
        while end - at >= _PREFIX:
            size = frame[at] << 8 | frame[at + 1]
            if not size:
                raise DecodeError("length prefix is 0")
            stop = at + _PREFIX + size
            if stop > end:
                break
            yield frame[at + _PREFIX : stop]
            at = stop
        if at < end:
            self.partial += frame[at:]

    def complete(self, frame: memoryview) -> tuple[memoryview | None, int]:
        """Give the message held back what it lacks; return it, and how much of ``frame`` it took.

        The message has its prefix, and memory of its own that may be kept. It is ``None``
        while still incomplete; all of ``frame`` has been taken then.

        Raises:
            DecodeError: as :meth:`feed`.
        """
        partial = self.partial
        # The prefix may itself have been cut, and says how much is missing only once whole.
        at = max(0, _PREFIX - len(partial))
        partial += frame[:at]
        if len(partial) < _PREFIX:
            return None, len(frame)
        size = partial[0] << 8 | partial[1]
        if not size:
            raise DecodeError("length prefix is 0")
        missing = _PREFIX + size - len(partial)
        partial += frame[at : at + missing]
        if len(partial) < _PREFIX + size:
            return None, len(frame)
        # A new buffer, because the views of this one are still in use.
        self.partial = bytearray()
        return memoryview(partial), at + missing


assert MAX_MESSAGE == 0xFFFF, "the length prefix has two bytes"
