"""When to ping and when a link is dead, on made-up clocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import ConfigurationError
from tailrace.link.heartbeat import Heartbeat, HeartbeatAction

PING, DEAD, WAIT = HeartbeatAction.PING, HeartbeatAction.DEAD, HeartbeatAction.WAIT


def run(heartbeat: Heartbeat, until: float, bytes_at: list[float]) -> list[tuple[float, str]]:
    """Fire each deadline on time; return what was to be done, with its time."""
    done: list[tuple[float, str]] = []
    while (now := heartbeat.next_deadline()) <= until:
        last = max((each for each in bytes_at if each <= now), default=float("-inf"))
        action = heartbeat.on_deadline(now, last)
        done.append((now, action.value))
        if action is DEAD:
            break
    return done


def test_first_ping_at_once_then_every_period() -> None:
    done = run(Heartbeat(20.0, 100.0), 160.0, [100.0, 130.0, 150.0])
    assert [at for at, what in done if what == "ping"] == [100.0, 120.0, 140.0, 160.0]


def test_three_silent_periods_end_the_link() -> None:
    assert run(Heartbeat(20.0, 100.0), 1000.0, [])[-1] == (160.0, "dead")


def test_any_byte_keeps_the_link() -> None:
    # One byte just before patience runs out buys three more periods.
    done = run(Heartbeat(20.0, 0.0), 1000.0, [59.0])
    assert (60.0, "wait") in done or (60.0, "ping") in done
    assert done[-1] == (119.0, "dead")


def test_a_deadline_that_comes_early_changes_nothing() -> None:
    heartbeat = Heartbeat(20.0, 0.0)
    assert heartbeat.on_deadline(0.0, 0.0) is PING
    assert heartbeat.on_deadline(5.0, 0.0) is WAIT
    assert heartbeat.next_deadline() == 20.0


def test_a_suspended_machine_sends_one_ping_and_not_a_burst() -> None:
    heartbeat = Heartbeat(20.0, 0.0)
    heartbeat.on_deadline(0.0, 0.0)
    # The bytes that waited in the socket are read before the timer fires.
    assert heartbeat.on_deadline(10_000.0, 9_999.0) is PING
    assert heartbeat.next_deadline() == 10_020.0


def test_an_old_report_does_not_turn_the_clock_back() -> None:
    heartbeat = Heartbeat(10.0, 0.0)
    assert heartbeat.on_deadline(20.0, 20.0) is PING
    assert heartbeat.on_deadline(40.0, 5.0) is PING


@pytest.mark.parametrize("period", [0.0, -1.0, float("nan")])
def test_a_period_is_positive(period: float) -> None:
    with pytest.raises(ConfigurationError, match="ping period"):
        Heartbeat(period, 0.0)


@given(
    period=st.floats(0.001, 1e4),
    start=st.floats(0, 1e9),
    received=st.lists(st.floats(0, 1.0), max_size=20),
)
def test_deadlines_always_move_on(period: float, start: float, received: list[float]) -> None:
    heartbeat = Heartbeat(period, start)
    last = start
    for share in received:
        now = heartbeat.next_deadline()
        last = max(last, now - share * period)
        action = heartbeat.on_deadline(now, last)
        if action is DEAD:
            assert now >= last + heartbeat.patience
            return
        # Nothing is due again at the same moment: no busy loop.
        assert heartbeat.next_deadline() > now
