"""Packets of MQTT 3.1.1 to bytes and back, for a client. Pure.

Section numbers are those of the OASIS standard "MQTT Version 3.1.1".

Each packet begins with a byte for its type and flags, and the length of all that follows, in one to
four bytes of seven bits (section 2.2). The length comes from the broker and may be 256 MiB, so it
is judged before anything is kept. All packets for a client are a few bytes long, except PUBLISH. Of
a PUBLISH, the length of the topic is read next, and from that follows the length of its payload. If
that is more than the reader wants, the payload is dropped as it comes in, and an
:class:`Oversized` takes the place of the message. That has the packet id, by which the client can
acknowledge what it will never read, or the broker would send it again with every connection.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from .errors import BrokerError, BrokerFault

__all__ = [
    "DISCONNECT",
    "MAX_PAYLOAD",
    "MAX_SKIPPED",
    "PINGREQ",
    "Connack",
    "Oversized",
    "Packet",
    "PacketReader",
    "Pingresp",
    "Puback",
    "Publish",
    "Pubrel",
    "Suback",
    "encode_connect",
    "encode_puback",
    "encode_pubcomp",
    "encode_publish",
    "encode_pubrec",
    "encode_subscribe",
]

MAX_PAYLOAD: Final = 8192
"""Bytes of a message that is kept."""
MAX_SKIPPED: Final = 16 * 1024 * 1024
"""Bytes of a message that is dropped while it comes in; a larger one is a violation."""

PINGREQ: Final = b"\xc0\x00"
DISCONNECT: Final = b"\xe0\x00"

_CONNACK, _PUBLISH, _PUBACK, _PUBREL, _SUBACK, _PINGRESP = 2, 3, 4, 6, 9, 13
_LENGTHS: Final = {
    # First byte -> remaining length, of all packets for a client that have only one.
    _CONNACK << 4: 2,
    _PUBACK << 4: 2,
    _PUBREL << 4 | 2: 2,
    _SUBACK << 4: 3,  # we subscribe to one topic at a time
    _PINGRESP << 4: 0,
}
_GRANTED: Final = (0, 1, 2, 0x80)
_MAX_TEXT: Final = 65_535
_WILDCARDS: Final = frozenset("+#")


@dataclass(frozen=True, slots=True)
class Connack:
    """The broker's answer to CONNECT; ``code`` 0 accepts (section 3.2)."""

    session_present: bool
    code: int


@dataclass(frozen=True, slots=True)
class Publish:
    """A message (section 3.3); ``packet_id`` is 0 at QoS 0."""

    topic: str
    payload: bytes = field(repr=False)
    qos: int = 0
    packet_id: int = 0
    retain: bool = False
    dup: bool = False


@dataclass(frozen=True, slots=True)
class Oversized:
    """A message whose payload of ``size`` bytes was dropped."""

    topic: str
    size: int
    qos: int = 0
    packet_id: int = 0


@dataclass(frozen=True, slots=True)
class Puback:
    """The broker has taken a message of ours (section 3.4)."""

    packet_id: int


@dataclass(frozen=True, slots=True)
class Pubrel:
    """The broker will not send a message of QoS 2 again (section 3.6)."""

    packet_id: int


@dataclass(frozen=True, slots=True)
class Suback:
    """The QoS that a subscription was granted, or 0x80: refused (section 3.9)."""

    packet_id: int
    code: int


@dataclass(frozen=True, slots=True)
class Pingresp:
    """The answer to PINGREQ (section 3.13)."""


Packet: TypeAlias = Connack | Publish | Oversized | Puback | Pubrel | Suback | Pingresp


