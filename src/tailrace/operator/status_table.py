"""What processes have told, as a table and notes below it: pure, the same for all outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..control.summary import duration, failures_text, pause_text, round_trip_text, size
from .rates import Rates

__all__ = ["GAP", "RIGHT", "StatusTable", "fitted", "plain_lines", "status_table"]

COLUMNS: Final = (
    *("PROCESS", "UP", "TUNNEL", "SIDE", "SERVICES", "LINK", "RTT", "PEER"),
    *("CONN", "IN", "OUT", "IN/s", "OUT/s", "LOST"),
)
RIGHT: Final = frozenset({"UP", "RTT", "CONN", "IN", "OUT", "IN/s", "OUT/s", "LOST"})
"""Columns of figures."""
GAP: Final = 2
"""Blanks between two columns."""
_LEFT_OUT: Final = ("UP", "LOST", "PEER", "SERVICES", "RTT", "SIDE", "OUT/s", "IN/s")
"""Columns that narrow terminals do without, in this order."""
_TUNNEL_SHOWN: Final = 8
"""Characters of a tunnel's name where it has to fit."""
_NOTHING: Final = "-"


@dataclass(frozen=True, slots=True)
class StatusTable:
    """Rows with a cell for each of :data:`COLUMNS`, and notes, a line each."""

    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def status_table(documents: Iterable[Mapping[str, Any]], rates: Rates) -> StatusTable:
    """Return the table of some processes.

    Raises:
        AttributeError, KeyError, OverflowError, TypeError, ValueError: a document makes no sense.
    """
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    for document in documents:
        name = f"{document['kind']} {document['pid']}"
        first = {"PROCESS": name, "UP": duration(document["time"] - document["since"])}
        if summary := document.get("summary"):
            notes.append(f"{name}: {summary}")
        found = [*_tunnels(document, rates), *_sides(document, rates)]
        for cells in found or [{}]:
            row = {**first, **cells}
            rows.append(tuple(row.get(column) or _NOTHING for column in COLUMNS))
        for tunnel in document.get("tunnels", ()):
            if tunnel.get("waiting"):  # an older process does not tell
                pause = pause_text(tunnel, document["time"])
                notes.append(f"{name}, tunnel {tunnel['tunnel']}: {pause}")
            if tunnel["failures"]:
                failures = failures_text(tunnel, document["time"])
                notes.append(f"{name}, tunnel {tunnel['tunnel']}: {failures}")
    return StatusTable(tuple(rows), tuple(notes))


def _tunnels(document: Mapping[str, Any], rates: Rates) -> Iterator[dict[str, str]]:
    for tunnel in document.get("tunnels", ()):
        yield {
            "TUNNEL": tunnel["tunnel"],
            "SIDE": tunnel["side"],
            "SERVICES": ",".join(tunnel["services"]),
            "LINK": tunnel["phase"],
            "RTT": round_trip_text(tunnel["round_trip"]),
            "PEER": tunnel["peer"],
            "CONN": f"{tunnel['open']:d}/{tunnel['opened']:d}",
            "IN": size(tunnel["bytes_in"]),
            "OUT": size(tunnel["bytes_out"]),
            "LOST": f"{sum(tunnel['failures'].values()):d}",
            **_rates(document, tunnel["tunnel"], tunnel["side"], rates),
        }


def _sides(document: Mapping[str, Any], rates: Rates) -> Iterator[dict[str, str]]:
    service = document.get("service", {})
    for side, of in service.get("sides", {}).items():
        yield {
            "TUNNEL": f"{service['tunnels'].get('open', 0):d} open",
            "SIDE": side,
            "LINK": f"{of['links']:d} up",
            "IN": size(of["bytes"]),
            **_rates(document, "", side, rates),
        }


def _rates(document: Mapping[str, Any], tunnel: str, side: str, rates: Rates) -> dict[str, str]:
    process = (document["pid"], document["kind"], document["since"])
    shown = {}
    for column, direction in (("IN/s", "bytes_in"), ("OUT/s", "bytes_out")):
        rate = rates.get((*process, tunnel, side, direction))
        if rate is not None:
            shown[column] = size(rate)
    return shown


def plain_lines(table: StatusTable) -> list[str]:
    """Return a table for pipes and logs: columns with blanks between them, and the notes."""
    rows = [COLUMNS, *table.rows]
    widths = _widths(rows)
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if name in RIGHT else cell.ljust(width)
            for name, cell, width in zip(COLUMNS, row, widths, strict=True)
        )
        lines.append((GAP * " ").join(cells).rstrip())
    return [*lines, *table.notes]


def fitted(table: StatusTable, width: int) -> list[tuple[str, tuple[str, ...]]]:
    """Return the columns for a terminal of so many characters: name and cells of each."""
    columns = dict(zip(COLUMNS, zip(*table.rows, strict=True), strict=True))
    columns["TUNNEL"] = tuple(_cut_name(cell) for cell in columns["TUNNEL"])
    for name in _LEFT_OUT:
        widths = _widths(zip(*((key, *cells) for key, cells in columns.items()), strict=True))
        if sum(widths) + GAP * (len(widths) - 1) <= width:
            break
        del columns[name]
    return list(columns.items())


def _cut_name(name: str) -> str:
    """Return the name of a tunnel, or as much of it as is shown."""
    return name if len(name) <= _TUNNEL_SHOWN else f"{name[: _TUNNEL_SHOWN - 1]}\u2026"


def _widths(rows: Iterable[tuple[str, ...]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]
