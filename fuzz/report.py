"""What a person sees: a line after every turn, a table at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TextIO

from .runner import Tally

__all__ = ["Progress", "table"]

_TITLES: Final = ("target", "executions", "taken", "CPU s", "per CPU s", "findings")
_LINE: Final = "{:<20} {:>12} {:>7} {:>8} {:>10} {:>9}"


class Progress:
    """One line for each turn of a target."""

    def __init__(self, budget: float, clock: Callable[[], float], out: TextIO) -> None:
        self._budget = budget
        self._clock = clock
        self._out = out
        self._begun = clock()
        self._spent: dict[str, float] = {}

    def told(self, tally: Tally) -> None:
        """Show how far one target is."""
        self._spent[tally.target.name] = tally.cpu_seconds
        minutes, seconds = divmod(int(self._clock() - self._begun), 60)
        share = min(1.0, sum(self._spent.values()) / self._budget)
        finding = ", FINDING" if tally.finding else ""
        self._out.write(
            f"[{minutes:3}:{seconds:02} {share:4.0%}] {tally.target.name}: "
            f"{tally.executions:,} executions, {tally.cpu_seconds:.1f} CPU s{finding}\n"
        )
        self._out.flush()


def _row(name: str, executions: int, taken: int, cpu: float, findings: int) -> str:
    return _LINE.format(
        name,
        f"{executions:,}",
        f"{taken / executions:.0%}" if executions else "-",
        f"{cpu:.1f}",
        f"{executions / cpu:,.0f}" if cpu > 0 else "-",
        findings,
    )


def table(tallies: Sequence[Tally]) -> str:
    """Return the table of all targets, and their sum."""
    rows = [
        _row(t.target.name, t.executions, t.taken, t.cpu_seconds, bool(t.finding)) for t in tallies
    ]
    total = _row(
        "all",
        sum(t.executions for t in tallies),
        sum(t.taken for t in tallies),
        sum(t.cpu_seconds for t in tallies),
        sum(bool(t.finding) for t in tallies),
    )
    return "\n".join((_LINE.format(*_TITLES), *rows, total))
