"""Signals as callbacks of an event loop, on Windows too.

The loops of Windows have no signal handlers, and their wait does not end on Ctrl-C. There the
handlers of the process tell the loop, which looks up a few times in a second.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

from .periodic import every

__all__ = ["ending_signals", "looking_up", "loop_signals"]

_INTERVAL: Final = 0.25
_ENDING: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")


def ending_signals() -> list[signal.Signals]:
    """Return the signals of this system that ask a command at a terminal to end."""
    return [getattr(signal, name) for name in _ENDING if hasattr(signal, name)]


def looking_up(loop: asyncio.AbstractEventLoop) -> AbstractContextManager[None]:
    """Let handlers of signals be called in time for the body, also on Windows."""
    if sys.platform == "win32":
        return every(loop, _INTERVAL, lambda: None)
    return nullcontext()


@contextmanager
def loop_signals(
    handlers: Mapping[signal.Signals, Callable[[], object]],
) -> Iterator[Callable[[], None]]:
    """Call the handler of a signal in the running loop, for the body; only in the main thread.

    What is given to the body removes the handlers: the next signal does what it does usually.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    loop = asyncio.get_running_loop()
    add, remove = (
        (_add_to_process, _remove_from_process)
        if sys.platform == "win32"
        else (loop.add_signal_handler, loop.remove_signal_handler)
    )

    def remove_all() -> None:
        for number in handlers:
            remove(number)

    with looking_up(loop):
        for number, handler in handlers.items():
            add(number, handler)
        try:
            yield remove_all
        finally:
            remove_all()


def _add_to_process(number: signal.Signals, handler: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    signal.signal(number, lambda *_: loop.call_soon_threadsafe(handler))


def _remove_from_process(number: signal.Signals) -> None:
    is_interrupt = number == signal.SIGINT
    signal.signal(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)
