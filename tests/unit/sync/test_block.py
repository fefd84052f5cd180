"""Blocks: entered and left in another thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from support.interrupts import interrupted_when
from support.processes.forks import run_forked
from tailrace.errors import LocalProtocolError
from tailrace.sync.block import Block
from tailrace.sync.shared_loop import SHARED


class Thing:
    """What blocks enter: writes down what happens to it."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}

    async def wait(self, step: str) -> None:
        self.steps.append(step)
        if step in self.gates:
            await self.gates[step].wait()

    @asynccontextmanager
    async def manager(self) -> AsyncIterator[threading.Thread]:
        try:
            await self.wait("entering")
            yield threading.current_thread()
        except BaseException as error:
            self.steps.append(type(error).__name__)
            raise
        finally:
            await self.wait("leaving")
            self.steps.append("left")

    def block(self) -> Block[threading.Thread]:
        return Block(self.manager(), "thing")


def test_a_block_in_order() -> None:
    thing = Thing()
    with thing.block() as thread:
        assert thread.name == "tailrace"
        assert thing.steps == ["entering"]
    assert thing.steps == ["entering", "leaving", "left"]
    assert not thread.is_alive()


def test_what_the_block_raises_is_told_and_raised() -> None:
    thing = Thing()
    error = KeyboardInterrupt("the very same")
    with pytest.raises(KeyboardInterrupt) as caught:
        with thing.block():
            raise error
    assert caught.value is error
    assert thing.steps == ["entering", "KeyboardInterrupt", "leaving", "left"]


def test_blocks_in_blocks_share_the_thread() -> None:
    with Thing().block() as outer, Thing().block() as inner:
        assert outer is inner


def test_it_is_entered_once_and_used_inside() -> None:
    block = Thing().block()
    with pytest.raises(LocalProtocolError, match="thing was not entered: use it in a with block"):
        block.run(asyncio.sleep(0))
    assert block.call(threading.current_thread) is threading.current_thread()
    assert block.run_anytime(asyncio.sleep(0, "before")) == "before"
    block.__exit__(None, None, None)
    with block as thread:
        assert block.call(threading.current_thread) is thread
        with pytest.raises(LocalProtocolError, match="a thing is entered once; make another one"):
            block.__enter__()
    assert block.run(asyncio.sleep(0, "afterwards")) == "afterwards"
    assert block.call(threading.current_thread) is threading.current_thread()


def test_ctrl_c_while_entering() -> None:
    thing = Thing()
    thing.gates["entering"] = asyncio.Event()
    with interrupted_when(lambda: thing.steps), thing.block():
        raise AssertionError
    assert thing.steps == ["entering", "CancelledError", "leaving", "left"]


def test_ctrl_c_when_it_was_just_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    thing = Thing()
    with SHARED.held() as loop:
        run, calls = loop.run, []

        def interrupted(work):
            result = run(work)
            calls.append(work)
            if len(calls) == 1:
                raise KeyboardInterrupt
            return result

        monkeypatch.setattr(loop, "run", interrupted)
        with pytest.raises(KeyboardInterrupt), thing.block():
            raise AssertionError
    assert thing.steps == ["entering", "KeyboardInterrupt", "leaving", "left"]


def test_ctrl_c_while_leaving() -> None:
    thing = Thing()
    thing.gates["leaving"] = asyncio.Event()
    with interrupted_when(lambda: "leaving" in thing.steps), thing.block():
        pass
    assert thing.steps == ["entering", "leaving"]


def test_a_block_that_another_thread_leaves_while_it_is_used() -> None:
    thing, gate, begun = Thing(), asyncio.Event(), threading.Event()
    results = []

    async def wait() -> str:
        begun.set()
        await gate.wait()
        return "done"

    block = thing.block()
    using = threading.Thread(target=lambda: results.append(block.run(wait())))
    with block:
        using.start()
        assert begun.wait()
    assert thing.steps[-1] == "left"
    with SHARED.held() as loop:
        loop.call(gate.set)
    using.join()
    assert results == ["done"]


def test_a_process_that_is_forked_inside_of_a_block() -> None:
    thing = Thing()

    def child() -> None:
        with pytest.raises(LocalProtocolError, match="before the process was forked"):
            block.run(asyncio.sleep(0))
        block.__exit__(None, None, None)
        assert thing.steps == ["entering"]
        with Thing().block() as thread:
            assert thread.is_alive()

    block = thing.block()
    with block:
        run_forked(child)
    assert thing.steps == ["entering", "leaving", "left"]


async def test_in_a_thread_that_runs_a_loop() -> None:
    """It works, and that loop waits."""
    with Thing().block() as thread:
        assert thread is not threading.current_thread()
