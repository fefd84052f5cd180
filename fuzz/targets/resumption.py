"""Payloads with which two ends go on over lost links: bytes that a peer sends."""

from __future__ import annotations

from typing import Final

from tailrace.errors import DecodeError
from tailrace.wire import (
    Place,
    Progress,
    SessionOffer,
    decode_fin,
    decode_offer,
    decode_progress,
    encode_fin,
    encode_offer,
    encode_progress,
)

from ..mutate import mutated, vary_bytes
from ..target import Target

__all__ = ["RESUMPTION"]

_PLACES: Final = (
    Place("SSH1", 1, 3, Progress(258, 65_794, fin_seen=True)),
    Place("", 2, 4, Progress(0, 262_144, fin_seen=False)),
)
_SEEDS: Final = (
    *encode_offer(SessionOffer(b"s" * 16, b"d" * 16, 7, 9, {"SSH1": 3, "": 9}, _PLACES)),
    *encode_offer(SessionOffer(b"s" * 16, bytes(16), 1, 0, more=True)),
    encode_progress(Progress(258, 65_794, fin_seen=True)),
    encode_fin(65_536),
    b"\x02",
    b"",
)


def _check(payload: bytes) -> None:
    refused = 0
    try:
        assert encode_progress(decode_progress(payload)) == payload
    except DecodeError:
        refused += 1
    try:
        assert encode_fin(decode_fin(payload)) == payload
    except DecodeError:
        refused += 1
    try:
        offer = decode_offer(memoryview(payload))
    except DecodeError:
        if refused == 2:
            raise
        return
    assert offer is None or list(encode_offer(offer)) == [payload]


RESUMPTION: Final = Target(
    "resumption",
    "offers, acknowledgements and ends of connections, written again",
    mutated(_SEEDS, _SEEDS),
    _check,
    (DecodeError,),
    _SEEDS,
    vary_bytes,
)
