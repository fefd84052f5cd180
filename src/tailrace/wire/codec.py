"""Encode and decode tunnel messages: protobuf, written by hand for its 7 fields.

The schema (guide V3, message schema)::

    1 type int32-enum    2 streamId int32     3 ignorable bool    4 payload bytes
    5 serviceId string   6 availableServiceIds repeated string    7 connectionId uint32

Decoding follows the protobuf encoding guide (protobuf.dev/programming-guides/encoding):
fields in any order, the last value of a scalar that comes twice wins, unknown fields are
skipped (a caller that must refuse them asks with ``strict``), varints wider than the field
are truncated to it. Where the guide leaves room, protobuf's own library is the judge, and
the tests compare with it. Stricter than that library in three points: a payload longer
than the protocol allows, groups nested more than 32 deep, and field number 0 inside an
unknown group are refused.

The only error that leaves this module is :class:`~tailrace.errors.DecodeError`
(and :class:`~tailrace.errors.LocalProtocolError` for a message that cannot be
encoded).
"""

from __future__ import annotations

from typing import Final

from ..errors import DecodeError, LocalProtocolError
from .messages import Message, MessageType
from .protocol import MAX_CONNECTION_ID, MAX_MESSAGE, MAX_PAYLOAD

__all__ = ["DataHeader", "decode", "encode", "encode_delimited", "encode_varint"]

# Wire types: the low three bits of a tag say how its value is stored.
_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_START_GROUP: Final = 3
_END_GROUP: Final = 4
_FIXED32: Final = 5

# Tags of the schema: field number and wire type. All are below 0x80, so one byte each;
# a known field with another wire type is an unknown field, as in protobuf's own library.
_TYPE: Final = 1 << 3 | _VARINT
_STREAM_ID: Final = 2 << 3 | _VARINT
_IGNORABLE: Final = 3 << 3 | _VARINT
_PAYLOAD: Final = 4 << 3 | _BYTES
_SERVICE_ID: Final = 5 << 3 | _BYTES
_AVAILABLE_SERVICE_IDS: Final = 6 << 3 | _BYTES
_CONNECTION_ID: Final = 7 << 3 | _VARINT

_MAX_FIELD_NUMBER: Final = 2**29 - 1
_MAX_GROUP_DEPTH: Final = 32
"""Far below the interpreter's recursion limit; no known schema nests groups at all."""
_MAX_VARINT: Final = 10
"""Bytes of the longest varint: 64 bits in groups of 7."""
_MAX_VARINT32: Final = 5
"""Bytes of the longest tag or length: both are 32 bits wide."""


