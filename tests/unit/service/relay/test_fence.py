"""The fence in front of a destination: when it is up, and what makes it fall."""

from tailrace.service.relay.fence import Fence


def test_it_is_down_until_it_is_put_up() -> None:
    fence = Fence()
    assert not fence.is_up
    fence.pong_received(b"", 0)
    fence.passed(0)
    assert not fence.is_up
    assert fence.put_up() == b"1"
    assert fence.is_up


def test_its_own_pong_takes_it_down() -> None:
    fence = Fence()
    ping = fence.put_up()
    fence.pong_received(b"something else", 0)
    assert fence.is_up
    fence.pong_received(ping, 0)
    assert not fence.is_up


def test_each_ping_is_another_one() -> None:
    fence = Fence()
    first, second = fence.put_up(), fence.put_up()
    assert second != first
    fence.pong_received(first, 0)
    assert fence.is_up
    fence.pong_received(second, 0)
    assert not fence.is_up


def test_a_pong_behind_a_backlog_takes_effect_when_that_is_passed() -> None:
    fence = Fence()
    ping = fence.put_up()
    assert fence.limit(500) == 500
    fence.pong_received(ping, 100)
    # What comes later lies behind the fence.
    assert fence.limit(500) == 100
    fence.passed(99)
    assert fence.is_up
    fence.passed(100)
    assert not fence.is_up
    assert fence.limit(500) == 500


def test_put_up_again_it_waits_for_another_pong() -> None:
    fence = Fence()
    fence.pong_received(fence.put_up(), 100)
    fence.put_up()
    assert fence.limit(500) == 500
    fence.passed(100)
    assert fence.is_up


def test_a_late_pong_of_a_fence_that_is_down_changes_nothing() -> None:
    fence = Fence()
    ping = fence.put_up()
    fence.pong_received(ping, 0)
    fence.pong_received(ping, 100)
    assert fence.limit(500) == 500


def test_it_falls_by_itself_after_two_sweeps() -> None:
    fence = Fence()
    fence.sweep()
    fence.put_up()
    fence.sweep()
    assert fence.is_up
    # Each time it is put up, it has that long.
    fence.put_up()
    fence.sweep()
    assert fence.is_up
    fence.sweep()
    assert not fence.is_up
