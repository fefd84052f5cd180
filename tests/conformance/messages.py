"""Tunnel messages as bytes, written and read without the package under test."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

__all__ = [
    "CONNECTION_ACK",
    "CONNECTION_FIN",
    "CONNECTION_RESET",
    "CONNECTION_RESUME",
    "CONNECTION_START",
    "DATA",
    "MAX_PAYLOAD",
    "PEER_JOINED",
    "PEER_LEFT",
    "SERVICE_IDS",
    "SESSION_OFFER",
    "SESSION_RESET",
    "STREAM_RESET",
    "STREAM_START",
    "Message",
    "Splitter",
    "data",
    "message",
    "read",
    "service_ids",
]

DATA, STREAM_START, STREAM_RESET, SESSION_RESET = 1, 2, 3, 4
SERVICE_IDS, CONNECTION_START, CONNECTION_RESET = 5, 6, 7
CONNECTION_RESUME, PEER_JOINED, PEER_LEFT = 1002, 1003, 1004
SESSION_OFFER, CONNECTION_ACK, CONNECTION_FIN = 1005, 1006, 1007

_NAMES = {
    0: "UNKNOWN",
    DATA: "DATA",
    STREAM_START: "STREAM_START",
    STREAM_RESET: "STREAM_RESET",
    SESSION_RESET: "SESSION_RESET",
    SERVICE_IDS: "SERVICE_IDS",
    CONNECTION_START: "CONNECTION_START",
    CONNECTION_RESET: "CONNECTION_RESET",
    CONNECTION_RESUME: "CONNECTION_RESUME",
    PEER_JOINED: "PEER_JOINED",
    PEER_LEFT: "PEER_LEFT",
    SESSION_OFFER: "SESSION_OFFER",
    CONNECTION_ACK: "CONNECTION_ACK",
    CONNECTION_FIN: "CONNECTION_FIN",
}

MAX_PAYLOAD = 64_512


class Message(NamedTuple):
    """A received message, and the bytes it was read from."""

    kind: int
    stream: int
    service: str
    connection: int
    payload: bytes
    raw: bytes
    """With the length prefix."""
    ignorable: bool = False

    def __str__(self) -> str:
        parts = [_NAMES.get(self.kind, f"type {self.kind}")]
        parts += [f"stream {self.stream}"] if self.stream else []
        parts += [self.service] if self.service else []
        parts += [f"connection {self.connection}"] if self.connection else []
        parts += [f"{len(self.payload)} bytes"] if self.payload else []
        return " ".join(parts)


def _varint(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value) if value else b""


def _text(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value if value else b""


def message(
    kind: int,
    stream: int = 0,
    service: str = "",
    connection: int = 0,
    payload: bytes = b"",
    ignorable: bool = False,
) -> bytes:
    """Return a message behind its length prefix, its fields in ascending order."""
    body = (
        _number(1, kind)
        + _number(2, stream)
        + _number(3, ignorable)
        + _text(4, payload)
        + _text(5, service.encode())
        + _number(7, connection)
    )
    return struct.pack("!H", len(body)) + body


def service_ids(*names: str) -> bytes:
    """Return the message that tells a tunnel's service ids."""
    body = _number(1, SERVICE_IDS) + b"".join(_text(6, name.encode()) for name in names)
    return struct.pack("!H", len(body)) + body


def data(payload: bytes, stream: int = 1, service: str = "", connection: int = 0) -> list[bytes]:
    """Return the messages that carry ``payload``."""
    return [
        message(DATA, stream, service, connection, payload[at : at + MAX_PAYLOAD])
        for at in range(0, len(payload), MAX_PAYLOAD)
    ]


class Splitter:
    """Finds messages in what frames carry; a message may begin and end anywhere."""

    def __init__(self) -> None:
        self._partial = bytearray()

    def feed(self, payload: bytes) -> Iterator[bytes]:
        """Yield the messages that are whole now, with their length prefixes."""
        self._partial += payload
        while len(self._partial) >= 2:
            end = 2 + int.from_bytes(self._partial[:2], "big")
            if len(self._partial) < end:
                break
            yield bytes(self._partial[:end])
            del self._partial[:end]


def read(raw: bytes) -> Message:
    """Read one message with its length prefix; every field is one that the protocol has."""
    numbers = {1: 0, 2: 0, 3: 0, 7: 0}
    texts = {4: b"", 5: b"", 6: b""}
    at = 2
    while at < len(raw):
        tag, at = _read_varint(raw, at)
        value, at = _read_varint(raw, at)
        if tag & 7 == 0:
            assert tag >> 3 in numbers, f"unexpected field {tag >> 3} in {raw.hex()}"
            numbers[tag >> 3] = value
        else:
            assert tag & 7 == 2, f"unexpected wire type in {raw.hex()}"
            assert tag >> 3 in texts, f"unexpected field {tag >> 3} in {raw.hex()}"
            texts[tag >> 3] = raw[at : at + value]
            at += value
    assert at == len(raw), f"{raw.hex()} is cut"
    assert numbers[3] in (0, 1), f"{raw.hex()} is ignorable in a strange way"
    ids = (numbers[1], numbers[2], texts[5].decode(), numbers[7])
    return Message(*ids, texts[4], raw, numbers[3] == 1)


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
