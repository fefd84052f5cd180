"""The transition tables: complete, consistent, and the same as in the documentation."""

from __future__ import annotations

import itertools

import pytest
from docs.generate import session_states

from tailrace.session.transitions import (
    DESTINATION,
    SESSION,
    SOURCE,
    STREAM_MESSAGES,
    Action,
    MessageKind,
    SessionAction,
    SessionState,
    Standing,
    StreamTable,
)
from tailrace.wire import PEER_MESSAGES, MessageType, Side

BOTH = pytest.mark.parametrize("table", [SOURCE, DESTINATION], ids=["source", "destination"])
STARTS = (MessageType.STREAM_START, MessageType.CONNECTION_START)


def test_the_stream_messages_are_all_but_the_session_s_own() -> None:
    own = {
        MessageType.UNKNOWN,
        MessageType.SESSION_RESET,
        MessageType.SERVICE_IDS,
        MessageType.SESSION_OFFER,
    }
    assert set(MessageType) - own - PEER_MESSAGES == STREAM_MESSAGES


@BOTH
def test_every_standing_knows_every_message(table: StreamTable) -> None:
    assert set(table) == set(itertools.product(Standing, STREAM_MESSAGES))


def test_every_state_of_a_session_knows_every_kind_of_message() -> None:
    states = set(SessionState) - {SessionState.CLOSED}
    assert set(SESSION) == set(itertools.product(states, MessageKind))


def test_every_action_is_used() -> None:
    assert {*SOURCE.values(), *DESTINATION.values()} == set(Action)
    assert set(SESSION.values()) == set(SessionAction)


@BOTH
@pytest.mark.parametrize("standing", [Standing.IDLE, Standing.RESET, Standing.STALE])
def test_what_does_not_name_the_open_stream_has_no_effect_but_a_start(
    table: StreamTable, standing: Standing
) -> None:
    for kind in STREAM_MESSAGES - set(STARTS):
        assert table[standing, kind] is Action.IGNORE


@BOTH
def test_an_invalid_stream_id_has_no_effect(table: StreamTable) -> None:
    assert {table[Standing.INVALID, kind] for kind in STREAM_MESSAGES} == {Action.IGNORE}


@BOTH
def test_a_start_for_a_service_the_tunnel_does_not_have_is_answered(table: StreamTable) -> None:
    for kind in STREAM_MESSAGES:
        expected = Action.ANSWER_RESET if kind in STARTS else Action.IGNORE
        assert table[Standing.NO_SERVICE, kind] is expected


@BOTH
def test_what_names_an_open_connection_has_an_effect(table: StreamTable) -> None:
    ignored = {kind for kind in STREAM_MESSAGES if table[Standing.LIVE, kind] is Action.IGNORE}
    assert ignored == ({MessageType.STREAM_START} if table is DESTINATION else set())


def test_the_ends_differ_in_starts_only() -> None:
    for (standing, kind), action in SOURCE.items():
        differs = action is not DESTINATION[standing, kind]
        if kind not in STARTS or standing in (Standing.INVALID, Standing.NO_SERVICE):
            assert not differs
        elif kind is MessageType.STREAM_START:
            assert differs


def test_a_source_opens_nothing_a_peer_asks_for() -> None:
    opening = {Action.OPEN_STREAM, Action.REPLACE_STREAM, Action.ADD_CONNECTION}
    assert opening.isdisjoint(SOURCE.values())
    assert opening <= set(DESTINATION.values())


def test_roles_are_the_words_of_the_data_endpoint() -> None:
    assert [side.value for side in Side] == ["source", "destination"]


def test_the_page_has_a_row_for_every_message_of_both_ends() -> None:
    page = session_states.page()
    for kind in STREAM_MESSAGES:
        assert page.count(f"| {MessageType(kind).name} |") == 2
    for entry in (*Action, *SessionAction, *MessageKind, *Standing):
        assert f"| {entry.value} |" in page
