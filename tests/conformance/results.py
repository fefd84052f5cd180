"""Who passes what: collected in a run, kept in a file, shown as a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from conformance.titles import TITLES

__all__ = ["Results", "Verdict", "summary", "table"]


class Verdict(StrEnum):
    """How a command did in one scenario, the worst last."""

    NOT_RUN = "-"
    """Not about it, or not possible on this machine."""
    PASS = "pass"
    FAIL = "FAIL"


_ORDER = list(Verdict)


@dataclass
class Results:
    """What one command did."""

    target: str
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    reasons: dict[str, list[str]] = field(default_factory=dict)

    def note(self, numbers: Iterable[str], verdict: Verdict, reason: str = "") -> None:
        """Add the outcome of one test; a scenario with several is as good as its worst."""
        for number in numbers:
            before = self.verdicts.get(number, Verdict.NOT_RUN)
            self.verdicts[number] = max(before, verdict, key=_ORDER.index)
            if reason:
                self.reasons.setdefault(number, []).append(reason)

    def write(self, path: Path) -> None:
        """Keep them in a file, for ``report.py``."""
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what :meth:`write` wrote."""
        kept = json.loads(path.read_text())
        verdicts = {number: Verdict(text) for number, text in kept["verdicts"].items()}
        return cls(kept["target"], verdicts, kept["reasons"])

    def passed(self, kind: str) -> str:
        """Return how many of a kind passed, of those that were run."""
        mine = [v for n, v in self.verdicts.items() if n[0] == kind and v is not Verdict.NOT_RUN]
        return f"{mine.count(Verdict.PASS)}/{len(mine)}"


def table(results: Sequence[Results], numbers: Iterable[str] = TITLES) -> list[str]:
    """Return lines for a terminal: number, verdicts, title."""
    lines = []
    for number in numbers:
        verdicts = [each.verdicts.get(number, Verdict.NOT_RUN) for each in results]
        shown = "  ".join(f"{verdict:<4}" for verdict in verdicts)
        lines.append(f"{number:<9} {shown}  {TITLES[number]}")
        for each in results:
            lines += [f"{'':<9} {reason}" for reason in each.reasons.get(number, ())]
    return lines


def summary(results: Results, kinds: Mapping[str, str]) -> str:
    """Return how many of each kind passed, in one line."""
    counts = ", ".join(f"{kind} {results.passed(kind)}" for kind in kinds)
    return f"{results.target}: {counts}"
