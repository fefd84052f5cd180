"""What must hold of every text that is shown and of every stream that is cut into pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from hypothesis import strategies as st

__all__ = ["cuts", "is_one_line", "pieces"]

_MOST_PIECES: Final = 500


def is_one_line(text: str) -> bool:
    """Say whether a text can stand in one line of a log: nothing in it controls a terminal."""
    return text.isprintable()


def cuts() -> st.SearchStrategy[list[int]]:
    """Sizes of the pieces in which something arrives; they repeat."""
    return st.lists(st.integers(1, 64) | st.integers(1, 70_000), min_size=1, max_size=5)


def pieces(data: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """Yield ``data`` in pieces of these sizes, over and over; larger ones if it would be many."""
    least = len(data) // _MOST_PIECES
    at = turn = 0
    while at < len(data):
        size = max(least, sizes[turn % len(sizes)])
        yield data[at : at + size]
        at += size
        turn += 1
