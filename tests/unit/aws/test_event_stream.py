"""Events in whatever pieces they come."""

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.aws.event_stream import Event, EventReader

STREAM = (
    b":\n\nevent: notification\nid: a\ndata: {}\n\n"
    b"data:x\r\ndata:  y\r\nretry: 5\r\nnonsense\r\n\r\n"
    b"event: empty\n\nid\ndata\n\n"
)
EVENTS = [
    Event("notification", "a", b"{}"),
    Event("message", "a", b"x\n y"),
    Event("message", "", b""),
]


def read(*pieces: bytes) -> list[Event]:
    reader = EventReader()
    return [event for piece in pieces for event in reader.feed(piece)]


def test_events_and_what_is_none() -> None:
    assert read(STREAM) == EVENTS
    assert read(STREAM[:-1]) == EVENTS[:-1]
    assert "x" not in repr(EVENTS[1])


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_pieces_do_not_matter(cuts: list[int]) -> None:
    at = [0, *sorted(cuts), len(STREAM)]
    assert read(*(STREAM[a:b] for a, b in itertools.pairwise(at))) == EVENTS


@given(st.lists(st.binary(max_size=50)))
def test_anything_may_come(pieces: list[bytes]) -> None:
    with contextlib.suppress(ValueError):
        read(*pieces)


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([b"x" * 40_000, b"x" * 40_000], "a line of the stream is too long"),
        ([b"x" * 70_000 + b"\n"], "a line of the stream is too long"),
        ([b"data:" + b"x" * 40_000 + b"\n"] * 2, "an event of the stream is too long"),
        ([b"data\n"] * 70_000, "an event of the stream is too long"),
        ([b"id: \xff\n"], "utf-8"),
    ],
)
def test_what_comes_is_bounded(pieces: list[bytes], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        read(*pieces)
