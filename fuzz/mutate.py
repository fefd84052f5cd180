"""Inputs near those that are known to be interesting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from random import Random
from typing import Final, TypeVar

from hypothesis import strategies as st

__all__ = ["Edit", "apply", "mutated", "mutated_text", "vary_bytes", "vary_item", "vary_text"]

_MOST_EDITS: Final = 6
_PLACES: Final = 1 << 16
_LONGEST_RUN: Final = 4096


class Edit(Enum):
    """Ways to change some bytes."""

    FLIP = "change one bit"
    SET = "change one byte"
    INSERT = "add one byte"
    DELETE = "take bytes out"
    REPEAT = "write a piece twice"
    WORD = "put a word in"
    OVERWRITE = "put a word over what is there"
    TRUNCATE = "cut the end off"
    SPLICE = "go on as another input does"
    RUN = "repeat one byte many times"


_EDITS: Final = tuple(Edit)


def apply(data: bytes, edit: Edit, place: int, value: int, word: bytes) -> bytes:
    """Return ``data`` with one edit; ``place`` and ``value`` choose where and what."""
    at = place % (len(data) + 1)
    match edit:
        case Edit.FLIP if data:
            at %= len(data)
            return data[:at] + bytes((data[at] ^ 1 << value % 8,)) + data[at + 1 :]
        case Edit.SET:
            return data[:at] + bytes((value,)) + data[at + 1 :]
        case Edit.INSERT:
            return data[:at] + bytes((value,)) + data[at:]
        case Edit.DELETE:
            return data[:at] + data[at + 1 + value % 16 :]
        case Edit.REPEAT:
            return data[: at + value] + data[at:]
        case Edit.WORD:
            return data[:at] + word + data[at:]
        case Edit.OVERWRITE:
            return data[:at] + word + data[at + len(word) :]
        case Edit.TRUNCATE:
            return data[:at]
        case Edit.SPLICE:
            return data[:at] + word[place % (len(word) + 1) :]
        case Edit.RUN:
            return data[:at] + data[at : at + 1] * (value * 37 % _LONGEST_RUN) + data[at:]
        case _:
            return data


def mutated(corpus: Sequence[bytes], words: Sequence[bytes] = ()) -> st.SearchStrategy[bytes]:
    """Inputs a few edits away from those of ``corpus``; ``words`` are what edits put in."""
    seeds = st.sampled_from([*corpus, b""])
    edits = st.lists(
        st.tuples(
            st.sampled_from(Edit),
            st.integers(0, _PLACES),
            st.integers(0, 255),
            st.sampled_from([*words, *corpus, b""]),
        ),
        max_size=_MOST_EDITS,
    )

    def build(data: bytes, steps: list[tuple[Edit, int, int, bytes]]) -> bytes:
        for edit, place, value, word in steps:
            data = apply(data, edit, place, value, word)
        return data

    return st.builds(build, seeds, edits)


def mutated_text(corpus: Sequence[str], words: Sequence[str] = ()) -> st.SearchStrategy[str]:
    """Text as :func:`mutated`; bytes that are not UTF-8 become surrogates, as in arguments."""
    encoded = mutated([text.encode() for text in corpus], [word.encode() for word in words])
    return encoded.map(lambda data: data.decode("utf-8", "surrogateescape"))


def vary_bytes(data: bytes, random: Random) -> bytes:
    """Return ``data`` with one to three edits; the words that go in are pieces of itself."""
    for _ in range(random.randint(1, 3)):
        begin = random.randrange(len(data) + 1)
        word = data[begin : begin + random.randrange(24)]
        place, value = random.randrange(_PLACES), random.randrange(256)
        data = apply(data, random.choice(_EDITS), place, value, word)
    return data


def vary_text(text: str, random: Random) -> str:
    """Return text as :func:`vary_bytes` does bytes."""
    varied = vary_bytes(text.encode("utf-8", "surrogateescape"), random)
    return varied.decode("utf-8", "surrogateescape")


T = TypeVar("T")


def vary_item(items: Sequence[T], vary: Callable[[T, Random], T], random: Random) -> tuple[T, ...]:
    """Return ``items`` with one of them varied, left out, doubled or moved to another place."""
    varied = list(items)
    if not varied:
        return ()
    at = random.randrange(len(varied))
    match random.randrange(6):
        case 0:
            del varied[at]
        case 1:
            varied.insert(random.randrange(len(varied)), varied[at])
        case 2:
            varied.append(varied.pop(at))
        case _:
            varied[at] = vary(varied[at], random)
    return tuple(varied)
