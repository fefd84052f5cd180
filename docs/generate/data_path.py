"""The drawing of the files through which a byte goes, from a client to an application."""

from __future__ import annotations

from typing import Final

from .svg import Drawing

__all__ = ["STEPS", "drawing"]

STEPS: Final = {
    "source": (
        ("client", "TCP"),
        ("localproxy/listener.py", "accepts"),
        ("localproxy/local_pump.py", "reads when it is its turn"),
        ("localproxy/outbound.py", "turns and window, from flow/"),
        ("wire/codec.py", "header in front of the payload"),
        ("session/replay.py", "kept until it is acknowledged"),
        ("link/picows_link.py", "WebSocket frame, TLS"),
    ),
    "service": (
        ("service/relay/client_link.py", "frame of the source"),
        ("service/relay/relay_end.py", "hands on what is whole"),
        ("service/relay/turn_budget.py", "as much as a turn may take"),
        ("wire/framing.py", "finds the messages"),
        ("wire/fastpath.py", "knows them, or client_rules.py"),
        ("service/relay/switchboard.py", "to the other side, unchanged"),
        ("service/relay/write_gate.py", "full: the source is not read"),
    ),
    "destination": (
        ("link/picows_link.py", "a view of the frame"),
        ("localproxy/link_session.py", "one link and its session"),
        ("session/session.py", "tables decide, fastpath.py aside"),
        ("session/ledger.py", "counts it, and acknowledges"),
        ("localproxy/local_pump.py", "writes the view"),
        ("localproxy/inbound.py", "counts what has to wait"),
        ("application", "TCP"),
    ),
}
"""Column -> its boxes in the order of the byte: a name, and what happens there."""

_WIDTH: Final = 268
_HEIGHT: Final = 50
_STEP: Final = 72


def drawing() -> str:
    """Return it: down the first column, up the second, down the third."""
    rows = len(STEPS["source"])
    card = Drawing(900, 50 + rows * _STEP, "The way of a byte")
    for column, (name, steps) in enumerate(STEPS.items()):
        x = 18 + column * 298
        is_up = column == 1
        card.words(x + _WIDTH / 2, 26, [name], soft=True)
        for number, lines in enumerate(steps):
            row = rows - 1 - number if is_up else number
            y = 40 + row * _STEP
            fill = "strong" if "/" in lines[0] else "plain"
            card.box(x, y, _WIDTH, _HEIGHT, lines, fill)
            if number and is_up:
                card.arrow(x + _WIDTH / 2, y + _STEP, x + _WIDTH / 2, y + _HEIGHT)
            elif number:
                card.arrow(x + _WIDTH / 2, y - (_STEP - _HEIGHT), x + _WIDTH / 2, y)
    for column, row in ((0, rows - 1), (1, 0)):
        edge, middle = 18 + column * 298 + _WIDTH, 40 + row * _STEP + _HEIGHT / 2
        card.arrow(edge, middle, edge + 30, middle)
    return card.render()
