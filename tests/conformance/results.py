"""Who passes what: collected in a run, kept in a file, shown as a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from conformance.titles import TITLES

__all__ = ["Results", "Verdict", "read", "summary", "table", "write"]


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

    def passed(self, kind: str) -> str:
        """Return how many of a kind passed, of those that were run."""
        mine = [v for n, v in self.verdicts.items() if n[0] == kind and v is not Verdict.NOT_RUN]
        return f"{mine.count(Verdict.PASS)}/{len(mine)}"


def write(runs: Iterable[Results], path: Path) -> None:
    """Keep results in a file, for ``report.py``."""
    kept = [asdict(run) for run in runs]
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> list[Results]:
    """Read what :func:`write` wrote."""
    runs = []
    for kept in json.loads(path.read_text()):
        verdicts = {number: Verdict(text) for number, text in kept["verdicts"].items()}
        runs.append(Results(kept["target"], verdicts, kept["reasons"]))
    return runs


def table(runs: Sequence[Results], numbers: Iterable[str] = TITLES) -> list[str]:
    """Return lines for a terminal: who they are about, then number, verdicts, title."""
    lines = [f"{'':<9} {'      ' * at}{run.target}" for at, run in enumerate(runs)]
    for number in numbers:
        verdicts = [run.verdicts.get(number, Verdict.NOT_RUN) for run in runs]
        shown = "  ".join(f"{verdict:<4}" for verdict in verdicts)
        lines.append(f"{number:<9} {shown}  {TITLES[number]}")
        for run in runs:
            reasons = dict.fromkeys(run.reasons.get(number, ()))
            lines += [f"{'':<9} {run.target}: {reason}" for reason in reasons]
    return lines


def summary(results: Results, kinds: Mapping[str, str]) -> str:
    """Return how many of each kind passed, in one line."""
    counts = ", ".join(f"{kind} {results.passed(kind)}" for kind in kinds)
    return f"{results.target}: {counts}"
