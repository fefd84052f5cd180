"""The transition tables: complete, consistent, and the same as in the documentation."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from types import ModuleType

import pytest

from tailrace.session.streams import StreamState
from tailrace.session.transitions import DESTINATION, SOURCE, STREAM_MESSAGES, Action, Table
from tailrace.wire import MessageType, Side

DOCS = Path(__file__).parents[3] / "docs"
BOTH = pytest.mark.parametrize("table", [SOURCE, DESTINATION], ids=["source", "destination"])
STARTS = (MessageType.STREAM_START, MessageType.CONNECTION_START)


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "make_session_states", DOCS / "make_session_states.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_stream_messages_are_all_but_the_session_s_own() -> None:
    own = {MessageType.UNKNOWN, MessageType.SESSION_RESET, MessageType.SERVICE_IDS}
    assert set(MessageType) - own == STREAM_MESSAGES


@BOTH
def test_every_state_knows_every_message(table: Table) -> None:
    assert set(table) == set(itertools.product(StreamState, STREAM_MESSAGES))


def test_every_action_is_used() -> None:
    assert {*SOURCE.values(), *DESTINATION.values()} == set(Action)


@BOTH
def test_an_idle_stream_ignores_all_but_starts(table: Table) -> None:
    for kind in STREAM_MESSAGES - set(STARTS):
        assert table[StreamState.IDLE, kind] is Action.IGNORE


@BOTH
def test_an_open_stream_ignores_nothing(table: Table) -> None:
    assert all(table[StreamState.OPEN, kind] is not Action.IGNORE for kind in STREAM_MESSAGES)


def test_the_ends_differ_in_starts_only() -> None:
    for key, action in SOURCE.items():
        assert (action is DESTINATION[key]) is (key[1] not in STARTS)


def test_a_source_opens_nothing_a_peer_asks_for() -> None:
    opening = {Action.OPEN_STREAM, Action.REPLACE_STREAM, Action.ADD_CONNECTION}
    assert opening.isdisjoint(SOURCE.values())
    assert opening <= set(DESTINATION.values())


def test_roles_are_the_words_of_the_data_endpoint() -> None:
    assert [side.value for side in Side] == ["source", "destination"]


def test_the_page_shows_these_tables() -> None:
    script = load_script()
    page = (DOCS / "session-states.md").read_text(encoding="utf-8")
    assert page == script.render(), "run python docs/make_session_states.py"


def test_the_page_has_a_row_for_every_message_of_both_ends() -> None:
    page = load_script().render()
    for kind in STREAM_MESSAGES:
        assert page.count(f"| {MessageType(kind).name} |") == 2
    for action in Action:
        assert f"| {action.value} |" in page
