"""Payloads with which connections outlive links, written and read without the package under test.

The layout is that of docs/internals/sessions.md.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from conformance.messages import (
    CONNECTION_ACK,
    CONNECTION_FIN,
    SESSION_OFFER,
    Message,
    message,
)

__all__ = ["FIRST_LIMIT", "NOBODY", "Connection", "Offer", "Progress", "ack", "fin", "read_ack"]

NOBODY = bytes(16)
FIRST_LIMIT = 256 * 1024


class Progress(NamedTuple):
    """How far one direction of a connection has come at its receiver."""

    received: int
    limit: int = FIRST_LIMIT
    fin_seen: bool = False


class Connection(NamedTuple):
    """What names a connection."""

    service: str = "SSH1"
    stream: int = 1
    number: int = 1


@dataclass
class Offer:
    """One offer in one message."""

    sender: bytes
    nonce: int
    peer: bytes = NOBODY
    peer_nonce: int = 0
    highest: Mapping[str, int] = field(default_factory=dict)
    places: Mapping[Connection, Progress] = field(default_factory=dict)
    more: bool = False
    version: int = 1

    @property
    def payload(self) -> bytes:
        out = struct.pack(">B16s16s", self.version, self.sender, self.peer)
        out += struct.pack(">QQB", self.nonce, self.peer_nonce, self.more)
        out += struct.pack(">H", len(self.highest))
        for name, highest in self.highest.items():
            out += bytes([len(name)]) + name.encode() + struct.pack(">I", highest)
        out += struct.pack(">H", len(self.places))
        names = list(self.highest)
        for (service, stream, number), progress in self.places.items():
            out += struct.pack(">HiI", names.index(service), stream, number)
            out += struct.pack(">QQB", *progress)
        return out

    @property
    def raw(self) -> bytes:
        """The message, with its length prefix."""
        return message(SESSION_OFFER, payload=self.payload, ignorable=True)

    @classmethod
    def read(cls, received: Message) -> Offer:
        """Read an offer that has come; every byte of it has to be accounted for."""
        assert received.kind == SESSION_OFFER, f"{received} instead of an offer"
        assert received.ignorable, "an offer that is not ignorable"
        payload = received.payload
        version, sender, peer, nonce, peer_nonce, more, count = struct.unpack_from(
            ">B16s16sQQBH", payload
        )
        at = 52
        highest = {}
        for _ in range(count):
            size = payload[at]
            name = payload[at + 1 : at + 1 + size].decode()
            (highest[name],) = struct.unpack_from(">I", payload, at + 1 + size)
            at += 5 + size
        (count,) = struct.unpack_from(">H", payload, at)
        at += 2
        places = {}
        for _ in range(count):
            index, stream, number, *progress, seen = struct.unpack_from(">HiIQQB", payload, at)
            assert seen in (0, 1)
            connection = Connection(list(highest)[index], stream, number)
            places[connection] = Progress(*progress, bool(seen))
            at += 27
        offer = cls(sender, nonce, peer, peer_nonce, highest, places, bool(more), version)
        assert received.raw == offer.raw, "the offer is not as the document has it"
        return offer


def ack(connection: Connection, progress: Progress) -> bytes:
    """Return an acknowledgement."""
    service, stream, number = connection
    payload = struct.pack(">QQB", *progress)
    return message(CONNECTION_ACK, stream, service, number, payload, ignorable=True)


def read_ack(received: Message) -> Progress:
    """Read an acknowledgement that has come."""
    got, limit, seen = struct.unpack(">QQB", received.payload)
    progress = Progress(got, limit, bool(seen))
    connection = Connection(received.service, received.stream, received.connection)
    assert received.raw == ack(connection, progress), f"{received.raw.hex()} is no acknowledgement"
    return progress


def fin(connection: Connection, offset: int) -> bytes:
    """Return the end of a direction."""
    service, stream, number = connection
    payload = struct.pack(">Q", offset)
    return message(CONNECTION_FIN, stream, service, number, payload, ignorable=True)
