"""Say why clients were refused, once each, without letting them fill the disk."""

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
    """Writes a line for each refusal, and a count instead when one cause has too many.

    Each cause may have 20 lines at once and one per second on the long run, so that a
    flood of one kind does not hide the others. ``clock`` gives seconds, steadily.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float]) -> None:
        self._logger = logger
        self._clock = clock
        self._lines = Buckets(_PER_SECOND, _BURST)
        self._unsaid: Counter[str] = Counter()

    def add(self, cause: str, text: str, *args: object) -> None:
        """Log one refusal; ``cause`` is one of few, ``text`` and ``args`` are the line."""
        if self._lines.try_take(cause, self._clock()):
            self._say_unsaid(cause)
            self._logger.warning(text, *args)
        else:
            self._unsaid[cause] += 1

    def flush(self) -> None:
        """Log how many refusals had no line of their own; call it every few seconds."""
        for cause in tuple(self._unsaid):
            self._say_unsaid(cause)

    def _say_unsaid(self, cause: str) -> None:
        count = self._unsaid.pop(cause, 0)
        if count:
            self._logger.warning("%d more refused: %s", count, cause)
