"""Floods of log records: a bounded number of each kind is written, the others are counted.

Strangers decide how often a program has something to log. A handler with a
:class:`FloodFilter` writes 20 records of one kind in an interval, and in its end one line that
says how many there were beyond them. Records are of one kind when one call in the code made
them, with the same kind of exception; the call may tell apart further with :func:`flood_kind`.
That takes in the loggers of all libraries, whose texts may be different each time.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .escaping import cut
from .periodic import every
from .redaction import message_of

if TYPE_CHECKING:
    import asyncio

__all__ = ["FloodCount", "FloodFilter", "flood_kind", "telling_floods"]

_OF_A_KIND: Final = 20
"""Records of one kind that are written in an interval."""
_OF_A_CALL: Final = 1000
"""Records of one call that are written in an interval, of whatever kinds."""
_KINDS: Final = 10_000
"""Kinds that are told apart in an interval; calls whose counts are, are a tenth of them."""
_INTERVAL: Final = 10.0
"""Seconds."""
_SAMPLE: Final = 200
"""Characters of a counted record that are shown."""


def flood_kind(cause: str = "", per: str = "") -> dict[str, str]:
    """Return the argument ``extra`` of a log call whose records are of several kinds.

    ``cause``, one of a few words, names a refusal: those beyond the bound are logged as
    ``57 more refused: CAUSE``. ``per`` names who or what a record is about.
    """
    return {"flood_cause": cause, "flood_per": per}


class FloodCount:
    """Lets ``most`` of each kind pass in an interval, which the caller ends.

    It tells apart so many ``kinds``; all that come beyond are of the kind ``None``.
    """

    def __init__(self, most: int = _OF_A_KIND, kinds: int = _KINDS) -> None:
        self._most = most
        self._kinds = kinds
        self._seen: Counter[Hashable] = Counter()

    def passes(self, kind: Hashable) -> bool:
        """Count one of a kind; return whether it passes."""
        if kind not in self._seen and len(self._seen) >= self._kinds:
            kind = None
        self._seen[kind] += 1
        return self._seen[kind] <= self._most

    def end_interval(self) -> dict[Hashable, int]:
        """Return how many of each kind did not pass, if any, and begin to count anew."""
        seen, self._seen = self._seen, Counter()
        return {kind: n - self._most for kind, n in seen.items() if n > self._most}


@dataclass(slots=True)
class _Held:
    """Records that were not written."""

    logger: str
    level: int
    text: str
    count: int = 0


class FloodFilter(logging.Filter):
    """Holds back what is too much of one kind; for one handler, and any thread.

    Records below ``level`` are held back only when a call makes very many, and those for debugging
    never. :meth:`tell` ends an interval.
    """

    def __init__(self, level: int) -> None:
        super().__init__()
        self._level = level
        self._kinds = FloodCount()
        self._calls = FloodCount(_OF_A_CALL)
        self._held: dict[Hashable, _Held] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether ``record`` is to be written."""
        if record.levelno < logging.INFO or isinstance(record, _Summary):
            return True
        # A text without arguments may be different each time, a template is not.
        template = str(record.msg) if record.args else ""
        error = record.exc_info[0] if record.exc_info else None
        call = (record.pathname, record.lineno, template, error)
        cause = getattr(record, "flood_cause", "")
        kind = (call, cause, getattr(record, "flood_per", ""))
        is_rare = record.levelno < self._level or self._kinds.passes(kind)
        if is_rare and self._calls.passes(call):
            return True
        self._hold((call, cause), record)
        return False

    def _hold(self, key: Hashable, record: logging.LogRecord) -> None:
        if key not in self._held and len(self._held) >= _KINDS // 10:
            key = None
        held = self._held.get(key)
        if held is None:
            held = self._held.setdefault(key, _held(record))
        held.count += 1

    def tell(self, handler: logging.Handler) -> None:
        """Let ``handler`` write how many records were held back, and begin a new interval."""
        held, self._held = self._held, {}
        self._kinds.end_interval()
        self._calls.end_interval()
        for each in held.values():
            handler.handle(_Summary(each))


class _Summary(logging.LogRecord):
    """Says how many records were held back."""

    def __init__(self, held: _Held) -> None:
        super().__init__(
            held.logger, held.level, __file__, 0, "%d more %s", (held.count, held.text), None
        )


def _held(record: logging.LogRecord) -> _Held:
    cause = getattr(record, "flood_cause", "")
    text = f"refused: {cause}" if cause else f"like this: {cut(message_of(record), _SAMPLE)}"
    return _Held(record.name, record.levelno, text)


@contextlib.contextmanager
def telling_floods(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Tell what the handlers of the root logger hold back every ten seconds, and in the end."""
    try:
        with every(loop, _INTERVAL, _tell_all):
            yield
    finally:
        _tell_all()


def _tell_all() -> None:
    for handler in logging.getLogger().handlers:
        for each in handler.filters:
            if isinstance(each, FloodFilter):
                each.tell(handler)
