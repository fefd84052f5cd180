"""What is known of the far end, link by link."""

from __future__ import annotations

import pytest

from support.session.playbook import RESUMABLE, joined, left
from tailrace.session.dialect import V1, V2, V3
from tailrace.session.far_end import FarEnd
from tailrace.wire import (
    FLOW,
    NO_CAPABILITIES,
    PEER_LISTENS,
    RESUME,
    Capabilities,
    Message,
    MessageType,
)


def test_nothing_is_known_of_a_new_link_but_what_its_service_passes_on() -> None:
    far = FarEnd(None, learns=True)
    assert far.dialect is V3
    assert far.peer_present is None
    far.capabilities = RESUMABLE
    far.note_presence(joined())
    far.may_learn, far.dialect = False, V2
    far.begin()
    assert (far.dialect, far.may_learn) == (V3, True)
    assert (far.peer_present, far.peer_capabilities) == (None, NO_CAPABILITIES)
    assert far.capabilities == RESUMABLE


def test_a_dialect_that_was_given_is_not_learned() -> None:
    far = FarEnd(V1, learns=True)
    assert (far.dialect, far.may_learn) == (V1, False)
    assert not FarEnd(None, learns=False).may_learn


def test_who_agrees_speaks_v3() -> None:
    far = FarEnd(None, learns=True)
    far.dialect = V2
    far.peer_agreed()
    assert (far.dialect, far.may_learn) == (V3, False)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        (NO_CAPABILITIES, (False, False, False)),
        (FLOW, (True, False, True)),
        (RESUME, (False, True, True)),
        (RESUMABLE, (True, True, True)),
    ],
)
def test_what_a_service_can_do(
    capabilities: Capabilities, expected: tuple[bool, bool, bool]
) -> None:
    far = FarEnd(None, learns=True)
    far.capabilities = capabilities
    assert (far.has_flow, far.passes_offers, far.tells_presence) == expected


def test_presence_changes_when_it_is_told_and_another_one() -> None:
    far = FarEnd(None, learns=True)
    far.capabilities = RESUMABLE
    told = [far.note_presence(message) for message in (left(), left(), joined(), joined(), left())]
    assert told == [True, False, True, False, True]
    assert far.peer_present is False


@pytest.mark.parametrize(
    ("service", "payload", "expected"),
    [
        (FLOW, PEER_LISTENS, FLOW),
        (FLOW, b"", NO_CAPABILITIES),
        (FLOW, b"flow, resume", NO_CAPABILITIES),
        (RESUMABLE, b"flow, resume, later", RESUMABLE),
        (RESUMABLE, b"", NO_CAPABILITIES),
        (RESUMABLE, b"\xff, flow", FLOW),
    ],
)
def test_what_the_service_says_of_the_peer(
    service: Capabilities, payload: bytes, expected: Capabilities
) -> None:
    far = FarEnd(None, learns=True)
    far.capabilities = service
    far.note_presence(Message(MessageType.PEER_JOINED, payload=payload))
    assert far.peer_capabilities == expected
    assert far.peer_resumes is ("resume" in expected)
    far.note_presence(left())
    assert not far.peer_resumes
