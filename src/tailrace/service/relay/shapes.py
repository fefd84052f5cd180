"""Recognise a DATA message that differs from an earlier one in its payload only.

One connection's messages repeat the same fields around ever new payloads. Comparing
those bytes takes a fraction of the time that decoding does, and proves as much.
"""

from __future__ import annotations

from ...wire import Message, MessageType, encode, payload_at

__all__ = ["DataShape"]

_PAYLOAD_TAG = b"\x22"


class DataShape:
    """The bytes around the payload of one connection's DATA messages."""

    __slots__ = ("_head", "_head_size", "_tail", "_tail_size")

    def __init__(self, prefix: bytes, tail: bytes) -> None:
        self._head = prefix
        self._head_size = len(prefix)
        self._tail = tail
        self._tail_size = len(tail)

    @classmethod
    def learn(cls, body: memoryview, message: Message) -> DataShape | None:
        """Return the shape of ``body``, which was decoded to ``message``.

        ``None`` for fields in an order that no known sender uses: those are payload
        last (ours) and ascending (C++).
        """
        _, stream_id, service_id, connection_id, *_ = message
        routing = encode(Message(0, 0, service_id, connection_id))
        for shape in (
            cls(encode(Message(MessageType.DATA, stream_id)) + routing + _PAYLOAD_TAG, b""),
            cls(encode(Message(MessageType.DATA, stream_id)) + _PAYLOAD_TAG, routing),
        ):
            if shape.matches(body):
                return shape
        return None

    def matches(self, body: memoryview) -> bool:
        """Say whether ``body`` is this shape around a payload of legal size."""
        if body[: self._head_size] != self._head:
            return False
        if not payload_at(body, self._head_size, self._tail_size):
            return False
        return not self._tail_size or body[-self._tail_size :] == self._tail
