"""What two ends tell each other so that their connections outlive a link: payloads.

Three messages of this project, always ignorable. What they mean is told by
:mod:`tailrace.session.resumption`; numbers are big-endian.

SESSION_OFFER, of the session: who the sender is, which incarnations of both ends it speaks of, and
how far each of its connections has come. One that is too long for a message goes on in the next::

    version u8 | sender 16 | peer 16 | nonce u64 | peer's nonce u64 | more u8
    services u16, of each:     length u8 | service id | highest connection id u32
    connections u16, of each:  service u16 | stream id i32 | connection id u32
                               | received u64 | limit u64 | fin seen u8

CONNECTION_ACK, of a connection: ``received u64 | limit u64 | fin seen u8``. CONNECTION_FIN, of a
connection: ``final offset u64``.

Offsets count the payload bytes of one direction of a connection from its start. 64 bits of them do
not come to an end.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ..errors import DecodeError, LocalProtocolError
from .protocol import MAX_STREAM_ID

__all__ = [
    "MAX_OFFER",
    "NOBODY",
    "PLACE_SIZE",
    "SESSION_ID_SIZE",
    "Place",
    "Progress",
    "SessionOffer",
    "decode_fin",
    "decode_offer",
    "decode_progress",
    "encode_fin",
    "encode_offer",
    "encode_progress",
    "fits_offer",
]

_VERSION: Final = 1
SESSION_ID_SIZE: Final = 16
"""Bytes of a session id: random, so that no two processes have the same."""
NOBODY: Final = bytes(SESSION_ID_SIZE)
"""Stands for the id of a peer that has not been heard yet."""
MAX_OFFER: Final = 60_000
"""Bytes of the payload of one offer; the rest goes on in another one."""

_HEAD: Final = struct.Struct(">B16s16sQQB")
_COUNT: Final = struct.Struct(">H")
_HIGHEST: Final = struct.Struct(">I")
_PLACE: Final = struct.Struct(">HiIQQB")
PLACE_SIZE: Final = _PLACE.size
"""Bytes of a connection in an offer."""
_PROGRESS: Final = struct.Struct(">QQB")
_FIN: Final = struct.Struct(">Q")
_FLAGS: Final = (0, 1)


class Progress(NamedTuple):
    """How far the receiver of one direction of a connection has come."""

    received: int
    """Bytes that have come, all of them in order."""
    limit: int
    """Bytes that may be sent in all."""
    fin_seen: bool
    """Whether the end of the direction has come, too."""


class Place(NamedTuple):
    """Where a connection stands at the sender of an offer."""

    service_id: str
    stream_id: int
    connection_id: int
    progress: Progress


@dataclass(frozen=True, slots=True)
class SessionOffer:
    """What an end offers to go on with."""

    sender: bytes
    """Session id of the sender."""
    peer: bytes
    """That of the peer it has heard last, or :data:`NOBODY`."""
    nonce: int
    """Incarnation of the sender."""
    peer_nonce: int
    """That of the peer it has heard last, or 0."""
    highest: Mapping[str, int] = field(default_factory=dict)
    """Service id -> the highest id of its connections that the sender has known."""
    places: Sequence[Place] = ()
    """Its connections, all of services in ``highest``."""
    more: bool = False
    """Whether another offer follows that goes on with this one."""


def encode_progress(progress: Progress) -> bytes:
    """Return the payload of a CONNECTION_ACK."""
    return _PROGRESS.pack(*progress)


def decode_progress(payload: bytes | memoryview) -> Progress:
    """Read the payload of a CONNECTION_ACK.

    Raises:
        DecodeError: it is not one.
    """
    try:
        received, limit, fin_seen = _PROGRESS.unpack(payload)
    except struct.error:
        raise DecodeError(f"an acknowledgement of {len(payload)} bytes") from None
    return _progress(received, limit, fin_seen)


def _progress(received: int, limit: int, fin_seen: int) -> Progress:
    if fin_seen not in _FLAGS:
        raise DecodeError(f"a flag is {fin_seen}")
    if received > limit:
        raise DecodeError(f"{received} bytes were received, {limit} were allowed")
    return Progress(received, limit, bool(fin_seen))


def encode_fin(offset: int) -> bytes:
    """Return the payload of a CONNECTION_FIN: ``offset`` bytes were sent in all."""
    return _FIN.pack(offset)


def decode_fin(payload: bytes | memoryview) -> int:
    """Read the payload of a CONNECTION_FIN.

    Raises:
        DecodeError: it is not one.
    """
    try:
        (offset,) = _FIN.unpack(payload)
    except struct.error:
        raise DecodeError(f"an end of {len(payload)} bytes") from None
    assert isinstance(offset, int)
    return offset


def fits_offer(service_ids: Iterable[str]) -> bool:
    """Return whether an offer can name so many services, and a connection besides."""
    size = sum(1 + len(service_id.encode()) + _HIGHEST.size for service_id in service_ids)
    return _HEAD.size + size + 2 * _COUNT.size + _PLACE.size <= MAX_OFFER


def encode_offer(offer: SessionOffer) -> Iterator[bytes]:
    """Yield the payloads of an offer, each for a message of its own; at least one.

    Raises:
        LocalProtocolError: the services alone do not fit.
    """
    services = bytearray(_COUNT.pack(len(offer.highest)))
    for service_id, highest in offer.highest.items():
        name = service_id.encode()
        services += bytes((len(name),)) + name + _HIGHEST.pack(highest)
    room = (MAX_OFFER - _HEAD.size - len(services) - _COUNT.size) // _PLACE.size
    if room < 1:
        raise LocalProtocolError(f"{len(offer.highest)} services do not fit into an offer")
    numbers = {service_id: number for number, service_id in enumerate(offer.highest)}
    ids = (offer.sender, offer.peer, offer.nonce, offer.peer_nonce)
    for start in range(0, len(offer.places) or 1, room):
        part = offer.places[start : start + room]
        more = offer.more or start + room < len(offer.places)
        out = bytearray(_HEAD.pack(_VERSION, *ids, more))
        out += services + _COUNT.pack(len(part))
        for service_id, stream_id, connection_id, progress in part:
            out += _PLACE.pack(numbers[service_id], stream_id, connection_id, *progress)
        yield bytes(out)


def decode_offer(payload: bytes | memoryview) -> SessionOffer | None:
    """Read the payload of a SESSION_OFFER; ``None`` for one of another version.

    Raises:
        DecodeError: it is not one.
    """
    if payload and payload[0] != _VERSION:
        return None
    try:
        return _read_offer(memoryview(payload))
    except (struct.error, IndexError, UnicodeDecodeError):
        raise DecodeError(f"an offer of {len(payload)} bytes ends early, or is no text") from None


def _read_offer(payload: memoryview) -> SessionOffer:
    _, sender, peer, nonce, peer_nonce, more = _HEAD.unpack_from(payload)
    at = _HEAD.size
    (count,) = _COUNT.unpack_from(payload, at)
    at += _COUNT.size
    highest: dict[str, int] = {}
    for _ in range(count):
        end = at + 1 + payload[at]
        name = str(payload[at + 1 : end], "utf-8")
        (highest[name],) = _HIGHEST.unpack_from(payload, end)
        at = end + _HIGHEST.size
    if len(highest) < count:
        raise DecodeError("an offer names a service twice")
    names = list(highest)
    (count,) = _COUNT.unpack_from(payload, at)
    at += _COUNT.size
    if more not in _FLAGS or at + count * _PLACE.size != len(payload):
        raise DecodeError(f"an offer of {len(payload)} bytes has another length than it says")
    # First all of them: an iterator that an error leaves behind holds on to the frame.
    places = [_place(names, *fields) for fields in list(_PLACE.iter_unpack(payload[at:]))]
    return SessionOffer(sender, peer, nonce, peer_nonce, highest, tuple(places), bool(more))


def _place(
    names: Sequence[str],
    service: int,
    stream_id: int,
    connection_id: int,
    received: int,
    limit: int,
    fin_seen: int,
) -> Place:
    if not 0 < stream_id <= MAX_STREAM_ID or not connection_id:
        raise DecodeError(f"an offer names connection {connection_id} of stream {stream_id}")
    return Place(names[service], stream_id, connection_id, _progress(received, limit, fin_seen))
