"""Payloads of resumption: to the byte, there and back, and what they cannot be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import DecodeError, LocalProtocolError
from tailrace.wire import (
    MAX_OFFER,
    NOBODY,
    Place,
    Progress,
    SessionOffer,
    decode_fin,
    decode_offer,
    decode_progress,
    encode_fin,
    encode_offer,
    encode_progress,
    fits_offer,
)

ME, YOU = bytes(range(16)), bytes(range(16, 32))
OFFER = SessionOffer(
    ME, YOU, 7, 9, {"SSH": 3, "": 1}, (Place("SSH", 1, 3, Progress(258, 65_794, True)),)
)
BYTES = bytes.fromhex(
    "01 000102030405060708090a0b0c0d0e0f 101112131415161718191a1b1c1d1e1f"
    "0000000000000007 0000000000000009 00"
    "0002 03 535348 00000003 00 00000001"
    "0001 0000 00000001 00000003 0000000000000102 0000000000010102 01"
)

offsets = st.integers(0, 2**64 - 1)
progresses = st.tuples(offsets, offsets, st.booleans()).map(
    lambda each: Progress(min(each[:2]), max(each[:2]), each[2])
)


@st.composite
def offers(draw: st.DrawFn) -> SessionOffer:
    ids = st.binary(min_size=16, max_size=16)
    names = st.text(max_size=20).filter(lambda name: len(name.encode()) <= 128)
    highest = draw(st.dictionaries(names, st.integers(0, 2**32 - 1), max_size=4))
    places = st.builds(
        Place,
        st.sampled_from(sorted(highest)) if highest else st.nothing(),
        st.integers(1, 2**31 - 1),
        st.integers(1, 2**32 - 1),
        progresses,
    )
    found = tuple(draw(st.lists(places, max_size=5))) if highest else ()
    return SessionOffer(draw(ids), draw(ids), draw(offsets), draw(offsets), highest, found)


def test_an_offer_to_the_byte() -> None:
    assert list(encode_offer(OFFER)) == [BYTES]
    assert decode_offer(BYTES) == OFFER


def test_an_offer_of_nothing() -> None:
    offer = SessionOffer(ME, NOBODY, 1, 0)
    (payload,) = encode_offer(offer)
    assert len(payload) == 54
    assert decode_offer(memoryview(payload)) == offer


@given(offers())
def test_an_offer_there_and_back(offer: SessionOffer) -> None:
    (payload,) = encode_offer(offer)
    assert decode_offer(payload) == offer


@pytest.mark.parametrize("count", [2219, 2220, 5000])
def test_a_long_offer_goes_on_in_further_ones(count: int) -> None:
    places = [Place("SSH", 1, number, Progress(0, 1, False)) for number in range(1, count + 1)]
    parts = list(encode_offer(SessionOffer(ME, YOU, 1, 2, {"SSH": count}, places)))
    assert len(parts) == -(-count // 2219)
    assert all(len(part) <= MAX_OFFER for part in parts)
    decoded = [decode_offer(part) for part in parts]
    assert [each.more for each in decoded if each] == [True] * (len(parts) - 1) + [False]
    assert [place for each in decoded if each for place in each.places] == places


def test_more_may_follow_by_the_word_of_the_sender() -> None:
    (payload,) = encode_offer(SessionOffer(ME, YOU, 1, 2, more=True))
    decoded = decode_offer(payload)
    assert decoded is not None
    assert decoded.more


def test_too_many_services() -> None:
    highest = {f"{number:0128}": 1 for number in range(500)}
    with pytest.raises(LocalProtocolError, match="500 services"):
        list(encode_offer(SessionOffer(ME, YOU, 1, 2, highest)))


def test_an_offer_of_another_version_is_none() -> None:
    assert decode_offer(b"\x02") is None
    assert decode_offer(b"\x00" + BYTES[1:]) is None


@pytest.mark.parametrize("size", range(len(BYTES)))
def test_an_offer_that_ends_early(size: int) -> None:
    with pytest.raises(DecodeError):
        decode_offer(BYTES[:size])


@pytest.mark.parametrize(
    ("at", "byte"),
    [
        (49, 2),  # more
        (51, 1),  # services: too few
        (53, 0xFF),  # no UTF-8
        (65, 2),  # connections: too many
        (67, 2),  # no such service
        (69, 0xFF),  # a negative stream id
        (72, 0),  # stream id 0
        (76, 0),  # connection id 0
        (77, 0xFF),  # more received than allowed
        (93, 2),  # fin seen
    ],
)
def test_an_offer_with_a_byte_that_cannot_be(at: int, byte: int) -> None:
    with pytest.raises(DecodeError):
        decode_offer(BYTES[:at] + bytes([byte]) + BYTES[at + 1 :])


def test_an_offer_with_a_service_twice_or_bytes_to_spare() -> None:
    twice = BYTES[:50] + bytes.fromhex("0002 00 00000001 00 00000002 0000")
    for payload in (twice, BYTES + b"\0"):
        with pytest.raises(DecodeError):
            decode_offer(payload)


@given(st.binary(max_size=120))
def test_any_bytes_are_an_offer_or_an_error(tail: bytes) -> None:
    try:
        offer = decode_offer(b"\x01" + tail)
    except DecodeError:
        return
    assert offer is not None
    assert decode_offer(next(encode_offer(offer))) == offer


@given(progresses)
def test_an_acknowledgement_there_and_back(progress: Progress) -> None:
    assert decode_progress(encode_progress(progress)) == progress


def test_an_acknowledgement_to_the_byte() -> None:
    payload = bytes.fromhex("0000000000000102 0000000000010102 01")
    assert encode_progress(Progress(258, 65_794, True)) == payload
    wrong = [payload[:-1], payload + b"\0", b"", payload[:-1] + b"\x02", b"\xff" + payload[1:]]
    for each in wrong:
        with pytest.raises(DecodeError):
            decode_progress(each)


@given(offsets)
def test_an_end_there_and_back(offset: int) -> None:
    payload = encode_fin(offset)
    assert payload == offset.to_bytes(8, "big")
    assert decode_fin(memoryview(payload)) == offset
    for wrong in (payload[:-1], payload + b"\0", b""):
        with pytest.raises(DecodeError):
            decode_fin(wrong)


@pytest.mark.parametrize(("count", "fits"), [(0, True), (450, True), (451, False)])
def test_what_fits_can_be_offered_with_a_connection(count: int, fits: bool) -> None:
    names = [f"{number:0128d}" for number in range(count)]
    assert fits_offer(names) is fits
    offer = SessionOffer(b"s" * 16, b"d" * 16, 1, 1, dict.fromkeys(names, 1))
    if fits:
        assert len(list(encode_offer(offer))) == 1
    else:
        with pytest.raises(LocalProtocolError, match="do not fit"):
            list(encode_offer(offer))
