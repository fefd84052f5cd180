"""Write ``docs/session-states.md`` from the transition tables of the session.

    python docs/make_session_states.py

The tables in the page are those the program runs on, so the page cannot say anything
else; a test fails when the page is older than the tables.
"""

from __future__ import annotations

from pathlib import Path

from tailrace.session.transitions import (
    DESTINATION,
    ENDINGS,
    RESUMPTION,
    SESSION,
    SOURCE,
    STREAM_MESSAGES,
    MessageKind,
    ResumptionEvent,
    ResumptionState,
    SessionState,
    Standing,
    StreamTable,
)
from tailrace.wire import MessageType, Side

PAGE = Path(__file__).with_name("session-states.md")

_INTRODUCTION = """\
# States of a session

<!-- Written by docs/make_session_states.py; change the tables in
src/tailrace/session/transitions.py and run it again. -->

A session waits for the service ids of its tunnel, is ready from then on, and closed when
its link is lost. A reconnect makes a new one.

One whose service passes offers on survives its link, and waits for the service ids of the next.
From these on it is suspended until it knows whom it has to do with: until both ends have agreed on
which connections go on, or a peer that cannot resume has joined, or nobody is there and nothing
waits.

Each service of the tunnel has one stream, and an open stream carries any number of
connections (V3), or one (V2, V1). What a message does depends on where it stands: whether the
stream it names is open, whether it names this life of the stream or an earlier one, and
whether it names an open connection. There are no other rules than those in the tables.
"""


def _table(columns: list[str], rows: list[list[str]]) -> list[str]:
    head = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    return head + ["| " + " | ".join(row) + " |" for row in rows]


def _streams(side: Side, table: StreamTable) -> str:
    columns = ["message", *(standing.value for standing in Standing)]
    rows = [
        [MessageType(type_).name, *(table[standing, type_].value for standing in Standing)]
        for type_ in sorted(STREAM_MESSAGES)
    ]
    return "\n".join([f"## Streams at the {side}", "", *_table(columns, rows), ""])


def _session() -> str:
    states = [state for state in SessionState if state is not SessionState.CLOSED]
    columns = ["message", *(state.value for state in states)]
    rows = [[kind.value, *(SESSION[state, kind].value for state in states)] for kind in MessageKind]
    return "\n".join(["## Messages to the session", "", *_table(columns, rows), ""])


def _endings() -> str:
    rows = [[cause.value, ending.value] for cause, ending in ENDINGS.items()]
    return "\n".join(["## Ends of connections", "", *_table(["cause", "it ended"], rows), ""])


_GOING_ON = """\
## Agreements over lost links

Two ends that can go on with their connections over a lost link agree on which, and from where
(`src/tailrace/session/resumption.py`). Stream messages are sent and taken only while they do. An
*incarnation* of an end is what it sends on one link, while its peer stays the same.
"""


def _resumption() -> str:
    columns = ["event", *(state.value for state in ResumptionState)]
    rows = [
        [event.value, *(_entry(state, event) for state in ResumptionState)]
        for event in ResumptionEvent
    ]
    return "\n".join([_GOING_ON, *_table(columns, rows), ""])


def _entry(state: ResumptionState, event: ResumptionEvent) -> str:
    action, after = RESUMPTION[state, event]
    return action.value if after is state else f"{action.value}; then *{after.value}*"


def render() -> str:
    """Return the page."""
    sections = [_streams(Side.SOURCE, SOURCE), _streams(Side.DESTINATION, DESTINATION)]
    return "\n".join([_INTRODUCTION, _session(), *sections, _endings(), _resumption()])


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
