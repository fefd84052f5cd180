"""The signals of commands that stay."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from support.waiting import until
from tailrace.cli.signals import signals_handled


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_ends_in_order_and_the_second_at_once(
    number: signal.Signals, loop_kind: str
) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    stopping = asyncio.Event()
    with signals_handled(stopping.set, lambda: None):
        os.kill(os.getpid(), number)
        await until(stopping.is_set)
        assert signal.getsignal(number) is signal.SIG_DFL
    assert {each: signal.getsignal(each) for each in before} == before


async def test_each_sighup_is_told(loop_kind: str) -> None:
    told: list[int] = []
    with signals_handled(lambda: None, lambda: told.append(1)):
        for number in (1, 2):
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda number=number: len(told) == number)
