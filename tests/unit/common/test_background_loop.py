"""An event loop in a thread."""

import asyncio
import threading
from typing import Any

import pytest

from support.interrupts import interrupted_when
from support.plugins.leaks import uncollected
from support.processes.forks import run_forked
from support.waiting import HANG
from tailrace.common import background_loop
from tailrace.common.background_loop import BackgroundLoop
from tailrace.errors import LocalProtocolError


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


def test_ctrl_c_cancels_and_waits_for_the_end() -> None:
    steps = []

    async def wait() -> None:
        steps.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("ended")

    with BackgroundLoop("loop") as loop:
        with interrupted_when(lambda: steps):
            loop.run(wait())
        assert steps == ["begun", "ended"]
        assert loop.run(where()) == "loop"


def test_a_second_ctrl_c_does_not_wait() -> None:
    steps = []
    over = asyncio.Event()

    async def wait() -> None:
        steps.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            steps.append("cancelled")
            await over.wait()
            steps.append("ended")

    with BackgroundLoop("loop") as loop:
        with interrupted_when(lambda: steps, lambda: "cancelled" in steps):
            loop.run(wait())
        assert steps == ["begun", "cancelled"]
        loop.call(over.set)
    assert steps == ["begun", "cancelled", "ended"]


def test_ctrl_c_before_anything_was_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    with BackgroundLoop("loop") as loop:
        running = loop._started.result()
        pressed = []

        def schedule(*arguments: Any) -> object:
            if not pressed:
                pressed.append(True)
                raise KeyboardInterrupt
            return threadsafe(*arguments)

        threadsafe = running.call_soon_threadsafe
        monkeypatch.setattr(running, "call_soon_threadsafe", schedule)
        with pytest.raises(KeyboardInterrupt):
            loop.run(where())
        assert loop.run(where()) == "loop"


def test_work_that_is_cancelled_before_its_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    held, pressed = threading.Event(), []
    wait = background_loop._Call.wait

    def press(call: Any) -> None:
        if not pressed:
            pressed.append(True)
            raise KeyboardInterrupt
        held.set()
        wait(call)

    monkeypatch.setattr(background_loop._Call, "wait", press)
    with BackgroundLoop("loop") as loop:
        loop._started.result().call_soon_threadsafe(held.wait, HANG)
        with pytest.raises(KeyboardInterrupt):
            loop.run(where())
        assert loop.run(where()) == "loop"


def test_an_exit_that_is_raised_is_the_callers() -> None:
    async def leave() -> None:
        raise SystemExit(3)

    with BackgroundLoop("loop") as loop:
        with pytest.raises(SystemExit):
            loop.run(leave())
        assert loop.run(where()) == "loop"


def test_what_is_raised_makes_no_circle_of_garbage() -> None:
    async def fail() -> None:
        raise OSError("broken")

    with BackgroundLoop("loop") as loop, uncollected(OSError) as living:
        with pytest.raises(OSError):
            loop.run(fail())
        loop.run(where())
        assert living() == []


def test_a_call_from_its_own_thread() -> None:
    async def call() -> None:
        loop.run(where())

    with BackgroundLoop("loop") as loop:
        with pytest.raises(LocalProtocolError, match="made by code that runs in the event loop"):
            loop.run(call())


def test_calls_of_a_loop_that_has_ended() -> None:
    with BackgroundLoop("loop") as loop:
        pass
    with pytest.raises(LocalProtocolError, match="has ended"):
        loop.run(where())


def test_work_that_the_end_cancels_is_told() -> None:
    begun = threading.Event()
    told: list[BaseException] = []

    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    def run() -> None:
        try:
            loop.run(wait())
        except LocalProtocolError as error:
            told.append(error)

    waiting = threading.Thread(target=run)
    with BackgroundLoop("loop") as loop:
        waiting.start()
        assert begun.wait(HANG)
    waiting.join(HANG)
    assert [str(error) for error in told] == ["the event loop of this call has ended"]


def test_a_process_that_was_forked() -> None:
    with BackgroundLoop("loop") as loop:
        assert loop.is_of_this_process

        def child() -> None:
            assert not loop.is_of_this_process
            with pytest.raises(LocalProtocolError, match="before the process was forked"):
                loop.run(where())

        run_forked(child)


def test_a_thread_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    loop = BackgroundLoop("loop")
    for use in (loop.start, lambda: loop.call(list)):
        with pytest.raises(RuntimeError, match="can't start new thread"):
            use()
    loop.end()


def test_a_loop_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("no descriptors")

    monkeypatch.setattr(asyncio, "new_event_loop", fail)
    monkeypatch.setattr("asyncio.events.new_event_loop", fail)
    loop = BackgroundLoop("loop")
    with pytest.raises(OSError, match="no descriptors"):
        loop.__enter__()
    loop._thread.join(HANG)
