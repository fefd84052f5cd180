"""Signals as callbacks of a loop."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from support.waiting import until
from tailrace.common import loop_signals as module
from tailrace.common.loop_signals import ending_signals, looking_up, loop_signals

NUMBER = signal.SIGUSR2


class Windows:
    """As much of ``sys`` as is looked at there."""

    platform = "win32"


@pytest.fixture(params=["here", "as on Windows"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "here":
        monkeypatch.setattr(module, "sys", Windows)


@pytest.mark.usefixtures("system")
async def test_a_signal_is_a_call() -> None:
    calls: list[int] = []
    before = signal.getsignal(NUMBER)
    with loop_signals({NUMBER: lambda: calls.append(1)}):
        for count in (1, 2):
            os.kill(os.getpid(), NUMBER)
            await until(lambda count=count: len(calls) == count, "the call")
    assert signal.getsignal(NUMBER) == before


@pytest.mark.usefixtures("system")
async def test_handlers_that_are_removed() -> None:
    with loop_signals({signal.SIGINT: lambda: None, signal.SIGTERM: lambda: None}) as remove:
        remove()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_another_thread_goes_without() -> None:
    before = signal.getsignal(NUMBER)
    seen: list[object] = []

    async def main() -> None:
        with loop_signals({NUMBER: lambda: None}) as remove:
            seen.append(signal.getsignal(NUMBER))
            remove()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join()
    assert seen == [before]


def test_the_signals_that_end() -> None:
    assert set(ending_signals()) == {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


async def test_looking_up(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    timers: list[float] = []
    monkeypatch.setattr(
        loop, "call_later", lambda delay, _: timers.append(delay) or loop.call_soon(int)
    )
    with looking_up(loop):
        assert timers == []
    monkeypatch.setattr(module, "sys", Windows)
    with looking_up(loop):
        assert timers == [0.25]
