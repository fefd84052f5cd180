"""The results of checks, for people as they come, and for programs in the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Final, TextIO

from ..common.escaping import LONGEST_LINE, cut, escape
from .findings import CheckResult, Verdict

__all__ = ["JsonReport", "TextReport", "failure_text"]

_WORDS: Final = {
    Verdict.OK: "ok",
    Verdict.WARNING: "warn",
    Verdict.FAILED: "FAIL",
    Verdict.SKIPPED: "skip",
}
_WIDTH: Final = 4
"""Of the longest word."""
_ERASE: Final = "\r\x1b[K"


class TextReport:
    """Prints a line for each result; on a terminal also, meanwhile, what is being checked."""

    def __init__(self, stream: TextIO, width: int) -> None:
        """Print to ``stream``; names have up to ``width`` characters."""
        self._stream = stream
        self._width = width
        self._is_terminal = stream.isatty()

    def begin(self, name: str) -> None:
        """Say that a check has begun."""
        if self._is_terminal:
            self._print(f"{'...':{_WIDTH}}  {name}", end="")

    def add(self, result: CheckResult) -> None:
        """Print a result."""
        finding = result.finding
        erase = _ERASE if self._is_terminal else ""
        word = _WORDS[finding.verdict]
        figure = escape(cut(finding.figure, LONGEST_LINE))
        line = f"{word:{_WIDTH}}  {result.name:{self._width}}  {figure}"
        self._print(erase + line.rstrip())
        indent = " " * (_WIDTH + self._width + 4)
        if finding.fix:
            self._print(f"{indent}-> {escape(finding.fix)}")
        for each in finding.example.splitlines():
            self._print(f"{indent}   {each}")

    def end(self) -> None:
        """There is nothing left to print."""

    def _print(self, text: str, end: str = "\n") -> None:
        print(text, end=end, file=self._stream, flush=True)


class JsonReport:
    """Prints one document with all results in the end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._results: list[CheckResult] = []

    def begin(self, name: str) -> None:
        """Say nothing."""

    def add(self, result: CheckResult) -> None:
        """Keep a result."""
        self._results.append(result)

    def end(self) -> None:
        """Print the document."""
        document = {
            "ok": not _count(self._results)[Verdict.FAILED],
            "checks": [_document(each) for each in self._results],
        }
        print(json.dumps(document, indent=2), file=self._stream, flush=True)


def failure_text(results: Iterable[CheckResult]) -> str:
    """Return how many checks have failed, "" if none has."""
    count = _count(results)
    if not count[Verdict.FAILED]:
        return ""
    skipped = f", {count[Verdict.SKIPPED]} skipped" if count[Verdict.SKIPPED] else ""
    return f"{count[Verdict.FAILED]} of {count.total()} checks failed{skipped}"


def _count(results: Iterable[CheckResult]) -> Counter[Verdict]:
    return Counter(each.finding.verdict for each in results)


def _document(result: CheckResult) -> dict[str, str]:
    finding = result.finding
    texts = {
        "name": result.name,
        "verdict": finding.verdict.value,
        "figure": cut(finding.figure, LONGEST_LINE),
        "fix": finding.fix,
        "example": finding.example,
    }
    return {key: text for key, text in texts.items() if text or key in ("name", "verdict")}
