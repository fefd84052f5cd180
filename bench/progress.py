"""What a person sees while the benchmark runs."""

from __future__ import annotations

import sys
import time
from typing import TextIO

__all__ = ["Progress"]


class Progress:
    """One line for each measurement; on a terminal, what is being done right now too."""

    def __init__(self, steps: int, out: TextIO = sys.stderr) -> None:
        self._steps = steps
        self._out = out
        self._live = out.isatty()
        self._step = 0
        self._what = ""
        self._begun = time.monotonic()

    def begin(self, what: str) -> None:
        """Start the next step."""
        self._step += 1
        self._what = what
        self.detail("starting")

    def skip(self) -> None:
        """Leave a step out."""
        self._step += 1

    def detail(self, text: str) -> None:
        """Show what is being done."""
        if self._live:
            self._out.write(f"\r\x1b[2K{self._head()} {self._what}: {text} …")
            self._out.flush()

    def end(self, text: str) -> None:
        """Show how the step has ended."""
        start = "\r\x1b[2K" if self._live else ""
        self._out.write(f"{start}{self._head()} {self._what}: {text}\n")
        self._out.flush()

    def note(self, text: str) -> None:
        """Show a line that is no step."""
        start = "\r\x1b[2K" if self._live else ""
        self._out.write(f"{start}{text}\n")
        self._out.flush()

    def _head(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._begun), 60)
        return f"[{minutes:3}:{seconds:02} {self._step:>{len(str(self._steps))}}/{self._steps}]"
