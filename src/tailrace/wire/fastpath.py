"""Recognise messages of known connections by the bytes around their payload.

Nearly all messages of a busy tunnel are DATA, or acknowledgements, of a connection that has sent
some before, and differ from those in their payload only. Two forms are in use (fields ascend
wherever protobuf's own libraries write them, as in the C++ and Go proxies)::

    ours       | type, stream id, service id, connection id, tag | length | payload |
    ascending  | type, stream id, tag | length | payload | service id, connection id |
                        prefix                               tail

Where a message is marked ignorable, that stands behind the stream id.

Prefix and tail are the same in every message of a connection. Looking them up takes a
fraction of the time that decoding does and proves as much: both are whole fields, encoded
here, and between them lies exactly one payload whose length has been checked. So there is
no room for a field that a decoder would find and that is overlooked here.

The tag of the payload stands in a prefix once, as its last byte. So no prefix begins
another one: a message can match one of them only, and in whatever order their sizes are
tried, the first that matches decides.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any, Final, Generic, TypeAlias, TypeVar

from .codec import encode, encode_varint
from .messages import Message
from .protocol import MAX_PAYLOAD

__all__ = ["ConnectionIndex", "DataKey"]

DataKey: TypeAlias = tuple[bytes, bytes]
"""The bytes before the length of the payload, and those after the payload."""

_PAYLOAD_TAG: Final = b"\x22"
_MAX_SIZES: Final = 8
"""Different sizes of prefixes that are tried; more would cost more than they save."""

T = TypeVar("T")

_Latest: TypeAlias = tuple[int, bytes, tuple[T, int, int] | None]
_NOTHING: Final = (-1, b"", None)


class ConnectionIndex(Generic[T]):
    """What belongs to the connections whose messages are known. Values are not ``None``."""

    __slots__ = ("_latest", "prefixes", "readers")

    def __init__(self) -> None:
        self.prefixes: dict[bytes, dict[bytes, T]] = {}
        """Prefix -> tail -> value. Connections of one stream share the ascending prefix.

        The extension looks into this object and :attr:`readers`, which stay the same ones.
        """
        self.readers: list[tuple[int, Callable[[memoryview], tuple[Any, ...]]]] = []
        """Each size of prefixes, and what reads so much of a delimited message: length, prefix and
        the first byte of the payload's length."""
        self._latest: _Latest[T] = _NOTHING
        """The latest frame that :meth:`find_only` has found, if there is nothing behind its
        payload: its size, what precedes the payload, and what was found."""

    def add(self, body: memoryview, message: Message, value: T) -> DataKey | None:
        """Remember ``value`` for messages like ``body``, which was decoded to ``message``.

        Returns what :meth:`remove` takes; ``None`` for a message in neither form, which is
        not remembered.
        """
        type_, stream_id, service_id, connection_id, payload, _, ignorable = message
        if not payload:
            return None
        self._latest = _NOTHING
        start = encode(Message(type_, stream_id, ignorable=ignorable))
        routing = encode(Message(0, 0, service_id, connection_id))
        length = encode_varint(len(payload))
        for fields, tail in ((start + routing, b""), (start, routing)):
            prefix = fields + _PAYLOAD_TAG
            header = prefix + length
            if body[: len(header)] == header and body[len(header) + len(payload) :] == tail:
                if all(len(prefix) != size for size, _ in self.readers):
                    if len(self.readers) == _MAX_SIZES:
                        return None
                    reader = Struct(f">H{len(prefix)}sB").unpack_from
                    self.readers.append((len(prefix), reader))
                self.prefixes.setdefault(prefix, {})[tail] = value
                return prefix, tail
        return None

    def remove(self, key: DataKey | None) -> None:
        """Forget what was remembered under ``key``, if anything was."""
        if key is None or key[0] not in self.prefixes:
            return
        prefix, tail = key
        tails = self.prefixes[prefix]
        tails.pop(tail, None)
        self._latest = _NOTHING
        if not tails:
            del self.prefixes[prefix]

    def clear(self) -> None:
        """Forget everything."""
        self.prefixes.clear()
        self._latest = _NOTHING
        self.readers.clear()

    def find_only(self, frame: memoryview) -> tuple[T, int, int] | None:
        """As :meth:`find`, for a frame that is one delimited message and nothing else.

        Often it has the size and the connection of the one before, so that is looked at first.
        """
        end = len(frame)
        size, head, latest = self._latest
        if end == size and frame[: len(head)] == head:
            return latest
        for size, read in self.readers:
            if end > size + 3:
                stated, prefix, length = read(frame)
                if stated != end - 2:
                    return None
                tails = self.prefixes.get(prefix)
                if tails is not None:
                    break
        else:
            return None
        start = size + 3
        if length > 0x7F:
            try:
                length = length & 0x7F | frame[start] << 7
                start += 1
                if length > 0x3FFF:
                    length = length & 0x3FFF | frame[start] << 14
                    start += 1
            except IndexError:
                return None
        stop = start + length
        if stop > end or not 0 < length <= MAX_PAYLOAD:
            return None
        value = tails.get(b"" if stop == end else frame[stop:].tobytes())
        if value is None:
            return None
        found = (value, start, stop)
        if stop == end:
            self._latest = (end, frame[:start].tobytes(), found)
        return found

    def find(self, body: memoryview) -> tuple[T, int, int] | None:
        """Return what was remembered for a message, and where its payload begins and ends.

        ``None`` for a message that is not known, or not valid: decode it to be told why.
        """
        for size, _ in self.readers:
            tails = self.prefixes.get(body[:size].tobytes())
            if tails is not None:
                break
        else:
            return None
        # The length is a varint of one to three bytes: 7 bits in each, the low ones first.
        # A fourth byte would make it more than a message can hold.
        try:
            length = body[size]
            start = size + 1
            if length > 0x7F:
                length = length & 0x7F | body[start] << 7
                start += 1
                if length > 0x3FFF:
                    length = length & 0x3FFF | body[start] << 14
                    start += 1
        except IndexError:
            return None
        stop = start + length
        end = len(body)
        if stop > end or not 0 < length <= MAX_PAYLOAD:
            return None
        value = tails.get(b"" if stop == end else body[stop:].tobytes())
        return None if value is None else (value, start, stop)
