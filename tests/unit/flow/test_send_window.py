"""The bound on bytes in flight, on simulated paths with a clock of their own."""

from __future__ import annotations

import heapq
import math
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
            if size >= self.window.quantum:
                self.window.turn_used_up()
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


@pytest.mark.parametrize(("rate", "wait"), [(8000, 0.6), (2000, 2.5)])
def test_a_path_of_a_modem_is_full_and_its_queue_short(rate: float, wait: float) -> None:
    path = Path(constant(rate), 0.1)
    path.send(64)
    assert path.bulk(60) > 0.95
    assert path.worst_delay(since=100) < 2 * wait
    assert path.worst_delay(since=110) < wait


def test_a_path_that_becomes_that_of_a_modem() -> None:
    path = Path(lambda now: 1e6 if now < 102 else 8000, 0.05)
    path.bulk(30)
    assert path.bulk(20) > 0.95
    assert path.worst_delay(since=path.now - 20) < 0.6


def test_a_long_path_is_filled_although_it_takes_some_round_trips() -> None:
    path = Path(constant(1e7), 0.3)
    path.bulk(10)
    assert path.bulk(20) > 0.9


def test_a_fast_path_does_not_feel_it() -> None:
    path = Path(constant(2.5e8), 0.0002)
    assert path.bulk(0.25) > 0.95
    assert path.window.quantum > CHUNK


@pytest.mark.parametrize("after_queue", [False, True])
def test_a_round_trip_that_is_over_before_the_next_turn(after_queue: bool) -> None:
    """As within one event loop: the window is never full, and yet it is what holds data back."""
    path = Path(constant(1e9), 0.0001)
    if after_queue:
        path.back = lambda now: 0.05 if now < 100.1 else 0.0
        path.window.pong_received(path.window.begin(99.9), 99.9001)
    for _ in range(4000):
        if not path.window.full:
            path.send(min(CHUNK, path.window.quantum))
        path.now += 0.0005
        while path._pongs and path._pongs[0][0] <= path.now:
            path.next_pong()
    assert path.window.quantum >= CHUNK


