"""Memory for the bodies of requests that are being read."""

from __future__ import annotations

from collections import Counter
from typing import Final

from .errors import ApiError, ErrorType

__all__ = ["BodyBudget", "BodyShare"]

_ALL: Final = 16
_ONE: Final = 4
"""Full bodies that are held at the same time: of all owners, of one of them."""

_FREE: Final = 4096
"""Bytes of each body that do not count: more than most requests have, so that those are read
however many large ones there are. Their number is bounded by that of connections."""


class BodyBudget:
    """Bounds the bytes that are held of bodies, of all owners together and of each.

    ``most`` are the bytes of the largest body.
    """

    def __init__(self, most: int) -> None:
        self._all = _ALL * most
        self._one = _ONE * most
        self._held: Counter[str] = Counter()
        self._sum = 0

    def share(self, owner: str) -> BodyShare:
        """Return what one body of ``owner`` takes; use it as a context manager."""
        return BodyShare(self, owner)

    def take(self, owner: str, size: int) -> None:
        """Take ``size`` bytes.

        Raises:
            ApiError: there are not as many left, for now.
        """
        if self._sum + size > self._all:
            raise ApiError(ErrorType.UNAVAILABLE, "Too many large requests are being received")
        if self._held[owner] + size > self._one:
            raise ApiError(ErrorType.THROTTLING, "Too many large requests are being sent")
        self._sum += size
        self._held[owner] += size

    def give_back(self, owner: str, size: int) -> None:
        """Give back what was taken."""
        self._sum -= size
        self._held[owner] -= size
        if not self._held[owner]:
            del self._held[owner]


class BodyShare:
    """What one body takes of a :class:`BodyBudget`; given back at the end of the context."""

    __slots__ = ("_budget", "_owner", "_taken")

    def __init__(self, budget: BodyBudget, owner: str) -> None:
        self._budget = budget
        self._owner = owner
        self._taken = 0

    def __enter__(self) -> BodyShare:
        return self

    def grow(self, size: int) -> None:
        """Hold ``size`` bytes in all.

        Raises:
            ApiError: the budget is used up.
        """
        more = size - _FREE - self._taken
        if more > 0:
            self._budget.take(self._owner, more)
            self._taken += more

    def __exit__(self, *_: object) -> None:
        self._budget.give_back(self._owner, self._taken)
