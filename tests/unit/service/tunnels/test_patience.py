"""Waiting for a store that is busy, between turns of the loop."""

import asyncio

import pytest

from support.plugins.clock import ClockLoop
from tailrace.service.errors import StoreFailed
from tailrace.service.tunnels.patience import Patience


class Store:
    """Is busy until a time, and counts how often it was asked."""

    def __init__(self, until: float, busy: bool = True) -> None:
        self.until = until
        self.busy = busy
        self.asked = 0

    async def attempt(self) -> float:
        self.asked += 1
        now = asyncio.get_running_loop().time()
        if now < self.until:
            raise StoreFailed("locked", busy=self.busy)
        return now


def test_it_waits_until_the_store_is_free() -> None:
    loop, store = ClockLoop(), Store(until=1.0)
    assert loop.run_until_complete(Patience().run(store.attempt)) == pytest.approx(1.0, abs=0.03)
    loop.close()


def test_it_gives_up_in_time() -> None:
    loop, store = ClockLoop(), Store(until=100.0)
    with pytest.raises(StoreFailed):
        loop.run_until_complete(Patience().run(store.attempt))
    assert loop.time() == pytest.approx(5.0, abs=0.03)
    loop.close()


def test_other_failures_are_final() -> None:
    loop, store = ClockLoop(), Store(until=1.0, busy=False)
    with pytest.raises(StoreFailed):
        loop.run_until_complete(Patience().run(store.attempt))
    assert store.asked == 1
    loop.close()


def test_many_wait_for_the_cost_of_one_and_not_too_many() -> None:
    loop, store, patience = ClockLoop(), Store(until=1.0), Patience()

    async def run() -> list[float | BaseException]:
        attempts = (patience.run(store.attempt) for _ in range(150))
        return await asyncio.gather(*attempts, return_exceptions=True)

    outcomes = loop.run_until_complete(run())
    loop.close()
    assert sum(isinstance(outcome, float) for outcome in outcomes) == 100
    assert sum(isinstance(outcome, StoreFailed) for outcome in outcomes) == 50
    # Once each, what one of them asks while it waits, and once each again.
    assert store.asked < 150 + 60 + 100


def test_who_leaves_holds_up_nobody() -> None:
    loop, store, patience = ClockLoop(), Store(until=1.0), Patience()

    async def run() -> None:
        leaving = [loop.create_task(patience.run(store.attempt)) for _ in range(2)]
        staying = loop.create_task(patience.run(store.attempt))
        await asyncio.sleep(0.5)
        for task in leaving:
            task.cancel()
        assert await staying == pytest.approx(1.0, abs=0.03)
        assert patience._waiting == 0

    loop.run_until_complete(run())
    loop.close()
