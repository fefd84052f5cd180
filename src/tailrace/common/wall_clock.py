"""Whether the clock of this machine can be right: devices start with one that is not set."""

from __future__ import annotations

from typing import Final

__all__ = ["CLOCK_SET", "is_clock_set"]

CLOCK_SET: Final = 1_767_225_600
"""2026-01-01, in seconds since the epoch: this program did not exist before."""


def is_clock_set(now: float) -> bool:
    """Return whether a clock that shows ``now``, in seconds since the epoch, may have been set."""
    return now >= CLOCK_SET
