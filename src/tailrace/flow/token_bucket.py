"""Token buckets. Pure: callers pass ``now``, in seconds of any clock that runs steadily."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

__all__ = ["Bucket", "Buckets"]

_MAX_KEYS: Final = 10_000


class Bucket:
    """Fills at ``rate`` per second up to ``burst``; may be overdrawn by :meth:`take`.

    ``rate`` and ``burst`` are positive. A clock that goes back fills nothing.
    """

    __slots__ = ("_at", "_level", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._level = burst
        self._at = now

    def _fill(self, now: float) -> float:
        if now > self._at:
            self._level = min(self.burst, self._level + (now - self._at) * self.rate)
            self._at = now
        return self._level

    def take(self, amount: float, now: float) -> float:
        """Take ``amount`` in any case; return the seconds until the debt is paid, 0.0 without one.

        For what has happened already, such as bytes that were read.
        """
        self._level = level = self._fill(now) - amount
        return -level / self.rate if level < 0 else 0.0

    def try_take(self, amount: float, now: float) -> bool:
        """Take ``amount`` if there is that much; say whether there was."""
        if self._fill(now) < amount:
            return False
        self._level -= amount
        return True

    def level(self, now: float) -> float:
        """Return what is left; negative while there is a debt."""
        return self._fill(now)

    def is_empty(self, now: float) -> bool:
        """Say whether less than one is left."""
        return self._fill(now) < 1

    def is_full(self, now: float) -> bool:
        """Say whether this bucket is as good as a new one."""
        return self._fill(now) >= self.burst


class Buckets:
    """One bucket for each key, made when first asked for; rate 0 limits nothing.

    Holds at most 10,000 keys: beyond that, the one that was not asked for longest is
    forgotten, which in that time has filled up in all likelihood.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = max(burst, 1.0)
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def try_take(self, key: str, now: float) -> bool:
        """Take one from the bucket of ``key`` if it holds one; say whether it did."""
        return not self._rate or self._bucket(key, now).try_take(1, now)

    def is_empty(self, key: str, now: float) -> bool:
        """Say whether :meth:`try_take` would take nothing."""
        bucket = self._buckets.get(key)
        return bucket is not None and bucket.is_empty(now)

    def _bucket(self, key: str, now: float) -> Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(self._rate, self._burst, now)
            if len(self._buckets) > _MAX_KEYS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket
