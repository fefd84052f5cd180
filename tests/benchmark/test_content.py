"""The bytes of bulk transfers: any other byte, or the same ones elsewhere, is seen."""

from __future__ import annotations

import pytest
from bench.load.content import CHUNK, PERIOD, Content, slice_of

SIZE = PERIOD + 12_345


def _sent(stream: int) -> bytearray:
    """Return what a sender sends, in the pieces it sends."""
    sent = bytearray()
    while len(sent) < SIZE:
        piece = slice_of(stream, len(sent), SIZE - len(sent))
        assert 0 < len(piece) <= CHUNK
        sent += piece
    return sent


def _is_right(stream: int, received: bytes | bytearray, step: int = 50_000) -> bool:
    content = Content(stream)
    for at in range(0, len(received), step):
        content.update(memoryview(received)[at : at + step])
    return content.is_right


def test_what_is_sent_is_right_however_it_is_cut() -> None:
    sent = _sent(3)
    assert _is_right(3, sent, 1000)
    assert _is_right(3, sent, SIZE)


@pytest.mark.parametrize("at", [0, SIZE // 2, SIZE - 1])
def test_one_other_bit_is_seen(at: int) -> None:
    sent = _sent(3)
    sent[at] ^= 1
    assert not _is_right(3, sent)


def test_a_lost_and_a_doubled_piece_are_seen() -> None:
    sent = _sent(3)
    assert not _is_right(3, sent[:1000] + sent[2000:])
    assert not _is_right(3, sent[:1000] + sent[900:])


def test_the_bytes_of_another_stream_are_seen() -> None:
    assert not _is_right(4, _sent(3))
