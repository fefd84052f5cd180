"""The event loop of a process, and how many files it may open."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = ["LoopChoice", "descriptor_limit", "loop_factory", "raise_descriptor_limit"]


class LoopChoice(Enum):
    """Event loop."""

    AUTO = "auto"
    ASYNCIO = "asyncio"
    UVLOOP = "uvloop"


def loop_factory(choice: LoopChoice) -> Callable[[], AbstractEventLoop]:
    """Return what makes the event loop; ``AUTO`` takes uvloop where it is installed.

    Raises:
        ConfigurationError: uvloop was asked for and is not installed.
    """
    import asyncio  # choosing a loop must not load one

    if choice is not LoopChoice.ASYNCIO:
        try:
            import uvloop
        except ImportError:
            if choice is LoopChoice.UVLOOP:
                raise ConfigurationError("uvloop is not installed", setting="loop") from None
        else:
            return uvloop.new_event_loop
    # On Windows the default loop has no readiness callbacks.
    return asyncio.SelectorEventLoop


def raise_descriptor_limit() -> None:
    """Let the process open as many files as the system allows: each connection is one.

    The usual limit of 1024 is meant for programs that call select(2).
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems refuse what they report as the highest value.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptor_limit() -> int:
    """Return how many files the process may have open."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return sys.maxsize
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
