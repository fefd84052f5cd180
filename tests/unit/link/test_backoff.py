"""Delays between tries."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import ConfigurationError
from tailrace.link.backoff import LASTED, MIN_DELAY, QUICK, SETTLED, Backoff


class Highest(random.Random):
    """Always draws the upper limit."""

    def uniform(self, a: float, b: float) -> float:
        return b


class Lowest(random.Random):
    """Always draws the lower limit."""

    def uniform(self, a: float, b: float) -> float:
        return a


def test_links_are_judged_by_these_times() -> None:
    assert (MIN_DELAY, QUICK, LASTED, SETTLED) == (0.05, 0.5, 5.0, 60.0)


def delays(backoff: Backoff, count: int) -> list[float]:
    return [backoff.next_delay() for _ in range(count)]


def test_the_limit_doubles_up_to_the_cap() -> None:
    assert delays(Backoff(2.5, 20.0, Highest()), 6) == [2.5, 5.0, 10.0, 20.0, 20.0, 20.0]


def test_it_doubles_only_twice_while_connections_wait() -> None:
    backoff = Backoff(2.5, 60.0, Highest())
    assert [backoff.next_delay(in_haste=True) for _ in range(4)] == [2.5, 5.0, 10.0, 10.0]
    assert backoff.next_delay() == 40.0


@pytest.mark.parametrize(
    "backoff",
    [Backoff(2.5, 20.0, Lowest()), Backoff(0.0, 20.0, Highest()), Backoff(2.5, 0.0, Highest())],
)
def test_there_is_never_no_delay(backoff: Backoff) -> None:
    assert delays(backoff, 5) == [MIN_DELAY] * 5
    backoff.link_lasted(SETTLED)
    assert backoff.next_delay() == MIN_DELAY


@pytest.mark.parametrize(
    ("lasted", "expected"),
    [
        (0.0, [8.0, 16.0, 32.0]),
        (LASTED - 0.1, [8.0, 16.0, 32.0]),
        (LASTED, [QUICK, 8.0, 16.0]),
        (SETTLED - 0.1, [QUICK, 8.0, 16.0]),
        (SETTLED, [QUICK, 1.0, 2.0]),
    ],
)
def test_a_link_that_lasted_earns_a_quick_try(lasted: float, expected: list[float]) -> None:
    backoff = Backoff(1.0, 100.0, Highest())
    delays(backoff, 3)
    backoff.link_lasted(lasted)
    assert delays(backoff, 3) == expected


def test_two_links_that_lasted_earn_one_quick_try() -> None:
    backoff = Backoff(1.0, 100.0, Highest())
    backoff.link_lasted(LASTED)
    backoff.link_lasted(SETTLED)
    assert delays(backoff, 3) == [QUICK, 1.0, 2.0]


@pytest.mark.parametrize(("base", "cap"), [(0.2, 100.0), (100.0, 0.2)])
def test_no_quick_try_is_later_than_another_first_one(base: float, cap: float) -> None:
    backoff = Backoff(base, cap, Highest())
    backoff.link_lasted(LASTED)
    assert backoff.next_delay() == 0.2


def test_a_fresh_start_earns_no_quick_try() -> None:
    backoff = Backoff(1.0, 100.0, Highest())
    delays(backoff, 3)
    backoff.link_lasted(LASTED)
    backoff.start_afresh()
    assert delays(backoff, 3) == [1.0, 2.0, 4.0]


@pytest.mark.parametrize(("base", "cap"), [(-1.0, 1.0), (1.0, -1.0)])
def test_negative_delays_are_refused(base: float, cap: float) -> None:
    with pytest.raises(ConfigurationError, match="negative"):
        Backoff(base, cap, random.Random())


@given(
    base=st.floats(0, 1e6),
    cap=st.floats(0, 1e6),
    seed=st.integers(),
    tries=st.integers(1, 3000),
)
def test_delays_stay_in_bounds_for_ever(base: float, cap: float, seed: int, tries: int) -> None:
    backoff = Backoff(base, cap, random.Random(seed))
    for delay in delays(backoff, tries):
        assert MIN_DELAY <= delay <= max(MIN_DELAY, cap)


@given(seed=st.integers(), lasted=st.sampled_from([0.0, LASTED, SETTLED]))
def test_clients_do_not_come_back_together(seed: int, lasted: float) -> None:
    rng = random.Random(seed)
    first = set()
    for _ in range(20):
        backoff = Backoff(60.0, 120.0, rng)
        backoff.link_lasted(lasted)
        first.add(backoff.next_delay())
    assert len(first) > 5
