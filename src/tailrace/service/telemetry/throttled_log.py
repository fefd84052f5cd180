"""A log of refusals that clients cannot use to fill the disk."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Final

from ...flow.token_bucket import Buckets

__all__ = ["ThrottledLog"]

_PER_SECOND: Final = 1.0
_BURST: Final = 20.0


class ThrottledLog:
    """Writes a line for each refusal, or a count where one cause has too many.

    Each cause has a burst of 20 lines and one line per second, so that a flood of one kind
    does not hide the others. ``clock`` is monotonic and in seconds.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float]) -> None:
        self._logger = logger
        self._clock = clock
        self._lines = Buckets(_PER_SECOND, _BURST)
        self._suppressed: Counter[str] = Counter()

    def add(self, cause: str, text: str, *args: object) -> None:
        """Log a refusal; ``text`` and ``args`` are its line, ``cause`` one of a few words."""
        if self._lines.try_take(cause, self._clock()):
            self._report_suppressed(cause)
            self._logger.warning(text, *args)
        else:
            self._suppressed[cause] += 1

    def flush(self) -> None:
        """Log how many refusals had no line of their own; to be called every few seconds."""
        for cause in tuple(self._suppressed):
            self._report_suppressed(cause)

    def _report_suppressed(self, cause: str) -> None:
        count = self._suppressed.pop(cause, 0)
        if count:
            self._logger.warning("%d more refused: %s", count, cause)