class PacketReader:
    """Turns the bytes of a broker into packets.

    Never keeps more than it was fed since the last call that returned ``None``, and one packet of
    at most ``max_payload`` bytes with its topic.
    """

    __slots__ = ("_buffer", "_max_payload", "_oversized", "_to_drop")

    def __init__(self, max_payload: int = MAX_PAYLOAD) -> None:
        self._max_payload = max_payload
        self._buffer = bytearray()
        self._oversized: Oversized | None = None
        self._to_drop = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self._buffer += data

    def next(self) -> Packet | None:
        """Return the next packet, ``None`` if more bytes are needed.

        Raises:
            BrokerError: the bytes are none of the packets that a client may be sent. The reader
                cannot be used any more.
        """
        buffer = self._buffer
        if self._oversized is not None:
            return self._drop(self._oversized)
        if not buffer:
            return None
        first = buffer[0]
        if first >> 4 != _PUBLISH and first not in _LENGTHS:
            raise _violation(f"byte 0x{first:02x} begins no packet for a client")
        if first >> 1 & 3 == 3 and first >> 4 == _PUBLISH:
            raise _violation("PUBLISH at QoS 3")
        length = self._length()
        if length is None:
            return None
        size, start = length
        if first >> 4 == _PUBLISH:
            return self._publish(first, size, start)
        if size != _LENGTHS[first]:
            raise _violation(f"packet of type {first >> 4} with {size} bytes")
        body = self._take(start, start + size)
        return None if body is None else _small(first >> 4, body)

    def _length(self) -> tuple[int, int] | None:
        """Return the remaining length and where it begins; section 2.2.3."""
        size = 0
        for index in range(1, 5):
            if index >= len(self._buffer):
                return None
            byte = self._buffer[index]
            size |= (byte & 0x7F) << 7 * (index - 1)
            if byte < 0x80:
                return size, index + 1
        raise _violation("a length of more than four bytes")

    def _take(self, start: int, end: int) -> bytes | None:
        """Return bytes of the buffer and remove all up to ``end``; ``None`` if some are missing."""
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[start:end])
        del self._buffer[:end]
        return body

    def _publish(self, first: int, size: int, start: int) -> Packet | None:
        qos = first >> 1 & 3
        if len(self._buffer) < start + min(size, 2):
            return None
        topic_end = 2 + int.from_bytes(self._buffer[start : start + 2], "big")
        payload_start = topic_end + (2 if qos else 0)
        if size < payload_start:
            raise _violation("PUBLISH that ends within its topic")
        payload_size = size - payload_start
        if payload_size > MAX_SKIPPED:
            raise _violation(f"a message of {payload_size} bytes")
        is_kept = payload_size <= self._max_payload
        body = self._take(start, start + (size if is_kept else payload_start))
        if body is None:
            return None
        topic = _topic(body[2:topic_end])
        packet_id = _packet_id(body[topic_end:payload_start]) if qos else 0
        if is_kept:
            payload = body[payload_start:]
            return Publish(topic, payload, qos, packet_id, bool(first & 1), bool(first & 8))
        self._to_drop = payload_size
        return self._drop(Oversized(topic, payload_size, qos, packet_id))

    def _drop(self, oversized: Oversized) -> Oversized | None:
        """Drop what is there of a payload; return the packet once all of it is."""
        dropped = min(self._to_drop, len(self._buffer))
        del self._buffer[:dropped]
        self._to_drop -= dropped
        self._oversized = oversized if self._to_drop else None
        return None if self._to_drop else oversized


def _small(kind: int, body: bytes) -> Packet:
    """Return a packet with a fixed length."""
    match kind:
        case 2:
            if body[0] > 1:
                raise _violation("CONNACK with reserved flags")
            return Connack(bool(body[0]), body[1])
        case 4:
            return Puback(_packet_id(body))
        case 6:
            return Pubrel(_packet_id(body))
        case 9:
            if body[2] not in _GRANTED:
                raise _violation(f"SUBACK with code 0x{body[2]:02x}")
            return Suback(_packet_id(body[:2]), body[2])
        case _:
            return Pingresp()


def _packet_id(field: bytes) -> int:
    packet_id = int.from_bytes(field, "big")
    if not packet_id:
        raise _violation("packet id 0")  # section 2.3.1
    return packet_id


def _topic(field: bytes) -> str:
    """Return the topic of a message; sections 1.5.3, 3.3.2.1 and 4.7.3."""
    try:
        topic = field.decode()
    except UnicodeDecodeError:
        raise _violation("a topic that is not UTF-8") from None
    if not topic or "\0" in topic or _WILDCARDS.intersection(topic):
        raise _violation("a topic that is empty, or holds a wildcard or NUL")
    return topic


def _violation(text: str) -> BrokerError:
    return BrokerError(BrokerFault.VIOLATION, f"the broker sent {text}")


def encode_connect(
    client_id: str,
    *,
    keep_alive: int,
    clean_session: bool,
    user: str | None = None,
    password: str | None = None,
) -> bytes:
    """Return CONNECT (section 3.1); ``keep_alive`` is in seconds, 0-65535.

    A ``password`` needs a ``user``.
    """
    flags = clean_session << 1 | (password is not None) << 6 | (user is not None) << 7
    header = _text("MQTT") + bytes((4, flags)) + keep_alive.to_bytes(2, "big")
    texts = (client_id, user, password)
    return _packet(0x10, header + b"".join(_text(each) for each in texts if each is not None))


def encode_subscribe(packet_id: int, topic: str, qos: int) -> bytes:
    """Return SUBSCRIBE for one topic (section 3.8)."""
    return _packet(0x82, packet_id.to_bytes(2, "big") + _text(topic) + bytes((qos,)))


def encode_publish(packet_id: int, topic: str, payload: bytes) -> bytes:
    """Return PUBLISH at QoS 1, not retained (section 3.3)."""
    return _packet(0x32, _text(topic) + packet_id.to_bytes(2, "big") + payload)


def encode_puback(packet_id: int) -> bytes:
    """Return PUBACK: a message of QoS 1 is stored (section 3.4)."""
    return _packet(0x40, packet_id.to_bytes(2, "big"))


def encode_pubrec(packet_id: int) -> bytes:
    """Return PUBREC: a message of QoS 2 is stored (section 3.5)."""
    return _packet(0x50, packet_id.to_bytes(2, "big"))


def encode_pubcomp(packet_id: int) -> bytes:
    """Return PUBCOMP, the answer to PUBREL (section 3.7)."""
    return _packet(0x70, packet_id.to_bytes(2, "big"))


def _text(text: str) -> bytes:
    """Return a text with its length in front (section 1.5.3), at most 65,535 bytes."""
    encoded = text.encode()
    assert len(encoded) <= _MAX_TEXT, "settings are checked before"
    return len(encoded).to_bytes(2, "big") + encoded


def _packet(first: int, body: bytes) -> bytes:
    length = bytearray()
    size = len(body)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes((first, *length)) + body
