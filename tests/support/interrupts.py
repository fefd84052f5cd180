"""Ctrl-C while a test waits."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from support.waiting import wait_until

__all__ = ["interrupted_when"]


@contextmanager
def interrupted_when(*moments: Callable[[], object]) -> Iterator[None]:
    """Press Ctrl-C as soon as each of ``moments`` holds; the block has to raise its exception."""
    main = threading.main_thread().ident
    assert main is not None

    def press() -> None:
        for ready in moments:
            wait_until(ready, "the moment for Ctrl-C")
            signal.pthread_kill(main, signal.SIGINT)

    assert threading.current_thread() is threading.main_thread()
    pressing = threading.Thread(target=press)
    pressing.start()
    with pytest.raises(KeyboardInterrupt):
        yield
    pressing.join()
