"""Which file is made by what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from tailrace.cli.localproxy.help import options_table
from tailrace.wire import Side

from . import api, commands, data_path, errors, events, metrics, session_states
from .connect import drawing
from .sequences import SEQUENCES

__all__ = ["FILES"]

_DOCS: Final = Path(__file__).parents[1]
_PICTURES: Final = _DOCS / "pictures"
_REFERENCE: Final = _DOCS / "reference"
_BEGIN: Final = "<!-- generated: begin -->\n"
_END: Final = "<!-- generated: end -->\n"


def _within(page: Path, render: Callable[[], str]) -> Callable[[], str]:
    """Return what writes a page that people write, with one part that is generated."""

    def whole() -> str:
        before, _, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
        _, _, behind = rest.partition(_END)
        return f"{before}{_BEGIN}\n{render().rstrip()}\n\n{_END}{behind}"

    return whole


FILES: Final[Mapping[Path, Callable[[], str]]] = {
    _DOCS / "internals" / "session-states.md": session_states.page,
    _REFERENCE / "api.md": api.page,
    _REFERENCE / "commands.md": commands.page,
    _REFERENCE / "errors.md": errors.page,
    _REFERENCE / "events.md": events.page,
    _REFERENCE / "metrics.md": metrics.page,
    _REFERENCE / "exit-codes.md": _within(_REFERENCE / "exit-codes.md", errors.exit_codes_table),
    _REFERENCE / "localproxy.md": _within(_REFERENCE / "localproxy.md", options_table),
    _PICTURES / "how-it-connects.svg": drawing,
    _PICTURES / "data-path.svg": data_path.drawing,
    _PICTURES / "session.svg": session_states.session_drawing,
    **{
        _PICTURES / f"stream-{side.value}.svg": partial(session_states.stream_drawing, side)
        for side in Side
    },
    **{_PICTURES / name: render for name, render in SEQUENCES.items()},
}
"""File -> what returns its text."""
