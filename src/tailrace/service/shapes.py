"""Recognise a DATA message that differs from an earlier one in its payload only.

One connection's messages repeat the same fields around ever new payloads. Comparing
those bytes takes a fraction of the time that decoding does, and proves as much.
"""

from __future__ import annotations

from ..wire import MAX_PAYLOAD, Message, MessageType, encode

__all__ = ["DataShape"]

_PAYLOAD_TAG = b"\x22"


class DataShape:
    """The bytes around the payload of one connection's DATA messages."""

    __slots__ = ("_head", "_head_size", "_tail", "_tail_size")

    def __init__(self, head: bytes, tail: bytes) -> None:
        self._head = head
        self._head_size = len(head)
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
        """Say whether ``body`` is this shape around a payload of legal size.

        The smallest payloads, of less than 4 bytes, may go unrecognised.
        """
        at = self._head_size
        end = len(body)
        if end < at + 4 or body[:at] != self._head:
            return False
        size = body[at]
        if size < 0x80:
            at += 1
        elif (second := body[at + 1]) < 0x80:
            size = size & 0x7F | second << 7
            at += 2
        elif (third := body[at + 2]) < 0x80:
            size = size & 0x7F | (second & 0x7F) << 7 | third << 14
            at += 3
        else:
            return False
        at += size
        if at + self._tail_size != end or size > MAX_PAYLOAD:
            return False
        return not self._tail_size or body[at:] == self._tail
