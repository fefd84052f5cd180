"""The events a session tells, as values."""

from __future__ import annotations

import dataclasses
import typing

import pytest

from tailrace.session import events
from tailrace.session.dialect import V2
from tailrace.session.events import (
    ConnectionEnded,
    ConnectionPaused,
    ConnectionRequested,
    ConnectionResumed,
    DialectLearned,
    EndCause,
    Event,
    MessageIgnored,
    PeerChanged,
    PeerFinished,
    PeerOffered,
    Resumed,
    Suspended,
    TunnelReady,
)
from tailrace.session.ledger import Counts
from tailrace.session.streams import Connection, Stream

CONNECTION = Connection(Stream("SSH1", "SSH1"), 1, has_connection_id=True, counts=Counts())

EXAMPLES: list[Event] = [
    TunnelReady(("SSH1",)),
    ConnectionRequested(CONNECTION),
    ConnectionEnded(CONNECTION, EndCause.LINK_LOST),
    ConnectionPaused(CONNECTION),
    ConnectionResumed(CONNECTION),
    PeerFinished(CONNECTION),
    PeerOffered(3),
    Suspended(3),
    Resumed(3, 1000),
    DialectLearned(V2),
    PeerChanged(present=True),
    MessageIgnored(1, "SSH1", "stale"),
]


def test_there_is_an_example_of_each_event() -> None:
    assert {type(event) for event in EXAMPLES} == set(typing.get_args(events.Event))


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)
def test_events_are_frozen_values(event: Event) -> None:
    (first, *_) = dataclasses.fields(event)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(event, first.name, None)
    assert dataclasses.replace(event) == event
    assert not hasattr(event, "__dict__")


def test_each_cause_has_a_text_of_its_own_for_the_log() -> None:
    texts = [cause.value for cause in EndCause]
    assert len(set(texts)) == len(texts)
    assert all(text and not text.endswith(".") for text in texts)
