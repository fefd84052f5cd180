"""Something done again and again in an event loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

__all__ = ["every"]


@contextlib.contextmanager
def every(
    loop: asyncio.AbstractEventLoop, seconds: float, action: Callable[[], None]
) -> Iterator[None]:
    """Call ``action`` in ``loop`` every so many seconds, for as long as the body runs."""
    timer: asyncio.TimerHandle

    def wait() -> None:
        nonlocal timer
        timer = loop.call_later(seconds, act)

    def act() -> None:
        wait()
        action()

    wait()
    try:
        yield
    finally:
        timer.cancel()
