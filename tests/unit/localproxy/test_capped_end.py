from __future__ import annotations

from collections import Counter

import pytest

from support.plugins.clock import ClockLoop
from support.tunnel.engine import ScriptedEnd, pass_time
from tailrace.localproxy.capped_end import Bandwidth, CappedEnd

RATE = 16_000
BURST, TURN = 4000, 1000


class Reader:
    """Reads an end as a connection does: once each time that it is called."""

    def __init__(self, loop: ClockLoop, bandwidth: Bandwidth, limit: int = 64_512) -> None:
        self.inner = ScriptedEnd()
        self.end = CappedEnd(loop, self.inner, bandwidth)
        self.received = bytearray()
        self.calls = 0
        self._limit = limit
        self._memory = memoryview(bytearray(65_536))

    def start(self) -> None:
        self.end.start_reading(self._readable)

    def _readable(self) -> None:
        self.calls += 1
        try:
            size = self.end.recv_into(self._memory, self._limit)
        except BlockingIOError:
            return
        self.received += self._memory[:size]


class Writer:
    """Writes to an end as a connection does, for as long as it has something."""

    def __init__(self, loop: ClockLoop, bandwidth: Bandwidth, data: bytes) -> None:
        self.inner = ScriptedEnd()
        self.end = CappedEnd(loop, self.inner, bandwidth)
        self.left = memoryview(data)
        self.calls = 0

    def start(self) -> None:
        self.end.start_writing(self._writable)
        self.inner.take()

    def _writable(self) -> None:
        self.calls += 1
        try:
            sent = self.end.sendmsg([self.left[:700], self.left[700:]])
        except BlockingIOError:
            return
        self.left = self.left[sent:]
        if not self.left:
            self.end.stop_writing()


def test_reading_is_capped_and_loses_nothing(loop: ClockLoop):
    data = bytes(range(256)) * 200
    reader = Reader(loop, Bandwidth(RATE))
    reader.start()
    reader.inner.say(data)
    assert len(reader.received) == BURST
    assert reader.inner.readable is None, "an end that may not be read is not watched"
    pass_time(loop, 1.0)
    assert len(reader.received) == pytest.approx(BURST + RATE, abs=TURN)
    pass_time(loop, 3.0)
    assert reader.received == data
    assert reader.calls < 70, "it is called for its turns only"
    assert reader.inner.readable is not None, "it is watched again"
    reader.end.stop_reading()


def test_writing_is_capped_and_loses_nothing(loop: ClockLoop):
    data = bytes(range(256)) * 200
    writer = Writer(loop, Bandwidth(RATE), data)
    writer.start()
    assert len(writer.inner.taken) == BURST
    pass_time(loop, 1.0)
    assert len(writer.inner.taken) == pytest.approx(BURST + RATE, abs=TURN)
    pass_time(loop, 3.0)
    assert writer.inner.taken == data
    assert writer.inner.writable is None
    assert writer.calls < 70


def test_what_is_sent_at_once_is_capped(loop: ClockLoop):
    inner = ScriptedEnd()
    end = CappedEnd(loop, inner, Bandwidth(RATE))
    assert end.send(memoryview(bytes(10_000))) == BURST
    with pytest.raises(BlockingIOError):
        end.send(memoryview(b"more"))
    assert len(inner.taken) == BURST


def test_the_two_directions_have_a_cap_each(loop: ClockLoop):
    bandwidth = Bandwidth(RATE)
    reader = Reader(loop, bandwidth)
    writer = Writer(loop, bandwidth, bytes(BURST))
    reader.start()
    reader.inner.say(bytes(BURST))
    writer.start()
    assert len(reader.received) == len(writer.inner.taken) == BURST
    reader.end.stop_reading()


def test_connections_of_a_service_share_evenly(loop: ClockLoop):
    bandwidth = Bandwidth(RATE)
    readers = [Reader(loop, bandwidth, limit) for limit in (64_512, 64_512, 200)]
    for reader in readers:
        reader.start()
        reader.inner.say(bytes(200_000))
    pass_time(loop, 20.0)
    greedy, other, modest = (len(reader.received) for reader in readers)
    assert greedy - BURST == pytest.approx(other, abs=TURN), "the first one had the burst"
    assert greedy + other + modest == pytest.approx(BURST + 20 * RATE, abs=TURN)
    assert 0 < modest < other
    for reader in readers:
        reader.end.stop_reading()


