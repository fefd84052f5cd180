"""An event loop in a thread."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from support.waiting import HANG
from tailrace.common.background_loop import BackgroundLoop


async def where() -> str:
    return threading.current_thread().name


def test_coroutines_run_in_its_thread() -> None:
    before = threading.active_count()
    with BackgroundLoop("a name") as loop:
        assert loop.run(where()) == loop.run(where()) == "a name"
    assert threading.active_count() == before


def test_errors() -> None:
    async def fail() -> None:
        raise OSError("broken")

    with BackgroundLoop("loop") as loop:
        with pytest.raises(OSError, match="broken"):
            loop.run(fail())
        assert loop.run(where()) == "loop"


def test_what_still_runs_is_cancelled_at_the_end() -> None:
    ended = threading.Event()
    tasks = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def begin() -> None:
        tasks.append(asyncio.get_running_loop().create_task(wait()))
        await asyncio.sleep(0)

    with BackgroundLoop("loop") as loop:
        loop.run(begin())
        assert not ended.is_set()
    assert ended.is_set()
    assert tasks[0].cancelled()


def test_an_interrupted_wait_cancels(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    class Interrupted:
        """A future whose owner presses Ctrl-C."""

        def __init__(
            self, work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop
        ) -> None:
            self._future = threadsafe(work, loop)

        def result(self) -> None:
            raise KeyboardInterrupt

        def cancel(self) -> None:
            assert begun.wait(HANG)
            self._future.cancel()

    threadsafe = asyncio.run_coroutine_threadsafe
    with BackgroundLoop("loop") as loop:
        monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            loop.run(wait())
        assert cancelled.wait(HANG)


def test_a_loop_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("no descriptors")

    monkeypatch.setattr(asyncio, "new_event_loop", fail)
    monkeypatch.setattr("asyncio.events.new_event_loop", fail)
    loop = BackgroundLoop("loop")
    with pytest.raises(OSError, match="no descriptors"):
        loop.__enter__()
    loop._thread.join(HANG)
