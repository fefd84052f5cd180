"""Waiting for something that happens elsewhere, and giving up on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

__all__ = ["HANG", "POLL", "until", "wait_until"]

HANG = 60.0
"""Seconds after which a wait counts as hung: a guard, no test waits for it."""

POLL = 0.01
"""Seconds between two looks at something that does not report its changes."""


async def until(
    condition: Callable[[], object], what: str = "a condition", patience: float = HANG
) -> None:
    """Wait until ``condition()`` holds; ``what`` is named when it never does."""
    try:
        async with asyncio.timeout(patience):
            while not condition():
                await asyncio.sleep(POLL)
    except TimeoutError:
        raise AssertionError(f"waited {patience:g} s in vain for: {what}") from None


def wait_until(
    condition: Callable[[], object], what: str = "a condition", patience: float = HANG
) -> None:
    """Wait as :func:`until` does, where no event loop runs."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience:g} s in vain for: {what}")
        time.sleep(POLL)
