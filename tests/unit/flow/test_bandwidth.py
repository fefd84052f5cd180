from __future__ import annotations

from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.flow.bandwidth import MIN_RATE, BandwidthCap


def test_one_alone_moves_what_the_bucket_holds_and_then_waits():
    cap: BandwidthCap[str] = BandwidthCap(16_000, 0.0)
    assert cap.allowance(0.0) == 4000
    cap.moved(3500, 0.0)
    assert cap.allowance(0.0) == 0, "less than a quantum is left"
    cap.wait("a")
    assert cap.contended
    assert cap.next_turn(0.0) is None
    delay = cap.delay(0.0)
    assert delay == pytest.approx(500 / 16_000)
    assert cap.next_turn(delay) == ("a", 1000)
    assert not cap.contended
    assert cap.next_turn(1.0) is None


def test_nobody_goes_ahead_of_those_that_wait():
    cap: BandwidthCap[str] = BandwidthCap(16_000, 0.0)
    cap.wait("a")
    cap.wait("b")
    cap.wait("a")
    assert cap.allowance(10.0) == 0
    assert cap.delay(10.0) == 0.0
    cap.leave("a")
    cap.leave("nobody")
    assert cap.next_turn(10.0) == ("b", 1000)
    assert cap.allowance(10.0) == 4000


def test_the_bucket_never_holds_more_than_its_burst():
    cap: BandwidthCap[str] = BandwidthCap(1_000_000, 0.0)
    assert cap.allowance(3600.0) == 250_000
    assert cap.quantum == 16 * 1024


@pytest.mark.parametrize("count", [1, 100, 10_000])
def test_each_has_its_turn_within_five_seconds(count: int):
    cap: BandwidthCap[int] = BandwidthCap(10_000, 0.0)
    cap.moved(cap.allowance(0.0), 0.0)
    for each in range(count):
        cap.wait(each)
    now, met = 0.0, set()
    while len(met) < count:
        now += cap.delay(now) + 1e-9
        turn = cap.next_turn(now)
        assert turn is not None
        connection, size = turn
        met.add(connection)
        cap.moved(size, now)
        cap.wait(connection)
    assert now <= 5.1


@given(
    st.integers(MIN_RATE, 10**9),
    st.lists(st.tuples(st.integers(1, 200_000), st.floats(0.0, 2.0)), min_size=1, max_size=60),
)
def test_what_is_moved_stays_below_the_cap_and_is_shared(rate: int, steps: list[tuple[int, float]]):
    cap: BandwidthCap[str] = BandwidthCap(rate, 0.0)
    total, now = 0, 0.0
    queue = deque("abc")
    for size, pause in steps:
        now += pause
        turn = cap.next_turn(now)
        if turn is not None:
            connection, allowed = turn
        else:
            connection, allowed = queue[0], cap.allowance(now)
            queue.rotate()
        if allowed:
            size = min(size, allowed)
            cap.moved(size, now)
            total += size
        else:
            cap.wait(connection)
        assert total <= rate * (0.25 + now) + 1


def test_all_that_have_much_to_move_get_the_same():
    cap: BandwidthCap[str] = BandwidthCap(100_000, 0.0)
    for name in "abc":
        cap.wait(name)
    moved: Counter[str] = Counter()
    now = 0.0
    while now < 30.0:
        turn = cap.next_turn(now)
        if turn is None:
            now += max(cap.delay(now), 1e-6)
            continue
        name, size = turn
        moved[name] += size
        cap.moved(size, now)
        cap.wait(name)
    assert max(moved.values()) - min(moved.values()) <= 6250
    assert sum(moved.values()) == pytest.approx(30.25 * 100_000, rel=0.01)
