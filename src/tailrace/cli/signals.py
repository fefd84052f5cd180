"""The signals of commands that stay: an orderly end, an end, and another look at what is set."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..common.loop_signals import looking_up

__all__ = ["signals_handled"]


@contextmanager
def signals_handled(stop: Callable[[], None], reload: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` on the first SIGTERM or SIGINT, and ``reload`` on each SIGHUP.

    A second SIGTERM or SIGINT ends the process.
    """
    loop = asyncio.get_running_loop()
    ending = (signal.SIGTERM, signal.SIGINT)

    def end() -> None:
        for number in ending:
            signal.signal(number, signal.SIG_DFL)
        stop()

    actions: dict[signal.Signals, Callable[[], None]] = dict.fromkeys(ending, end)
    if hasattr(signal, "SIGHUP"):
        actions[signal.SIGHUP] = reload
    previous = {number: signal.getsignal(number) for number in actions}
    for number in actions:
        signal.signal(number, lambda n, _: loop.call_soon_threadsafe(actions[signal.Signals(n)]))
    try:
        with looking_up(loop):
            yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