def test_bursts_smaller_than_a_turn_do_not_widen_the_window() -> None:
    path = Path(constant(1e9), 0.0001)
    size = path.window.size
    for _ in range(4000):
        path.send(path.window.quantum - 1)
        path.now += 0.0005
        while path._pongs and path._pongs[0][0] <= path.now:
            path.next_pong()
    assert path.window.size == size


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
    # After each half of the window that a link begins with.
    assert pings == -(-10_000 * 64 // 2048)


def test_what_is_sent_now_and_then_says_nothing_about_the_path() -> None:
    path = Path(constant(1e7), 0.02)
    path.bulk(5)
    size = path.window.size
    for _ in range(100):
        for _ in range(20):
            path.send(1024)
        path.now += 1.0
        while path._pongs:
            path.next_pong()
    assert path.window.size >= size


def fill(window: SendWindow, now: float) -> list[bytes]:
    pings = []
    for _ in range(10_000):
        if window.full:
            return pings
        window.sent += 8192
        if window.sent >= window.mark:
            ping = window.mark_reached(now)
            if ping is not None:
                pings.append(ping)
    raise AssertionError("the window is never full")


def test_one_who_answers_no_pings_is_asked_no_more() -> None:
    window = SendWindow()
    pings = fill(window, 1.0)
    assert pings
    assert window.patience_left(1.0) == PATIENCE
    window.expire(3.0)
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
    window.expire(3.0)
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
        now += 1 / 1024
        if step == "send":
            window.sent += number
            if window.sent >= window.mark:
                note(window.mark_reached(now))
        elif step == "pong" and pings:
            note(window.pong_received(pings.pop(0), now))
        elif step == "lost pong" and pings:
            pings.pop(0)
        elif step == "wait":
            now += number / 8192
        elif step == "expire":
            window.expire(now)
        elif step in ("suspend", "resume"):
            getattr(window, step)()
        assert 0 <= window.in_flight <= window.sent
        assert window.mark > window.sent or not pings or step == "send"
        if window.full:
            assert window.patience_left(now) <= 60.0
    window.expire(now)
    assert not window.full


# -- every rule by itself, at its thresholds ---------------------------------------------
#
# Times are fractions that binary numbers hold exactly, or differences of such, so that a
# threshold can be met to the last bit. Constants are written out: they are what is tested.

K = 1024


class Sender:
    """Sends on a window at given times, and keeps the pings that are under way."""

    def __init__(self) -> None:
        self.window = SendWindow()
        # Large enough for all rules to be seen at work.
        self.window._size, self.window.mark = 64 * K, 16 * K
        self.window._settle()
        self.pings: list[bytes] = []

    def send(self, now: float, size: int) -> None:
        self.window.sent += size
        if self.window.sent >= self.window.mark:
            self._keep(self.window.mark_reached(now))

    def fill(self, now: float) -> None:
        """Send until the window is full, to the byte."""
        for _ in range(1000):
            if self.window.full:
                return
            self.send(now, self.window.mark - self.window.sent)
        raise AssertionError("the window is never full")

    def pong(self, now: float, number: int = 1) -> None:
        """Receive a pong for the given number of pings under way."""
        ping = self.pings[number - 1]
        del self.pings[:number]
        self._keep(self.window.pong_received(ping, now))

    def sample(self, begin: float, size: int, end: float) -> None:
        """Let the path carry ``size`` bytes from ``begin`` to ``end``, after a pause."""
        self.send(begin, 16 * K)
        self.send(begin, size)
        self.pong(end, 2)

    def _keep(self, ping: bytes | None) -> None:
        if ping is not None:
            self.pings.append(ping)

    def restarts_measuring(self, now: float) -> bool:
        """Send a ping; return whether measuring started with it."""
        self.send(now, self.window.mark - self.window.sent)
        return self.window.patience_left(now) == pytest.approx(2.0)


def on_path(round_trip: float) -> Sender:
    """A sender that knows its round trip, but no rate; for clocks that begin at 0."""
    sender = Sender()
    sender.send(-2 * round_trip, 16 * K)
    sender.pong(-round_trip)
    assert (sender.window.size, sender.window.in_flight) == (64 * K, 0)
    return sender


def started(round_trip: float) -> Sender:
    """A sender on a path that has once shown a queue, so that its start-up is over."""
    sender = on_path(round_trip)
    sender.send(0.0, 16 * K)
    sender.pong(0.1875)
    assert sender.window.size == 64 * K
    return sender


def grown(size: int) -> Sender:
    """A sender whose window has become ``size``, with nothing under way."""
    sender = on_path(1 / 16)
    sender.window._size, sender.window.mark = size, sender.window.sent + max(16 * K, size // 8)
    sender.window._settle()
    assert (sender.window.size, sender.window.in_flight) == (size, 0)
    return sender


def probing() -> Sender:
    """A sender that probes its round trip of 1/16 from 16.0 on, with nothing under way."""
    sender = on_path(1 / 16)
    sender.send(15.875, 16 * K)
    sender.pong(16.0)
    assert (sender.window.size, sender.window.in_flight) == (2 * K, 0)
    return sender


def carried(rate: float, round_trip: float) -> int:
    """The window for a rate, by the formula written out."""
    return int(rate * max(round_trip + 0.06, 1.5 * round_trip))


def just_after(time: float) -> float:
    return math.nextafter(time, math.inf)


def just_before(time: float) -> float:
    return math.nextafter(time, -math.inf)


def test_a_window_begins_with_4_kib_and_a_ping_with_nothing_before_it() -> None:
    window = SendWindow()
    assert (window.size, window.quantum, window.mark) == (4 * K, K, 2 * K)
    assert (window.sent, window.in_flight, window.full) == (0, 0, False)
    assert window.begin(1.0) == b"w1"
    assert window.pong_received(b"w1", 1.0625) is None
    assert (window.size, window.mark) == (4 * K, 2 * K)
    # A queue shows at once, as what an empty path takes is known: start-up is over.
    window.sent = 2 * K
    assert window.mark_reached(2.0) == b"w2"
    window.sent = 4 * K
    assert window.mark_reached(2.0) == b"w3"
    window.pong_received(b"w2", 2.125)
    window.pong_received(b"w3", 2.25)
    assert window.size <= 4 * K


def test_a_window_is_full_with_its_size_in_flight() -> None:
    sender = Sender()
    sender.send(1.0, 64 * K - 1)
    assert not sender.window.full
    sender.send(1.0, 1)
    assert sender.window.full
    sender.pong(1.1)
    assert sender.window.in_flight == 1


@pytest.mark.parametrize(
    ("size", "spacing"),
    [(128 * K, 16 * K), (136 * K, 17 * K), (256 * K, 32 * K), (64 * K * K, 8 * K * K)],
)
def test_a_ping_follows_each_16_kib_or_eighth_of_the_window(size: int, spacing: int) -> None:
    sender = grown(size)
    for _ in range(3):
        assert sender.window.mark - sender.window.sent == spacing
        sender.window.sent += spacing - 1
        assert sender.window.mark_reached(1.0) is None
        assert sender.window.mark - sender.window.sent == 1
        sender.window.sent += 1
        assert sender.window.mark_reached(1.0) is not None
    assert sender.window.quantum == size // 8


def test_a_ping_follows_each_half_of_a_small_window() -> None:
    sender = started(1 / 16)
    sender.sample(1.0, 48 * K, 1.25)
    assert sender.window.size == carried(48 * K / 0.25, 1 / 16) < 32 * K
    assert sender.window.mark - sender.window.sent == sender.window.size // 2


def test_a_turn_is_an_eighth_of_the_window_and_1_kib_at_least() -> None:
    assert grown(136 * K).window.quantum == 17 * K
    assert probing().window.quantum == K


def test_the_mark_is_where_the_next_ping_is_due_or_the_window_full() -> None:
    window = Sender().window
    window.sent = 61 * K
    assert window.mark_reached(1.0) == b"w1"
    assert window.mark == 64 * K
    window.sent = 64 * K
    assert window.mark_reached(1.0) is None
    # Full: each further byte is looked at, and pings follow each other more closely.
    assert window.mark == 64 * K + 1
    window.sent = 65 * K - 1
    assert window.mark_reached(1.0) is None
    assert window.mark == 65 * K
    window.sent = 65 * K
    assert window.mark_reached(1.0) == b"w2"
    window.sent = 69 * K - 1
    assert window.mark_reached(1.0) is None
    window.sent = 69 * K
    assert window.mark_reached(1.0) == b"w3"
    assert window.pong_received(b"w1", 1.1) is None
    assert window.in_flight == 8 * K
    assert window.mark == 69 * K + (64 + 2 * 61) * K // 8


def test_64_pings_are_remembered() -> None:
    for more, answered in ((0, True), (1, False)):
        sender = Sender()
        for _ in range(64 + more):
            sender.send(1.0, 16 * K)
        sender.pong(1.1)
        assert sender.window.in_flight == (63 if answered else 65) * 16 * K
        sender.pong(1.1)
        assert sender.window.in_flight == (62 + more) * 16 * K


# Start-up


def test_in_start_up_a_window_that_was_full_trebles_with_each_round_trip() -> None:
    sender = on_path(1 / 16)
    for begin, size in ((0.0, 64 * K), (0.125, 192 * K), (0.25, 576 * K)):
        sender.fill(begin)
        assert sender.window.in_flight == size
        sender.pong(begin + 1 / 16)
        grew = sender.window.size - size
        assert grew == 2 * (size - sender.window.in_flight) > 0
        sender.pong(begin + 1 / 16, len(sender.pings))
        assert (sender.window.size, sender.window.in_flight) == (3 * size, 0)


def test_in_start_up_a_window_that_was_not_full_does_not_grow() -> None:
    sender = Sender()
    sender.send(1.0, 64 * K - 1)
    sender.pong(1.1)
    assert sender.window.size == 64 * K
    # Data counts as held back from where the window was full, and not from the next pong on.
    sender = on_path(1 / 16)
    sender.fill(0.0)
    sender.pong(1 / 16, 4)
    sender.send(0.125, 24 * K)
    sender.pong(0.1875)
    assert sender.window.size == (192 + 48) * K
    sender.send(0.25, 30 * K)
    sender.pong(0.3125)
    assert sender.window.size == (192 + 48) * K


def test_a_window_grows_to_64_mib_at_most() -> None:
    sender = on_path(1 / 16)
    sender.send(0.0, 100 * K * K)
    sender.pong(1 / 16)
    assert sender.window.size == 64 * K * K
    sender = on_path(1 / 16)
    sender.sample(0.0, 1000 * K * K, 0.25)
    assert sender.window.size == 64 * K * K


def test_start_up_ends_with_a_queue_of_30_ms() -> None:
    for round_trip, grows in ((0.06, True), (just_after(0.06), False)):
        sender = on_path(0.03)
        sender.fill(0.0)
        sender.pong(round_trip)
        assert sender.window.size == (96 * K if grows else 64 * K)


def test_start_up_is_over_for_good() -> None:
    sender = started(1 / 16)
    sender.fill(1.0)
    sender.pong(1.0625)
    assert sender.window.size == 64 * K


def test_in_start_up_no_rate_makes_the_window_smaller() -> None:
    sender = on_path(0.25)
    sender.fill(0.0)
    sender.pong(0.25, 4)
    assert carried(48 * K / 0.25, 0.25) < sender.window.size == 192 * K


# Rates


@pytest.mark.parametrize("round_trip", [1 / 16, 0.1, 0.12, 0.125])
def test_the_window_carries_the_rate_for_a_round_trip_and_60_ms(round_trip: float) -> None:
    sender = started(round_trip)
    sender.sample(1.0, 200 * K, 1.25)
    assert sender.window.size == carried(200 * K / 0.25, round_trip)


def test_the_window_is_one_and_a_half_round_trips_where_they_are_long() -> None:
    sender = on_path(0.5)
    sender.send(0.0, 16 * K)
    sender.pong(0.75)
    sender.sample(2.0, 200 * K, 2.5)
    assert sender.window.size == 200 * K * 2 * 0.75


def test_the_window_is_2_kib_at_least() -> None:
    sender = started(1 / 16)
    sender.fill(1.0)
    sender.pong(9.0, 2)
    assert sender.window.size == 2 * K > carried(32 * K / 8, 1 / 16)


def test_a_rate_is_measured_over_a_fifth_of_a_second_at_least() -> None:
    for end, measured in ((0.2, True), (just_before(0.2), False)):
        sender = on_path(0.125)
        sender.sample(0.0, 112 * K, end)
        assert sender.window.size == (carried(112 * K / 0.2, 0.125) if measured else 64 * K)


def test_a_rate_is_measured_over_a_fifth_of_a_second_if_that_is_known() -> None:
    for end, since in ((0.4, 0.2), (just_before(0.4), 0.0)):
        sender = on_path(0.125)
        sender.send(0.0, 16 * K)
        sender.send(0.1, 16 * K)
        sender.pong(0.2)
        sender.send(0.2, 112 * K)
        assert sender.window.size == 64 * K
        sender.pong(end, 2)
        assert sender.window.size == carried(128 * K / (end - since), 0.125)


def test_a_rate_is_measured_since_before_its_ping_was_sent() -> None:
    sender = on_path(0.5)
    sender.send(0.0, 16 * K)
    sender.send(0.25, 40 * K)
    sender.pong(0.5)
    sender.pong(0.75)
    assert carried(40 * K / 0.75, 0.5) < sender.window.size == 64 * K < carried(40 * K / 0.25, 0.5)


def test_the_highest_rate_of_a_second_counts() -> None:
    for end, counts in ((1.75, True), (1.75 + 1 / 1024, False)):
        sender = started(1 / 16)
        sender.sample(0.5, 128 * K, 0.75)
        sender.sample(end - 0.21875, 64 * K, end)
        best = 128 * K / 0.25 if counts else 64 * K / 0.21875
        assert sender.window.size == carried(best, 1 / 16)


def test_the_highest_rate_of_four_shortest_round_trips_counts_if_these_are_longer() -> None:
    for end, counts in ((4.5, True), (4.5 + 1 / 1024, False)):
        sender = on_path(0.5)
        sender.send(0.0, 16 * K)
        sender.pong(0.75)
        sender.sample(2.0, 60 * K, 2.5)
        sender.sample(end - 0.75, 60 * K, end)
        best = 60 * K / 0.5 if counts else 60 * K / 0.75
        assert sender.window.size == carried(best, 0.5)


def test_a_rate_is_not_believed_longer_because_of_the_queue_that_it_has_built_up() -> None:
    sender = started(1 / 16)
    sender.sample(0.5, 256 * K, 0.75)
    sender.sample(1.0, 256 * K, 3.0)
    assert sender.window.size == carried(256 * K / 2, 1 / 16)


def test_rates_are_forgotten_one_by_one() -> None:
    sender = started(1 / 16)
    sizes = []
    for number, size in enumerate((128, 32, 64, 16)):
        begin = 1.0 + number / 2
        sender.sample(begin, size * K, begin + 0.25)
        sizes.append(sender.window.size)
    best = [carried(size * K / 0.25, 1 / 16) for size in (128, 128, 128, 64)]
    assert sizes == best


# Who is held back by the window, and who by a lack of data


def test_a_rate_below_the_window_makes_it_smaller_only_if_it_was_full() -> None:
    sender = started(0.125)
    sender.sample(1.0, 47 * K, 1.21875)  # a queue of 94 ms
    assert sender.window.size == 64 * K > carried(47 * K / 0.21875, 0.125)
    sender.sample(4.0, 48 * K, 4.21875)
    assert sender.window.size == carried(48 * K / 0.21875, 0.125) < 64 * K
    size = sender.window.size
    sender.sample(8.0, 20 * K, 8.21875)
    assert sender.window.size == size > carried(20 * K / 0.21875, 0.125)


def test_a_rate_counts_as_held_back_up_to_where_the_window_was_full() -> None:
    sender = on_path(0.125)
    sender.fill(0.0)
    sender.pong(0.1875, 4)
    sender.send(0.1875, 48 * K)
    sender.pong(0.40625)
    assert sender.window.size == carried(48 * K / 0.21875, 0.125) < 64 * K


def test_a_rate_below_the_window_makes_it_smaller_if_there_is_a_queue_of_120_ms() -> None:
    for end, shrinks in ((0.24, False), (just_after(0.24), True)):
        sender = on_path(0.12)
        sender.send(0.0, 16 * K)
        sender.send(0.0, 40 * K)
        sender.pong(end, 2)
        assert sender.window.size == (carried(40 * K / end, 0.12) if shrinks else 64 * K)


def test_a_lack_of_data_makes_no_window_smaller_than_16_kib() -> None:
    for size, fits in ((64 * K, 16 * K), (8 * K, 8 * K)):
        sender = started(1 / 16)
        sender.window._size, sender.window.mark = size, sender.window.sent + 4 * K
        sender.window._settle()
        sender.send(1.0, size // 2)
        sender.pong(1.5)
        assert sender.window.size == fits


def test_a_rate_above_the_window_is_believed_of_anyone() -> None:
    sender = on_path(0.5)
    sender.sample(0.0, 47 * K, 0.5)
    assert sender.window.size == 47 * K * 2 * 0.75 > 64 * K


@pytest.mark.parametrize(("round_trip", "silence"), [(1 / 16, 0.125), (1 / 128, 0.06)])
def test_measuring_starts_again_after_two_round_trips_of_silence_or_60_ms(
    round_trip: float, silence: float
) -> None:
    for pause, restarts in ((silence, False), (just_after(2 * silence) - silence, True)):
        sender = on_path(round_trip)
        sender.fill(0.0)
        sender.pong(silence, 4)
        assert sender.restarts_measuring(silence + pause) is restarts


def test_measuring_starts_again_when_the_window_was_not_full() -> None:
    sender = on_path(1 / 16)
    sender.send(0.0, 16 * K)
    sender.pong(1 / 16)
    assert sender.restarts_measuring(1 / 16 + 1 / 64)
    sender.pong(0.125)
    sender.fill(0.125)
    sender.pong(0.1875, len(sender.pings))
    assert not sender.restarts_measuring(0.1875 + 1 / 64)
    sender.pong(0.25)
    assert sender.restarts_measuring(0.25 + 1 / 64)


def test_measuring_does_not_start_again_while_a_ping_is_under_way() -> None:
    sender = on_path(0.5)
    sender.send(0.0, 16 * K)
    sender.send(1 / 64, 47 * K)
    sender.pong(33 / 64, 2)
    assert sender.window.size == carried(47 * K / (33 / 64), 0.5) > 64 * K


# The round-trip probe


@pytest.mark.parametrize(("round_trip", "seconds"), [(1 / 16, 10.0), (0.5, 10.0), (1.0, 20.0)])
def test_the_round_trip_is_probed_when_it_was_not_seen_for_ten_seconds_or_twenty_round_trips(
    round_trip: float, seconds: float
) -> None:
    seen = -round_trip
    for now, probes in ((seen + seconds, False), (just_after(seen + seconds), True)):
        sender = on_path(round_trip)
        sender.send(now - round_trip - 1 / 16, 16 * K)
        sender.pong(now)
        assert sender.window.size == (2 * K if probes else 64 * K)


def test_a_round_trip_as_short_as_the_shortest_puts_the_probe_off() -> None:
    for now, probes in ((15.0625, False), (just_after(15.0625), True)):
        sender = on_path(1 / 16)
        sender.send(5.0, 16 * K)
        sender.pong(5.0625)
        sender.send(now - 0.125, 16 * K)
        sender.pong(now)
        assert sender.window.size == (2 * K if probes else 64 * K)


def test_a_shorter_round_trip_is_believed_at_once() -> None:
    sender = started(0.125)
    sender.send(1.0, 16 * K)
    sender.pong(1.0625)
    sender.sample(2.0, 200 * K, 2.25)
    assert sender.window.size == carried(200 * K / 0.25, 1 / 16)


def test_a_probe_ends_with_a_ping_that_had_2_kib_in_flight_at_most() -> None:
    sender = probing()
    sender.send(16.0, 2 * K + 1)
    sender.pong(16.125)
    assert sender.window.size == 2 * K
    sender.send(17.0, 2 * K)
    sender.pong(17.125)
    assert sender.window.size == 64 * K
    # What it has measured replaces the shortest round trip, although it is longer.
    sender.sample(18.0, 200 * K, 18.25)
    assert sender.window.size == carried(200 * K / 0.25, 0.125)


def test_a_probe_ends_with_a_shorter_round_trip() -> None:
    sender = probing()
    sender.send(16.0, 32 * K)
    sender.pong(16.0 + 1 / 32)
    assert sender.window.size == 64 * K


def test_a_probe_begins_in_a_large_window() -> None:
    sender = grown(256 * K)
    sender.send(15.0, 32 * K)
    sender.send(15.0, 31 * K)
    assert len(sender.pings) == 1
    sender.pong(15.125)
    # What is still under way fills the narrow window, and no ping has followed it yet.
    assert sender.window.full
    assert len(sender.pings) == 1
    assert sender.window.mark == sender.window.sent + 1
    sender.pong(15.25)
    assert (sender.window.size, sender.window.in_flight) == (2 * K, 0)
    assert sender.window.mark == sender.window.sent + K
    sender.send(15.25, K)
    sender.pong(15.375)
    assert sender.window.size == 256 * K


def test_a_window_that_is_still_full_after_a_pong_waits_for_the_pings_under_way() -> None:
    sender = on_path(1 / 16)
    sender.fill(0.0)
    sender.send(0.0, 64 * K)
    assert len(sender.pings) == 5
    sender.pong(1 / 16)
    assert sender.window.full
    assert len(sender.pings) == 4


# Patience


def test_patience_lasts_two_seconds_from_the_last_pong_or_the_first_ping_after_a_pause() -> None:
    sender = Sender()
    sender.fill(1.0)
    assert sender.window.patience_left(1.0) == 2.0
    assert sender.window.patience_left(2.5) == 0.5
    sender.pong(1.5)
    assert sender.window.patience_left(1.5) == 2.0
    assert sender.window.patience_left(3.75) == -0.25
    sender.pong(1.5, 3)
    sender.send(8.0, 24 * K)
    assert sender.window.patience_left(8.0) == 2.0


def test_patience_lasts_four_of_the_latest_round_trips_if_these_are_longer() -> None:
    for round_trip, patience in ((0.5, 2.0), (0.75, 3.0), (15.0, 60.0), (16.0, 60.0)):
        sender = Sender()
        sender.fill(1.0)
        sender.pong(1.0 + round_trip)
        assert sender.window.patience_left(1.0 + round_trip) == patience


def test_patience_doubles_each_time_that_it_is_over_until_a_pong_comes() -> None:
    sender = on_path(1 / 16)
    sender.fill(0.0)
    for patience in (4.0, 8.0, 16.0, 32.0, 60.0, 60.0):
        sender.window.expire(8.0)
        assert sender.window.patience_left(8.0) == patience
    sender.pong(1.0, len(sender.pings))
    assert sender.window.patience_left(1.0) == 4.0


def test_as_much_again_may_pass_when_patience_is_over() -> None:
    sender = on_path(1 / 16)
    sender.fill(0.0)
    sender.window.expire(3.0)
    assert (sender.window.size, sender.window.in_flight) == (64 * K, 0)
    assert sender.window.mark == sender.window.sent + 16 * K
    before = sender.window.sent
    sender.fill(3.0)
    assert sender.window.sent == before + 64 * K
    # It lasts twice as long, and only a pong renews it.
    assert sender.window.patience_left(4.0) == 3.0
    sender.pong(3.5, len(sender.pings))
    assert sender.window.patience_left(3.5) == 2.0


def test_a_pong_after_patience_was_over_takes_nothing_back() -> None:
    sender = Sender()
    sender.fill(1.0)
    sender.window.expire(3.0)
    sender.pong(4.0)
    assert (sender.window.size, sender.window.in_flight) == (64 * K, 0)
    # It has answered once: patience that is over again bounds what follows as before.
    sender.window.expire(3.0)
    assert sender.window.size == 64 * K


def test_any_pong_shows_that_an_end_answers_pings() -> None:
    sender = Sender()
    sender.window.pong_received(b"of another ping", 0.0)
    sender.fill(1.0)
    sender.window.expire(3.0)
    assert sender.window.size == 64 * K


def test_an_end_that_has_never_answered_is_not_pinged_and_nothing_bounded() -> None:
    sender = Sender()
    sender.fill(1.0)
    sender.window.expire(3.0)
    assert (sender.window.size, sender.window.quantum) == (64 * K * K, 8 * K * K)
    assert sender.window.mark == sender.window.sent + 8 * K * K
    sender.send(3.0, 100 * K * K)
    assert not sender.window.full
    assert len(sender.pings) == 4
    # Until it does answer: then this window is full, and a ping is due at once.
    sender.pong(5.0, 4)
    assert sender.window.full
    assert len(sender.pings) == 1


# Suspension


def test_nothing_is_bounded_or_pinged_while_suspended() -> None:
    sender = on_path(1 / 16)
    sender.fill(0.0)
    sender.window.suspend()
    assert (sender.window.size, sender.window.quantum) == (64 * K * K, 8 * K * K)
    assert sender.window.mark == sender.window.sent + 8 * K * K
    sender.send(0.0, 100 * K * K)
    assert not sender.window.full
    assert len(sender.pings) == 4
    sender.window.resume()
    assert (sender.window.size, sender.window.in_flight) == (64 * K, 0)
    assert sender.window.mark == sender.window.sent + 16 * K


def test_measuring_starts_again_after_a_suspension_however_short() -> None:
    sender = on_path(1 / 16)
    sender.fill(0.0)
    sender.window.suspend()
    sender.window.resume()
    assert sender.restarts_measuring(1 / 64)
    sender.pings = sender.pings[-1:]
    sender.pong(1 / 64 + 1 / 16)
    assert sender.window.in_flight == 0


def test_a_suspension_ends_a_probe() -> None:
    sender = probing()
    sender.window.suspend()
    sender.window.resume()
    assert sender.window.size == 64 * K
