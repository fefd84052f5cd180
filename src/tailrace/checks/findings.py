"""What checks find: a verdict, what it is based on, and what to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from ..errors import TailraceError

__all__ = [
    "CheckResult",
    "Finding",
    "Verdict",
    "failed",
    "ok",
    "skipped",
    "warning",
]


class Verdict(Enum):
    """How something stands."""

    OK = "ok"
    WARNING = "warning"
    """It works, but not for ever, or cannot be proven to."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """It does not apply, or could not be looked at."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check has found."""

    verdict: Verdict
    figure: str
    """What was seen, on one line."""
    fix: str = ""
    """What to do about it, on one line."""
    example: str = ""
    """What belongs to the fix and has several lines, such as a policy."""
    cause: TailraceError | None = field(default=None, compare=False)
    """The error behind a failure, where there is one."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The finding of the check called ``name``."""

    name: str
    finding: Finding


def ok(figure: str) -> Finding:
    """Return the finding that all is well."""
    return Finding(Verdict.OK, figure)


def warning(figure: str, fix: str) -> Finding:
    """Return the finding that something should be put right."""
    return Finding(Verdict.WARNING, figure, fix)


def failed(
    figure: str, fix: str = "", example: str = "", cause: TailraceError | None = None
) -> Finding:
    """Return the finding that something does not work."""
    return Finding(Verdict.FAILED, figure, fix, example, cause)


def skipped(figure: str, fix: str = "") -> Finding:
    """Return that there was nothing to look at, and why."""
    return Finding(Verdict.SKIPPED, figure, fix)
