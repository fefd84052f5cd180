"""The loop that all share."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.processes.forks import run_forked
from tailrace.common.background_loop import BackgroundLoop
from tailrace.errors import LocalProtocolError
from tailrace.sync import shared_loop
from tailrace.sync.shared_loop import SHARED, SharedLoop


async def where() -> threading.Thread:
    return threading.current_thread()


def test_one_thread_for_all_until_the_last_has_gone() -> None:
    with SHARED.held() as first:
        with SHARED.held() as second:
            assert second is first
        thread = first.run(where())
        assert thread.name == "tailrace"
        assert thread.daemon
    assert not thread.is_alive()
    with SHARED.held() as third:
        assert third is not first
        assert third.run(where()).is_alive()


def test_many_threads_at_the_same_time() -> None:
    def use(_: int) -> bool:
        with SHARED.held() as loop:
            return loop.run(where()).is_alive()

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(use, range(400)))
    assert SHARED._loop is None


def test_a_thread_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: BackgroundLoop) -> None:
        raise RuntimeError("can't start new thread")

    shared = SharedLoop()
    with monkeypatch.context() as broken:
        broken.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            shared.hold()
    with shared.held() as loop:
        assert loop.run(where()).is_alive()


def test_a_release_in_the_thread_of_the_loop() -> None:
    """So does garbage that is collected there."""
    loop = SHARED.hold()
    thread = loop.run(where())
    loop.call(lambda: SHARED.release(loop))
    thread.join()
    assert SHARED._loop is None


def test_a_forked_process_begins_anew() -> None:
    def child() -> None:
        assert SHARED._loop is None
        SHARED.release(loop)
        with SHARED.held() as own:
            assert own is not loop
            assert own.run(where()).is_alive()
            assert SHARED._users == 1
        SHARED.end()

    with SHARED.held() as loop:
        run_forked(child)
        assert loop.run(where()).is_alive()


def test_blocks_are_left_when_the_program_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    left = []

    async def leave() -> None:
        left.append("in order")

    async def fail() -> None:
        left.append("with an error")
        raise OSError("broken")

    async def hang() -> None:
        left.append("not")
        await asyncio.Event().wait()

    monkeypatch.setattr(shared_loop, "_EXIT_SECONDS", 0.01)
    shared = SharedLoop()
    loop = shared.hold()
    thread = loop.run(where())
    for each in (leave, fail, hang, hang):
        shared.leave_at_exit(each, each)
    shared.end()
    assert left == ["in order", "with an error", "not"]
    assert not thread.is_alive()
    shared.release(loop)
    with pytest.raises(LocalProtocolError):
        loop.run(where())
    shared.end()


def test_nothing_to_leave() -> None:
    shared = SharedLoop()
    thread = shared.hold().run(where())
    shared.end()
    assert not thread.is_alive()
