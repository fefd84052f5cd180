"""What commands print: tables for people on a terminal, and JSON for programs."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from ..common.escaping import printable

__all__ = [
    "add_json_option",
    "format_time",
    "print_json",
    "print_lines",
    "print_table",
    "wants_json",
]

_GAP: Final = "  "
_SHORTEST: Final = 12
"""Characters that are left of a last column that is cut."""


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``; :func:`wants_json` reads it."""
    parser.add_argument("--json", action="store_true", help="print JSON even on a terminal")


def wants_json(args: argparse.Namespace) -> bool:
    """Return whether to print JSON, as everywhere but on a terminal."""
    return bool(args.json) or not sys.stdout.isatty()


def print_json(document: dict[str, Any]) -> None:
    """Print a document."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print aligned columns; characters that could control a terminal become question marks.

    With headings, the last column is cut where the terminal ends, within reason.
    """
    lines = [
        [printable(str(cell)) for cell in line]
        for line in ([headings, *rows] if headings else rows)
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    room = None
    if headings:
        room = max(
            _SHORTEST, shutil.get_terminal_size().columns - sum(widths[:-1]) - 2 * len(lines[0]) + 2
        )
    for line in lines:
        if room is not None and len(line[-1]) > room:
            line[-1] = line[-1][: room - 1] + "…"
        print(_GAP.join(map(str.ljust, line, widths)).rstrip())


def print_lines(lines: Iterable[str]) -> None:
    """Print lines, with nothing that could control a terminal."""
    for line in lines:
        print(printable(line))


def format_time(moment: datetime) -> str:
    """Format a time in local time."""
    return moment.astimezone().isoformat(" ", "seconds")
