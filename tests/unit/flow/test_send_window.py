"""The bound on bytes in flight, on simulated paths with a clock of their own."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.flow.send_window import PATIENCE, QUEUE_DELAY, SendWindow

CHUNK = 64_512


@dataclass
class Path:
    """A bottleneck with an endless buffer; its far end reads and answers every ping.

    ``rate`` in bytes a second at a time, ``round_trip`` of an empty path in seconds,
    ``back`` what pongs take in addition.
    """

    rate: Callable[[float], float]
    round_trip: float
    back: Callable[[float], float] = lambda now: 0.0
    window: SendWindow = field(default_factory=SendWindow)
    now: float = 100.0
    delays: list[tuple[float, float]] = field(default_factory=list)
    """When something was sent, and how long it took to get through the bottleneck."""
    _free: float = 0.0
    _pongs: list[tuple[float, bytes]] = field(default_factory=list)

    def send(self, size: int) -> None:
        self._free = max(self.now, self._free)
        self._free += size / self.rate(self._free)
        self.delays.append((self.now, self._free - self.now))
        self.window.sent += size
        if self.window.sent >= self.window.mark:
            self._answer(self.window.mark_reached(self.now))

    def _answer(self, ping: bytes | None) -> None:
        if ping is not None:
            read = max(self.now, self._free)
            heapq.heappush(self._pongs, (read + self.round_trip + self.back(self.now), ping))

    def next_pong(self) -> None:
        assert self._pongs, "the window is full and no ping is under way"
        self.now, pong = heapq.heappop(self._pongs)
        self._answer(self.window.pong_received(pong, self.now))

    def bulk(self, seconds: float) -> float:
        """Send as much as the window allows; return the part of the path that was used."""
        begin, read = self.now, self.window.sent - self.window.in_flight
        while self.now < begin + seconds:
            while not self.window.full:
                self.send(min(CHUNK, self.window.quantum))
            self.next_pong()
        carried = self.window.sent - self.window.in_flight - read
        return carried / (self.now - begin) / self.rate(self.now)

    def worst_delay(self, since: float) -> float:
        return max(delay for now, delay in self.delays if now >= since)


def constant(rate: float) -> Callable[[float], float]:
    return lambda now: rate


@pytest.mark.parametrize("round_trip", [0.0005, 0.02, 0.1])
@pytest.mark.parametrize("rate", [8e5, 1e7])
def test_a_slow_path_is_full_and_its_queue_short(rate: float, round_trip: float) -> None:
    path = Path(constant(rate), round_trip)
    assert path.bulk(30) > 0.95
    assert path.worst_delay(since=103) < 2 * QUEUE_DELAY + round_trip


def test_a_very_slow_path_is_full() -> None:
    path = Path(constant(8e4), 0.02)
    assert path.bulk(30) > 0.95
    assert path.worst_delay(since=103) < 0.5


def test_a_long_path_is_filled_although_it_takes_some_round_trips() -> None:
    path = Path(constant(1e7), 0.3)
    path.bulk(10)
    assert path.bulk(20) > 0.9


def test_a_fast_path_does_not_feel_it() -> None:
    path = Path(constant(2.5e8), 0.0002)
    assert path.bulk(0.25) > 0.95
    assert path.window.quantum > CHUNK


def test_a_path_that_becomes_slow() -> None:
    path = Path(lambda now: 1e8 if now < 102 else 8e5, 0.02)
    path.bulk(20)  # until the queue of the fast path is gone
    assert path.bulk(5) > 0.95
    assert path.worst_delay(since=path.now - 3) < 2 * QUEUE_DELAY


def test_a_path_that_becomes_fast() -> None:
    path = Path(lambda now: 8e5 if now < 102 else 1e8, 0.02)
    path.bulk(4)
    assert path.bulk(5) > 0.9


def test_a_path_that_becomes_long() -> None:
    """Such as when the other direction fills a buffer that is not bounded."""
    path = Path(constant(8e5), 0.05, back=lambda now: 0.0 if now < 105 else 1.5)
    path.bulk(40)
    assert path.bulk(60) > 0.6


def test_pongs_that_come_together() -> None:
    path = Path(constant(8e5), 0.05, back=lambda now: 0.05 - now % 0.05)
    assert path.bulk(30) > 0.95
    assert path.worst_delay(since=103) < 0.25


def test_little_data_is_followed_by_few_pings() -> None:
    window = SendWindow()
    pings = 0
    for number in range(10_000):
        window.sent += 64
        if window.sent >= window.mark:
            ping = window.mark_reached(number * 0.1)
            if ping is not None:
                pings += 1
                window.pong_received(ping, number * 0.1 + 0.03)
        assert not window.full
    assert pings == 10_000 * 64 // (16 * 1024)


def test_what_is_sent_now_and_then_says_nothing_about_the_path() -> None:
    path = Path(constant(1e7), 0.02)
    path.bulk(5)
    size = path.window.size
    for _ in range(100):
        for _ in range(5):
            path.send(4096)
        path.now += 1.0
        while path._pongs:
            path.next_pong()
    assert path.window.size >= size


def fill(window: SendWindow, now: float) -> list[bytes]:
    pings = []
    while not window.full:
        window.sent += 8192
        if window.sent >= window.mark:
            ping = window.mark_reached(now)
            if ping is not None:
                pings.append(ping)
    return pings


def test_one_who_answers_no_pings_is_asked_no_more() -> None:
    window = SendWindow()
    pings = fill(window, 1.0)
    assert pings
    assert window.patience_left(1.0) == PATIENCE
    window.expire()
    assert not window.full
    for _ in range(1000):
        window.sent += CHUNK
        if window.sent >= window.mark:
            assert window.mark_reached(2.0) is None
    assert not window.full
    window.pong_received(pings[-1], 5.0)
    assert window.full


def test_one_who_reads_nothing_for_a_while_may_be_sent_more_now_and_then() -> None:
    window = SendWindow()
    first = fill(window, 1.0)
    window.pong_received(first[0], 1.01)
    late = fill(window, 1.01)
    assert window.full
    before = window.sent
    window.expire()
    assert not window.full
    fill(window, 4.0)
    assert window.sent - before <= 2 * window.size
    window.pong_received(late[-1], 9.0)
    assert window.in_flight <= window.sent - before


def test_nothing_is_bound_while_pongs_cannot_be_seen() -> None:
    window = SendWindow()
    pings = fill(window, 1.0)
    window.suspend()
    assert not window.full
    for _ in range(100):
        window.sent += CHUNK
        if window.sent >= window.mark:
            assert window.mark_reached(1.5) is None
    window.resume()
    assert window.in_flight == 0
    fill(window, 1.6)
    # Those from before tell nothing: they were kept waiting.
    in_flight = window.in_flight
    assert window.pong_received(pings[-1], 3.0) is None
    assert window.in_flight == in_flight


def test_a_path_is_measured_after_a_pause_as_before() -> None:
    path = Path(constant(8e5), 0.02)
    path.bulk(5)
    path.window.suspend()
    path.now += 10.0
    path._pongs.clear()
    path.window.resume()
    assert path.bulk(10) > 0.95
    assert path.worst_delay(since=path.now - 5) < 2 * QUEUE_DELAY


@pytest.mark.parametrize(
    "pong", [b"", b"w", b"x1", b"w0", b"w9", b"w-1", b"1", b"w1x", "w\u00b2".encode()]
)
def test_pongs_that_answer_nothing(pong: bytes) -> None:
    window = SendWindow()
    assert window.pong_received(pong, 1.0) is None
    assert fill(window, 1.0)[0] == b"w1"
    in_flight = window.in_flight
    assert window.pong_received(pong, 1.1) is None
    assert window.in_flight == in_flight


def test_a_pong_answers_earlier_pings_too_and_only_once() -> None:
    window = SendWindow()
    pings = fill(window, 1.0)
    window.pong_received(pings[-1], 1.1)
    left = window.in_flight
    assert not window.full
    for ping in pings:
        window.pong_received(ping, 1.2)
    assert window.in_flight == left


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["send", "pong", "lost pong", "wait", "expire", "suspend", "resume"]),
            st.integers(1, 200_000),
        ),
        max_size=300,
    )
)
def test_whatever_happens_a_full_window_opens_again(steps: list[tuple[str, int]]) -> None:
    window, now, pings = SendWindow(), 1.0, list[bytes]()

    def note(ping: bytes | None) -> None:
        if ping is not None:
            pings.append(ping)

    for step, number in steps:
        now += 0.001
        if step == "send":
            window.sent += number
            if window.sent >= window.mark:
                note(window.mark_reached(now))
        elif step == "pong" and pings:
            note(window.pong_received(pings.pop(0), now))
        elif step == "lost pong" and pings:
            pings.pop(0)
        elif step == "wait":
            now += number / 10_000
        elif step in ("expire", "suspend", "resume"):
            getattr(window, step)()
        assert 0 <= window.in_flight <= window.sent
        assert window.mark > window.sent or not pings or step == "send"
        if window.full:
            assert window.patience_left(now) <= PATIENCE
    window.expire()
    assert not window.full
