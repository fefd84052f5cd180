"""Token buckets, with the clock in the test's hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.flow.token_bucket import Bucket, Buckets


def test_a_bucket_is_full_at_first_and_never_fuller() -> None:
    bucket = Bucket(10.0, 5.0, 100.0)
    assert bucket.is_full(100.0)
    assert not bucket.try_take(5.1, 1000.0)
    assert bucket.try_take(5.0, 1000.0)
    assert bucket.is_empty(1000.0)
    assert not bucket.try_take(1.0, 1000.05)
    assert bucket.try_take(1.0, 1000.1)
    assert not bucket.is_full(1000.1)


def test_debts_are_paid_at_the_rate() -> None:
    bucket = Bucket(100.0, 100.0, 0.0)
    assert bucket.take(100.0, 0.0) == 0.0
    assert bucket.take(50.0, 0.0) == 0.5
    assert bucket.take(50.0, 0.0) == 1.0
    assert bucket.take(0.0, 0.25) == 0.75
    assert bucket.take(0.0, 1.0) == 0.0
    assert bucket.take(1.0, 1.0) == pytest.approx(0.01)


def test_a_clock_that_goes_back_fills_nothing() -> None:
    bucket = Bucket(1.0, 1.0, 10.0)
    assert bucket.try_take(1.0, 10.0)
    assert not bucket.try_take(1.0, 5.0)
    assert not bucket.try_take(1.0, 10.5)
    assert bucket.try_take(1.0, 11.0)


@given(
    st.lists(st.tuples(st.integers(0, 200_000), st.floats(0.0, 0.01)), min_size=1),
    st.integers(1_000, 10_000_000),
)
def test_who_waits_as_told_never_exceeds_the_rate(
    frames: list[tuple[int, float]], rate: int
) -> None:
    """Reading a frame, waiting the delay, and some idle time, over and over."""
    bucket = Bucket(rate, rate, 0.0)
    now = total = 0.0
    for size, idle in frames:
        # Everything before this frame fits the burst and what has flown in since.
        assert total <= (rate + now * rate) * 1.000001
        total += size
        now += bucket.take(size, now) + idle


class TestBuckets:
    def test_keys_do_not_share(self) -> None:
        buckets = Buckets(1.0, 2.0)
        assert [buckets.try_take("a", 0.0) for _ in range(3)] == [True, True, False]
        assert buckets.is_empty("a", 0.0)
        assert not buckets.is_empty("b", 0.0)
        assert buckets.try_take("b", 0.0)
        assert buckets.try_take("a", 1.0)

    def test_rates_below_one_still_let_one_through(self) -> None:
        buckets = Buckets(0.5, 0.5)
        assert buckets.try_take("a", 0.0)
        assert not buckets.try_take("a", 1.0)
        assert buckets.try_take("a", 2.0)

    def test_no_limit(self) -> None:
        buckets = Buckets(0, 0)
        assert all(buckets.try_take("a", 0.0) for _ in range(1000))
        assert len(buckets) == 0

    def test_memory_is_bounded(self) -> None:
        buckets = Buckets(1.0, 1.0)
        assert buckets.try_take("first", 0.0)
        for number in range(9_999):
            assert buckets.try_take(str(number), 0.0)
        assert not buckets.try_take("first", 0.0)
        for number in range(9_999, 30_000):
            assert buckets.try_take(str(number), 0.0)
        assert len(buckets) == 10_000
        # Forgotten by now.
        assert buckets.try_take("first", 0.0)