def encode_varint(value: int) -> bytes:
    """Encode a number that is not negative: 7 bits in each byte, the low ones first."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _text(tag: int, text: str) -> bytes:
    try:
        raw = text.encode()
    except UnicodeEncodeError as error:
        raise LocalProtocolError(f"service id is not valid text: {text!r}") from error
    return bytes((tag,)) + encode_varint(len(raw)) + raw


def encode(message: Message) -> bytes:
    """Encode one message without its length prefix, fields in ascending order.

    Raises:
        LocalProtocolError: a field is out of range or the message is too long.
    """
    type_, stream_id, service_id, connection_id, payload, available, ignorable = message
    if not -(2**31) <= type_ < 2**31 or not -(2**31) <= stream_id < 2**31:
        raise LocalProtocolError(f"type {type_} or stream id {stream_id} is not an int32")
    if not 0 <= connection_id <= MAX_CONNECTION_ID:
        raise LocalProtocolError(f"connection id {connection_id} is not a uint32")
    if len(payload) > MAX_PAYLOAD:
        raise LocalProtocolError(f"payload of {len(payload)} bytes exceeds {MAX_PAYLOAD}")
    out = bytearray()
    # Zero and empty are the defaults of proto3 and are left out. A negative int32 takes
    # ten bytes: it is extended to 64 bits first, so that an int64 reads the same number.
    if type_:
        out += b"\x08" + encode_varint(type_ & 0xFFFF_FFFF_FFFF_FFFF)
    if stream_id:
        out += b"\x10" + encode_varint(stream_id & 0xFFFF_FFFF_FFFF_FFFF)
    if ignorable:
        out += b"\x18\x01"
    if payload:
        out += b"\x22" + encode_varint(len(payload))
        out += payload
    if service_id:
        out += _text(_SERVICE_ID, service_id)
    for name in available:
        out += _text(_AVAILABLE_SERVICE_IDS, name)
    if connection_id:
        out += b"\x38" + encode_varint(connection_id)
    if len(out) > MAX_MESSAGE:
        raise LocalProtocolError(f"message of {len(out)} bytes exceeds {MAX_MESSAGE}")
    return bytes(out)


def encode_delimited(message: Message) -> bytes:
    """Encode one message with its 2-byte length prefix.

    Raises:
        LocalProtocolError: as :func:`encode`.
    """
    body = encode(message)
    return len(body).to_bytes(2, "big") + body


class DataHeader:
    """Everything of a DATA message that stands before its payload.

    The payload is written as the last field, so that a reader can put this header
    right in front of bytes it has just read and send both without a copy.
    (Protobuf allows any order; the C++ and Go proxies and the service accept it.)
    """

    MAX_SIZE: Final = 2 + 2 + 11 + 131 + 6 + 4
    """Upper bound of the header's size in bytes: service ids have at most 128.

    The length prefix, then tag and value of type, stream id, service id (its length takes
    two bytes), connection id and payload (its length takes three).
    """

    __slots__ = ("_cached", "_cached_size", "_prefix")

    def __init__(self, stream_id: int, service_id: str, connection_id: int) -> None:
        self._prefix = (
            encode(Message(MessageType.DATA, stream_id, service_id, connection_id)) + b"\x22"
        )
        if len(self._prefix) > self.MAX_SIZE - 5:
            raise LocalProtocolError(f"service id {service_id!r} is longer than 128 bytes")
        # Bulk data comes in full messages: nearly always the size is that of the last one.
        self._cached_size = MAX_PAYLOAD
        self._cached = self._build(MAX_PAYLOAD)

    def _build(self, size: int) -> bytes:
        length = encode_varint(size)
        total = len(self._prefix) + len(length) + size
        return total.to_bytes(2, "big") + self._prefix + length

    def payload_size(self, length: int) -> int:
        """Return the size of the payload in a message of ours whose length prefix is ``length``."""
        rest = length - len(self._prefix)
        if rest <= 0x80:
            return rest - 1
        return rest - 2 if rest <= 0x4001 else rest - 3

    def build(self, size: int) -> bytes:
        """Return length prefix and fields for a payload of ``size`` bytes (1..64512).

        Raises:
            LocalProtocolError: ``size`` is out of range.
        """
        if size != self._cached_size:
            if not 0 < size <= MAX_PAYLOAD:
                raise LocalProtocolError(f"payload of {size} bytes is not in 1..{MAX_PAYLOAD}")
            self._cached = self._build(size)
            self._cached_size = size
        return self._cached


def _read_varint(body: memoryview, at: int, size: int = _MAX_VARINT) -> tuple[int, int]:
    """Read a varint of at most ``size`` bytes at ``at``; return it and the next offset.

    Bits beyond the 64th are cut off: the tenth byte has room for six of them, and
    protobuf's own library drops them. It also reads varints that are longer than they
    need to be, so these are no error.
    """
    value = 0
    shift = 0
    end = len(body)
    while at < end:
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
        if shift == 7 * size:
            raise DecodeError(f"varint is longer than {size} bytes")
    raise DecodeError("message ends inside a varint")


def _int32(value: int) -> int:
    """Return the low 32 bits as a signed number: parsers truncate what is too wide (guide)."""
    value &= 0xFFFF_FFFF
    return value - 0x1_0000_0000 if value & 0x8000_0000 else value


def _utf8(raw: memoryview) -> str:
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        raise DecodeError("service id is not valid UTF-8") from None


def _skip_group(body: memoryview, at: int, number: int, depth: int) -> int:
    """Skip the fields of an unknown group and its end.

    Groups are deprecated, but a parser must still know where one ends; each level is a
    call, so that a message may not choose how many there are.
    """
    if depth >= _MAX_GROUP_DEPTH:
        raise DecodeError("groups are nested too deeply")
    while True:
        tag, at = _read_varint(body, at, _MAX_VARINT32)
        if tag & 7 == _END_GROUP:
            if tag >> 3 != number:
                raise DecodeError("group ends with the wrong field number")
            return at
        at = _skip(body, at, tag, depth + 1)


def _skip(body: memoryview, at: int, tag: int, depth: int = 0) -> int:
    """Skip the value of an unknown field; return the offset after it."""
    if not 0 < tag >> 3 <= _MAX_FIELD_NUMBER:
        raise DecodeError(f"field number {tag >> 3} is invalid")
    # Each branch just moves on; whether the message is long enough is checked once, below.
    kind = tag & 7
    if kind == _VARINT:
        return _read_varint(body, at)[1]
    if kind == _BYTES:
        size, at = _read_varint(body, at, _MAX_VARINT32)
        at += size
    elif kind == _FIXED64:
        at += 8
    elif kind == _FIXED32:
        at += 4
    elif kind == _START_GROUP:
        return _skip_group(body, at, tag >> 3, depth)
    else:
        # 6 and 7 do not exist, and the end of a group belongs to the loop that began it.
        raise DecodeError(f"wire type {kind} is invalid here")
    if at > len(body):
        raise DecodeError("message ends inside a field")
    return at


def decode(body: memoryview, *, strict: bool = False) -> Message:
    """Decode one message (without its length prefix); the payload is a view of ``body``.

    ``strict`` refuses unknown fields, as the service must (guide V3, message schema).

    Raises:
        DecodeError: the bytes are not a valid message, or its payload is too long.
    """
    type_ = stream_id = connection_id = 0
    ignorable = False
    payload: bytes | memoryview = b""
    service_id = ""
    available: list[str] = []
    at = 0
    end = len(body)
    while at < end:
        # Tags, and most numbers, take a single byte. Only longer ones are worth a call.
        tag = body[at]
        at += 1
        if tag >= 0x80:
            # Also a known tag written longer than needed, which is still that tag.
            tag, at = _read_varint(body, at - 1, _MAX_VARINT32)
        if tag in _SCALARS:
            if at < end and body[at] < 0x80:
                value = body[at]
                at += 1
            else:
                value, at = _read_varint(body, at)
            if tag == _TYPE:
                type_ = _int32(value)
            elif tag == _STREAM_ID:
                stream_id = _int32(value)
            elif tag == _CONNECTION_ID:
                connection_id = value & 0xFFFF_FFFF
            else:
                ignorable = value != 0
        elif tag in _BLOBS:
            size, at = _read_varint(body, at, _MAX_VARINT32)
            start = at
            at += size
            if at > end:
                raise DecodeError("message ends inside a field")
            # Slices of a memoryview are cut at its end in silence: hence the check above.
            if tag == _PAYLOAD:
                payload = body[start:at]
            elif tag == _SERVICE_ID:
                service_id = _utf8(body[start:at])
            else:
                available.append(_utf8(body[start:at]))
        else:
            # Skipped first, so that a malformed message is always called malformed.
            at = _skip(body, at, tag)
            if strict:
                raise DecodeError(f"unknown field {tag >> 3}")
    # Last, because the last payload wins: an earlier one that is too long does not count.
    if len(payload) > MAX_PAYLOAD:
        raise DecodeError(f"payload of {len(payload)} bytes exceeds {MAX_PAYLOAD}")
    return Message(
        type_, stream_id, service_id, connection_id, payload, tuple(available), ignorable
    )


_SCALARS: Final = frozenset({_TYPE, _STREAM_ID, _IGNORABLE, _CONNECTION_ID})
_BLOBS: Final = frozenset({_PAYLOAD, _SERVICE_ID, _AVAILABLE_SERVICE_IDS})