def test_a_turn_that_is_not_used_is_the_next_one_s(loop: ClockLoop):
    bandwidth = Bandwidth(RATE)
    busy, full = Writer(loop, bandwidth, bytes(50_000)), Writer(loop, bandwidth, bytes(50_000))
    full.inner.room = 0
    full.end.start_writing(full._writable)
    busy.start()
    pass_time(loop, 2.0)
    assert len(busy.inner.taken) == pytest.approx(BURST + 2 * RATE, abs=TURN)
    assert full.calls < 5, "one that takes nothing is watched and not called"
    full.inner.take(10)
    pass_time(loop, 1.0)
    assert len(full.inner.taken) == 10
    full.end.stop_writing()
    busy.end.stop_writing()


def test_one_that_is_stopped_gets_no_turn_and_no_timer_is_left(loop: ClockLoop):
    bandwidth = Bandwidth(RATE)
    reader = Reader(loop, bandwidth)
    reader.start()
    reader.inner.say(bytes(50_000))
    reader.end.stop_reading()
    # The loop would fail if it had nothing to wait for, and so would a turn.
    pass_time(loop, 1.0)
    assert len(reader.received) == BURST
    reader.end.close()
    assert reader.inner.closed
    with pytest.raises(AssertionError, match="nothing will ever happen"):
        loop.run_forever()


def test_one_that_stops_in_its_turn_is_not_watched(loop: ClockLoop):
    bandwidth = Bandwidth(RATE)
    reader = Reader(loop, bandwidth)
    calls: Counter[str] = Counter()

    def readable() -> None:
        calls["all"] += 1
        if len(reader.received) >= BURST:
            reader.end.stop_reading()
        else:
            reader._readable()

    reader.end.start_reading(readable)
    reader.inner.say(bytes(50_000))
    pass_time(loop, 1.0)
    assert calls["all"] == 2
    assert reader.inner.readable is None
    reader.end.reset("it was stopped")
    assert reader.inner.was_reset
    assert reader.inner.reset_reason == "it was stopped"


def test_at_the_end_what_waits_is_delivered_at_once(loop: ClockLoop):
    writer = Writer(loop, Bandwidth(RATE), bytes(50_000))
    writer.start()
    assert len(writer.inner.taken) == BURST
    writer.end.expect_end()
    writer.inner.take()
    assert len(writer.inner.taken) == 50_000
    assert writer.inner.end_is_near


def test_what_goes_nowhere_is_read_without_a_cap(loop: ClockLoop):
    reader = Reader(loop, Bandwidth(RATE))
    reader.start()
    reader.inner.say(bytes(50_000))
    reader.end.expect_end()
    reader.inner.tell()
    assert len(reader.received) == 50_000
    reader.end.stop_reading()


def test_a_direction_that_is_not_in_use_is_lifted_all_the_same(loop: ClockLoop):
    end = CappedEnd(loop, ScriptedEnd(), Bandwidth(RATE))
    end.expect_end()
    end.expect_end()
    assert end.send(memoryview(bytes(50_000))) == 50_000


def test_a_turn_that_fails_leaves_the_others_theirs(loop: ClockLoop):
    bandwidth = Bandwidth(RATE)
    failures: list[type] = []
    loop.set_exception_handler(lambda _, context: failures.append(type(context["exception"])))
    bad, good = Reader(loop, bandwidth), Reader(loop, bandwidth)

    def fail() -> None:
        if good.received:
            raise ZeroDivisionError
        bad._readable()

    bad.end.start_reading(fail)
    bad.inner.say(bytes(50_000))
    good.start()
    good.inner.say(bytes(3000))
    pass_time(loop, 0.5)
    bad.end.stop_reading()
    pass_time(loop, 1.0)
    assert failures == [ZeroDivisionError]
    assert len(good.received) == 3000
    good.end.stop_reading()
