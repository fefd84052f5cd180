"""Hold every module to its share of coverage.

    python tests/coverage_gate.py build/coverage.json

Reads what ``coverage json`` wrote. The pure rooms must be covered whole, lines and
branches; every other module to nine tenths of its lines and branches together. Says
nothing when all is well; otherwise prints the modules below their mark and ends with
status 1.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = "tailrace"
SOURCE = Path(__file__).resolve().parent.parent / "src"

WHOLE = ("wire/", "session/", "mqtt/codec.py", "mqtt/session.py")
"""Rooms and modules that must be covered to the last branch."""
SHARE = 0.9
"""What the others need."""


@dataclass(frozen=True)
class Offender:
    """A module below its mark."""

    module: str
    share: float
    required: float
    missing: str

    def __str__(self) -> str:
        # Rounded down: 99.99 % is not whole.
        share = f"{int(self.share * 1000) / 10:.1f} %"
        return f"{self.module:<44} {share:>8} of {self.required:4.0%}   {self.missing}"


def module_of(path: str) -> str:
    """Turn a file name of the report into a name like ``wire/codec.py``."""
    parts = Path(path).parts
    last = len(parts) - 1 - parts[::-1].index(PACKAGE)
    return "/".join(parts[last + 1 :])


def missing_in(report: Mapping[str, Any]) -> str:
    """Name the lines and the branches a module's tests never took."""
    lines = [str(line) for line in report["missing_lines"]]
    branches = [
        f"{start}->{'exit' if end < 0 else end}"
        for start, end in report["missing_branches"]
        if start not in report["missing_lines"]
    ]
    named = [*lines, *branches]
    return ", ".join(named[:12]) + (", …" if len(named) > 12 else "")


def offenders(report: Mapping[str, Any], modules: Iterable[str]) -> list[Offender]:
    """Return the modules below their mark, the worst first.

    ``modules`` are all that exist, so that one the tests never saw is an offender too.
    """
    if not report["meta"]["branch_coverage"]:
        raise ValueError("the report was made without branch coverage")
    measured = {module_of(path): entry for path, entry in report["files"].items()}
    found = []
    for module in modules:
        required = 1.0 if module.startswith(WHOLE) else SHARE
        entry = measured.get(module)
        if entry is None:
            found.append(Offender(module, 0.0, required, "not measured at all"))
            continue
        summary = entry["summary"]
        covered = summary["covered_lines"] + summary["covered_branches"]
        total = summary["num_statements"] + summary["num_branches"]
        if covered < required * total:
            found.append(Offender(module, covered / total, required, missing_in(entry)))
    return sorted(found, key=lambda offender: (offender.share, offender.module))


def existing() -> list[str]:
    """Return all modules of the package that hold a line of code."""
    root = SOURCE / PACKAGE
    files = sorted(root.rglob("*.py"))
    return [str(file.relative_to(root)) for file in files if file.read_text().strip()]


def main(argv: list[str]) -> int:
    """Check the report named on the command line; return the exit status."""
    if len(argv) != 1:
        print("usage: coverage_gate.py REPORT.json", file=sys.stderr)
        return 2
    found = offenders(json.loads(Path(argv[0]).read_text()), existing())
    if found:
        print("Modules below their mark of coverage:", file=sys.stderr)
        for offender in found:
            print(f"  {offender}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
