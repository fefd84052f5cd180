"""Recognise the DATA messages of known connections by the bytes before their payload.

The messages of one connection repeat the same fields around ever new payloads. Where the
payload comes last, as in :class:`~tailrace.wire.codec.DataHeader`, everything before its
length is the same each time: looking those bytes up takes a fraction of the time that
decoding does, and proves as much.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from .codec import encode
from .messages import Message, MessageType
from .protocol import MAX_PAYLOAD

__all__ = ["PrefixIndex", "payload_at"]

_PAYLOAD_TAG: Final = b"\x22"
_MAX_SIZES: Final = 8
"""Different sizes of heads that are looked for; more would cost more than they save."""

T = TypeVar("T")


def payload_at(body: memoryview, at: int, tail: int = 0) -> int:
    """Return where the payload begins whose length stands at ``at``.

    0 unless its length is legal and leaves ``tail`` bytes behind the payload.
    """
    end = len(body) - tail
    if end - at <= 128:  # the length takes one byte
        return at + 1 if end - at > 1 and body[at] == end - at - 1 else 0
    low, high = body[at], body[at + 1]
    size = low & 0x7F | (high & 0x7F) << 7
    at += 2
    if high >= 0x80:
        size |= body[at] << 14
        at += 1
    return at if low >= 0x80 and at + size == end and size <= MAX_PAYLOAD else 0


class PrefixIndex(Generic[T]):
    """What belongs to the connection whose DATA messages begin with certain bytes."""

    __slots__ = ("_sizes", "_values")

    def __init__(self) -> None:
        self._values: dict[bytes, T] = {}
        self._sizes: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self._values)

    def add(self, body: memoryview, message: Message, value: T) -> bytes:
        """Remember ``value`` for messages like ``body``, which was decoded to ``message``.

        Returns the head to give to :meth:`remove`; ``b""`` for a message whose payload
        does not come last, or which has other fields, and is not remembered.
        """
        _, stream_id, service_id, connection_id, payload, *_ = message
        plain = Message(MessageType.DATA, stream_id, service_id, connection_id)
        prefix = encode(plain) + _PAYLOAD_TAG
        size = len(prefix)
        if not payload or body[:size] != prefix or payload_at(body, size) == 0:
            return b""
        if size not in self._sizes:
            if len(self._sizes) == _MAX_SIZES:
                return b""
            self._sizes = (*self._sizes, size)
        self._values[prefix] = value
        return prefix

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()
        self._sizes = ()

    def remove(self, prefix: bytes) -> None:
        """Forget what was remembered under ``head``."""
        self._values.pop(prefix, None)

    def knows(self, body: memoryview) -> bool:
        """Tell whether :meth:`find` would find something."""
        for size in self._sizes:
            if bytes(body[:size]) in self._values:
                return payload_at(body, size) > 0
        return False

    def find(self, body: memoryview) -> tuple[T, memoryview] | None:
        """Return what was remembered for a message, and its payload; ``None`` if unknown.

        Messages that are known but not valid are unknown too: decode them to be told why.
        """
        for size in self._sizes:
            value = self._values.get(bytes(body[:size]))
            if value is not None:
                at = payload_at(body, size)
                return (value, body[at:]) if at else None
        return None
