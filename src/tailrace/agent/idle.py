"""What an agent does when its last tunnel has ended: it gives memory back to its device."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from ..common.memory import release_memory
from .agent import Agent

__all__ = ["released_when_idle"]

_DELAY: Final = 2.0
"""Seconds after the last tunnel, in which the next one may come."""


@contextmanager
def released_when_idle(
    agent: Agent, release: Callable[[], None] = release_memory
) -> Iterator[None]:
    """Call ``release`` during the body when an agent has had tunnels, and has none for a while."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle | None = None
    had_tunnels = False

    def changed() -> None:
        nonlocal timer, had_tunnels
        is_idle = not agent.status().tunnels
        if not is_idle and timer is not None:
            timer.cancel()
            timer = None
        if is_idle and had_tunnels:
            timer = loop.call_later(_DELAY, release)
        had_tunnels = not is_idle

    unsubscribe = agent.subscribe(changed)
    try:
        yield
    finally:
        unsubscribe()
        if timer is not None:
            timer.cancel()
