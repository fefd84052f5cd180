"""Something is done again and again."""

from __future__ import annotations

import asyncio

from support.plugins.clock import ClockLoop
from tailrace.common.periodic import every


def test_until_the_body_ends() -> None:
    times: list[float] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        with every(loop, 10.0, lambda: times.append(loop.time())):
            await asyncio.sleep(35.0)
        await asyncio.sleep(100.0)

    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        runner.run(run())
    assert times == [10.0, 20.0, 30.0]


def test_a_failure_ends_nothing() -> None:
    times: list[float] = []

    def act() -> None:
        times.append(1.0)
        raise ValueError("bug")

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        with every(asyncio.get_running_loop(), 10.0, act):
            await asyncio.sleep(25.0)

    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        runner.run(run())
    assert len(times) == 2
