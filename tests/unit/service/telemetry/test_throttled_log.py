"""The log of refusals."""

import logging

import pytest

from support.plugins.clock import ManualClock
from tailrace.service.telemetry.throttled_log import ThrottledLog


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def log(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> ThrottledLog:
    caplog.set_level(logging.INFO)
    return ThrottledLog(logging.getLogger("tailrace.test"), clock)


def test_one_line_each(log: ThrottledLog, caplog: pytest.LogCaptureFixture) -> None:
    log.add("cause", "channel %s: %s", "c1", "reason")
    log.flush()
    assert caplog.messages == ["channel c1: reason"]


def test_a_flood_is_counted_and_hides_nothing(
    log: ThrottledLog, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1000):
        log.add("flood", "flood %d", number)
    log.add("other", "other")
    assert caplog.messages == [*(f"flood {number}" for number in range(20)), "other"]
    caplog.clear()
    log.flush()
    log.flush()
    assert caplog.messages == ["980 more refused: flood"]
    caplog.clear()
    clock.now = 3.0
    for number in range(10):
        log.add("flood", "again %d", number)
    assert caplog.messages == ["again 0", "again 1", "again 2"]
    caplog.clear()
    clock.now = 4.0
    log.add("flood", "and again")
    assert caplog.messages == ["7 more refused: flood", "and again"]
