"""Where a look at the processes goes: a table on a terminal, plain text, documents in JSON.

The table is that of rich, drawn anew in its place, where rich is installed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeAlias

from .processes import Reading
from .rates import Rates
from .status_table import GAP, RIGHT, StatusTable, fitted, plain_lines, status_table

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["NOTHING_RUNS", "Show", "screen"]

NOTHING_RUNS: Final = "nothing of tailrace runs here that this user may ask"

Show: TypeAlias = "Callable[[Sequence[Reading], Rates], None]"
"""Shows a look: what was read, and the rates since the look before."""


@contextmanager
def screen(out: TextIO, *, as_json: bool, is_live: bool) -> Iterator[Show]:
    """Give what shows looks on ``out`` for the body.

    Args:
        is_live: whether each one takes the place of the one before, on a terminal.
    """
    if as_json:
        yield lambda readings, rates: _print(out, json.dumps(_document(readings, rates)))
    elif out.isatty() and _has_rich():
        yield from _rich_screen(out, is_live=is_live)
    else:
        # A blank line tells one look from the next.
        end = "\n" if is_live else ""
        yield lambda readings, rates: _print(out, "\n".join(_lines(readings, rates)) + end)


def _print(out: TextIO, text: str) -> None:
    out.write(f"{text}\n")
    out.flush()


def _table(readings: Sequence[Reading], rates: Rates) -> StatusTable:
    table = status_table([each.document for each in readings if each.document], rates)
    problems = [f"{each.kind} {each.pid} {each.problem}" for each in readings if each.problem]
    return StatusTable(table.rows, (*table.notes, *problems))


def _lines(readings: Sequence[Reading], rates: Rates) -> list[str]:
    table = _table(readings, rates)
    if not table.rows:
        return list(table.notes) or [NOTHING_RUNS]
    return plain_lines(table)


def _document(readings: Sequence[Reading], rates: Rates) -> dict[str, Any]:
    processes = []
    for each in readings:
        if each.document is None:
            processes.append({"pid": each.pid, "kind": each.kind, "problem": each.problem})
        else:
            processes.append(_with_rates(each.document, rates))
    return {"time": time.time(), "processes": processes}


def _with_rates(document: Mapping[str, Any], rates: Rates) -> dict[str, Any]:
    """Return a document whose tunnels have ``rate_in`` and ``rate_out``, in bytes per second."""
    process = (document["pid"], document["kind"], document["since"])
    tunnels = []
    for tunnel in document.get("tunnels", ()):
        key = (*process, tunnel["tunnel"], tunnel["side"])
        rate_in, rate_out = rates.get((*key, "bytes_in")), rates.get((*key, "bytes_out"))
        tunnels.append({**tunnel, "rate_in": rate_in, "rate_out": rate_out})
    return {**document, "tunnels": tunnels}


def _has_rich() -> bool:
    try:
        import rich  # noqa: F401
    except ImportError:
        return False
    return True


def _rich_screen(out: TextIO, *, is_live: bool) -> Iterator[Show]:
    from rich.console import Console
    from rich.live import Live

    console = Console(file=out, highlight=False, markup=False)
    if not is_live:
        yield lambda readings, rates: console.print(_drawn(readings, rates, console.width))
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda readings, rates: live.update(
            _drawn(readings, rates, console.width), refresh=True
        )


def _drawn(readings: Sequence[Reading], rates: Rates, width: int) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = _table(readings, rates)
    notes = [Text(note) for note in table.notes]
    if not table.rows:
        return Group(*notes) if notes else Text(NOTHING_RUNS)
    columns = fitted(table, width)
    drawn = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False)
    for name, _ in columns:
        drawn.add_column(name, justify="right" if name in RIGHT else "left", no_wrap=True)
    for row in zip(*(cells for _, cells in columns), strict=True):
        drawn.add_row(*(Text(cell, _STYLES.get(cell, "")) for cell in row))
    return Group(drawn, *notes)


_STYLES: Final = {
    "connected": "green",
    "waiting": "yellow",
    "connecting": "yellow",
    "absent": "yellow",
    "ended": "red",
    "-": "dim",
}
"""What a cell says -> how it looks."""
