"""Write ``docs/session-states.md`` from the transition tables of the session.

    python docs/make_session_states.py

The tables in the page are those the program runs on, so the page cannot say anything
else; a test fails when the page is older than the tables.
"""

from __future__ import annotations

from pathlib import Path

from tailrace.session.streams import StreamState
from tailrace.session.transitions import DESTINATION, SOURCE, STREAM_MESSAGES, Action, Table
from tailrace.wire import MessageType, Side

PAGE = Path(__file__).with_name("session-states.md")

_HEAD = """\
# States of a session

<!-- Written by docs/make_session_states.py; change the tables in
src/tailrace/session/transitions.py and run it again. -->

A session waits for the service ids of its tunnel, is ready from then on, and closed when
its link is lost. A reconnect makes a new one.

Each service of the tunnel has one stream. A stream is *idle* or *open*; an open stream
carries any number of connections (V3), or one (V2, V1). What a message from the tunnel
does depends on the state of the stream it names and on which end receives it. A message
whose stream id or connection id is not a current one has no effect, whatever the table
says; a CONNECTION_START is then answered with a reset. A STREAM_START that names the
stream already open, while it has connections, has no effect either.
"""

_TAIL = """\
## Messages without a stream

| message | awaiting the service ids | ready |
|---|---|---|
| SERVICE_IDS | compare with the configured ids, become ready | the same ids: nothing; \
others: end the link |
| SESSION_RESET | nothing | end all streams and all their connections |
| any of the tables above | end the link | as there |
| unknown type, ignorable | nothing | nothing |
| unknown type, not ignorable | end the link | end the link |
"""


def _rows(table: Table) -> list[str]:
    states = list(StreamState)
    rows = [
        "| message | " + " | ".join(state.value for state in states) + " |",
        "|---" * (len(states) + 1) + "|",
    ]
    for kind in sorted(STREAM_MESSAGES):
        cells = [table[state, kind].value for state in states]
        rows.append(f"| {MessageType(kind).name} | " + " | ".join(cells) + " |")
    return rows


def _section(side: Side, table: Table) -> str:
    return "\n".join([f"## Streams at the {side.value}", "", *_rows(table), ""])


def render() -> str:
    """Return the page."""
    used = {*SOURCE.values(), *DESTINATION.values()}
    assert used == set(Action), "an action that no transition uses"
    sections = [_HEAD, _section(Side.SOURCE, SOURCE), _section(Side.DESTINATION, DESTINATION)]
    return "\n".join([*sections, _TAIL])


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
