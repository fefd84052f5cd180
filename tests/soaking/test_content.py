"""Whoever gets a wrong byte knows."""

from __future__ import annotations

import pytest
from soak.content import HEADER_SIZE, Checker, Header, Way, Work, content

SIZE = 2_500_000


def taken(data: bytes, step: int = 65_536, number: int = 3, way: Way = Way.UP) -> bool:
    checker = Checker(number, way)
    return all(checker.takes(data[at : at + step]) for at in range(0, len(data), step))


def whole(number: int = 3, way: Way = Way.UP, size: int = SIZE) -> bytes:
    data = b""
    while len(data) < size:
        data += content(number, way, len(data), size - len(data))
    return data


def test_what_was_sent_is_right() -> None:
    assert taken(whole())
    assert taken(whole(), 1_000_003)
    assert taken(whole()[:7], 1)


@pytest.mark.parametrize("at", [0, 70_000, SIZE - 1])
def test_an_altered_byte_shows(at: int) -> None:
    data = bytearray(whole())
    data[at] ^= 1
    assert not taken(bytes(data))


def test_lost_doubled_and_foreign_pieces_show() -> None:
    data = whole()
    assert not taken(data[:1000] + data[1001:])
    assert not taken(data[:2000] + data[1000:])
    assert not taken(whole(number=4))
    assert not taken(whole(way=Way.DOWN))


def test_a_header_comes_back() -> None:
    header = Header(7, 2**31, Work.REPLY, 5, 6)
    assert len(header.encode()) == HEADER_SIZE
    assert Header.decode(header.encode()) == header
    with pytest.raises(ValueError, match="not a header"):
        Header.decode(bytes(HEADER_SIZE))
