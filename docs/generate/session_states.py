"""The tables of a session, and drawings of them, from :mod:`tailrace.session.transitions`."""

from __future__ import annotations

from itertools import pairwise
from textwrap import wrap
from typing import Final

from tailrace.session.transitions import (
    DESTINATION,
    ENDINGS,
    RESUMPTION,
    SESSION,
    SOURCE,
    STREAM_MESSAGES,
    Action,
    MessageKind,
    ResumptionEvent,
    ResumptionState,
    SessionAction,
    SessionState,
    Standing,
    StreamTable,
)
from tailrace.wire import MessageType, Side

from .markdown import notice, table
from .svg import LINE, Drawing

__all__ = ["page", "session_drawing", "stream_drawing"]

_INTRODUCTION: Final = """\
A session waits for the service ids of its tunnel, is ready from then on, and closed when
its link is lost. A reconnect makes a new one.

One whose service passes offers on [survives its link](sessions.md), and waits for the service ids
of the next. From these on it is suspended until it knows whom it has to do with: until both ends
have agreed on which connections go on, or a peer that cannot resume has joined, or nobody is there
and nothing waits.

![States of a session](../pictures/session.svg)

Each service of the tunnel has one stream, and an open stream carries any number of
connections (V3), or one (V2, V1). What a message does depends on where it stands: whether the
stream it names is open, whether it names this life of the stream or an earlier one, and
whether it names an open connection. There are no other rules than those in the tables.
[The protocol](protocol.md) says in words what they come to.

At a destination, the rules come to this:

![A stream at a destination](../pictures/stream-destination.svg)

At a source, which opens streams itself:

![A stream at a source](../pictures/stream-source.svg)
"""


def _streams(side: Side, rules: StreamTable) -> str:
    columns = ["message", *(standing.value for standing in Standing)]
    rows = [
        [MessageType(type_).name, *(rules[standing, type_].value for standing in Standing)]
        for type_ in sorted(STREAM_MESSAGES)
    ]
    return f"## Streams at the {side}\n\n{table(columns, rows)}"


def _session() -> str:
    states = [state for state in SessionState if state is not SessionState.CLOSED]
    columns = ["message", *(state.value for state in states)]
    rows = [[kind.value, *(SESSION[state, kind].value for state in states)] for kind in MessageKind]
    return f"## Messages to the session\n\n{table(columns, rows)}"


def _endings() -> str:
    rows = [[cause.value, ending.value] for cause, ending in ENDINGS.items()]
    return f"## Ends of connections\n\n{table(['cause', 'it ended'], rows)}"


_GOING_ON: Final = """\
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
    return f"{_GOING_ON}\n{table(columns, rows)}"


def _entry(state: ResumptionState, event: ResumptionEvent) -> str:
    action, after = RESUMPTION[state, event]
    return action.value if after is state else f"{action.value}; then *{after.value}*"


def page() -> str:
    """Return the page with all tables."""
    parts = [
        notice("src/tailrace/session/transitions.py"),
        "# States of a session\n",
        _INTRODUCTION,
        _session(),
        _streams(Side.SOURCE, SOURCE),
        _streams(Side.DESTINATION, DESTINATION),
        _endings(),
        _resumption(),
    ]
    return "\n".join(parts)


# -- drawings -----------------------------------------------------------------------------------

_BOX: Final = 240
"""Width of the box of a state."""


def session_drawing() -> str:
    """Return the states of a session, and what ends its link in each."""
    *states, closed = SessionState
    ends = {state: _kinds(state, SessionAction.END_LINK) for state in states}
    below = 130 + LINE * max(map(len, ends.values()))
    width = max(800, 340 * len(states))
    drawing = Drawing(width, below + 110, "States of a session")
    middle = width / 2
    drawing.box(middle - 110, below + 40, 220, 50, [closed.value], "end")
    pitch = (width - 70 - _BOX) / (len(states) - 1)
    places = [20 + pitch * number for number in range(len(states))]
    for number, (state, x) in enumerate(zip(states, places, strict=True)):
        fill = "good" if state is SessionState.READY else "plain"
        name = wrap(state.value, 30)
        drawing.box(x, 30, _BOX, 50, name, fill, len(name))
        drawing.words(x, 108, ["ended by"], anchor="start", size=12, soft=True)
        drawing.words(x, 108 + LINE, ends[state], anchor="start", size=12)
        aside = 70 * (number - (len(states) - 1) / 2)
        drawing.arrow(x + _BOX / 2, below, middle + aside, below + 40)
    drawing.arrow(places[0] + _BOX, 55, places[1], 55)
    matching = _kinds(states[0], SessionAction.MATCH_SERVICE_IDS)
    drawing.words((places[0] + _BOX + places[1]) / 2, 47, matching, size=12)
    for here, there in pairwise(places[1:]):
        drawing.arrow(here + _BOX, 55, there, 55, both=True)
        drawing.words((here + _BOX + there) / 2, 47, ["agreement"], size=12)
    lost = ["or by a lost link that it does not outlive"]
    drawing.words(middle + 120, below + 70, lost, anchor="start", size=12, soft=True)
    return drawing.render()


def _kinds(state: SessionState, action: SessionAction) -> list[str]:
    """Return the kinds of messages that have an effect in a state."""
    return [kind.value for kind in MessageKind if SESSION[state, kind] is action]


_OPENS: Final = (Action.OPEN_STREAM,)
_CLOSES: Final = (Action.CLOSE_STREAM, Action.REFUSE_STREAM)
_WITHOUT_EFFECT: Final = (Action.IGNORE, Action.NOTE_FLOW, Action.ANSWER_RESET)
"""What changes no stream: not drawn."""
_KEEPS: Final = tuple(
    action for action in Action if action not in (*_OPENS, *_CLOSES, *_WITHOUT_EFFECT)
)


def stream_drawing(side: Side) -> str:
    """Return what messages do to an idle and to an open stream, in effect."""
    rules = SOURCE if side is Side.SOURCE else DESTINATION
    opens, closes, keeps = (_of(rules, actions) for actions in (_OPENS, _CLOSES, _KEEPS))
    if side is Side.SOURCE:
        opens = ["a client connects: STREAM_START is sent", *opens]
    closes.append("or this end resets it, or the session ends")
    height = 160 + LINE * (len(keeps) + len(opens) + len(closes))
    middle = 40 + LINE * len(opens)
    drawing = Drawing(760, height, f"A stream at a {side}")
    drawing.box(20, middle, 120, 60, ["idle"], "plain")
    drawing.box(620, middle, 120, 60, ["open"], "good")
    drawing.arrow(140, middle + 18, 620, middle + 18)
    drawing.words(380, middle + 10 - LINE * (len(opens) - 1), opens, size=12)
    drawing.arrow(620, middle + 42, 140, middle + 42)
    drawing.words(380, middle + 58, closes, size=12)
    below = middle + 90 + LINE * len(closes)
    drawing.bent([(720, middle + 60), (720, below), (660, below), (660, middle + 60)])
    drawing.words(640, below - 4, ["while it is open:"], anchor="end", size=12, soft=True)
    drawing.words(640, below + LINE, keeps, anchor="end", size=12)
    return drawing.render()


def _of(rules: StreamTable, actions: tuple[Action, ...]) -> list[str]:
    """Return the messages that lead to such actions, and what these are."""
    found = {(type_, action) for (_, type_), action in rules.items() if action in actions}
    return [
        f"{MessageType(type_).name}: {action.value}"
        for type_, action in sorted(found, key=lambda each: (each[0], actions.index(each[1])))
    ]
