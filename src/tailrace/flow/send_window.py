"""The send window of a WebSocket: a bound on the bytes in flight to the other end.

Why. On a slow path the queue that makes a keystroke wait is not in this process but below
it: in the socket's send buffer, which the kernel lets grow to megabytes, and in the network.
TCP fills that queue for as long as we write, and what is in it can no longer be overtaken.
So bulk data waits here, where interactive data can go ahead of it, and only as much is on
its way as keeps the path busy. On a fast path that is megabytes, and never felt.

Acknowledgements. TCP's are the kernel's; ours are pongs. Frames are read in order and a pong
repeats the payload of its ping, so it says that everything sent before the ping was read.
An end that finds several pings may answer the last one only, so a pong answers all earlier
pings too (RFC 6455 sections 5.5.2 and 5.5.3).

Model. The path is the one of BBR (Cardwell, Cheng, Gunn, Yeganeh, Jacobson: "BBR:
Congestion-Based Congestion Control", ACM Queue 14(5), 2016): a pipe of some rate and some
round trip. Neither can be seen at the same time as the other, because a window that is large
enough to show the rate makes a queue, and a queue hides the round trip. So each is the best
sample of its own period:

    rate        the highest of the last second (there: BtlBw, the maximum of ten round trips);
    round trip  the shortest of the last ten seconds (there: RTprop, the same).

Rate times round trip fills the pipe without a queue. The window is a little more, so that
the far end never waits for us and a path that has become faster shows it:

    window = rate * max(round trip + QUEUE_DELAY, 1.5 * round trip)

Rules.

1. Start-up. The window begins at half a second of 64 kbit/s, and after a ping that had nothing
   before it. As long as the window is what holds data back, it grows by twice what each pong
   acknowledges, so it trebles with each round trip (BBR: 2.89 times). Start-up ends for good with
   the first sign of a queue, half of QUEUE_DELAY above the shortest round trip: slow start that
   is left because of the delay, as in HyStart++ (RFC 9406). Before, no rate makes the window
   smaller. A window also holds data back that is never full: turns are a part of it, and where a
   round trip is no longer than a few turns of the loop, as it is within one machine, pongs come
   before as many turns as fill it. So a turn that was used up counts as well (as in Linux, whose
   slow start goes on with half a window in flight: ``tcp_is_cwnd_limited``).
2. Rate. A sample spans a round trip at least, from before its ping was sent: what was on its
   way by then says nothing about the path. And it spans 0.2 s at least: over less, what buffers
   swallow at the beginning looks like a fast path.
3. Application-limited samples. A sender with little data shows how little that is, not what
   the path carries. Such a sample may raise the window but not lower it (BBR's rule for
   app-limited samples), unless a queue of twice QUEUE_DELAY has built up all the same; and
   then not to less than 16 KiB, as a pause of a processor is no slow path. And after silence,
   or when neither the window was full nor a turn used up, measuring starts again with the next
   ping.
4. Round-trip probe. If no round trip as short as the shortest was seen for ten seconds (or
   twenty round trips), a queue that never empties may hide what the path has become. The
   window is narrowed to its minimum until a ping has travelled with no more than that in
   flight; what that ping measures replaces the old value (BBR's ProbeRTT).
5. Patience. An end that reads nothing answers no ping. If a full window has waited two seconds
   for a pong, or four of the latest round trips, as much again may pass: the path's own flow
   control rules then. Each time in a row, patience lasts twice as long, or a link that leads
   to a slower one would fill what buffers lie between. An end that has sent no pong at all is
   not pinged any more, and nothing is bounded, until it does.
6. Suspension. While the other end is not read, its pongs cannot be seen, and nothing is
   bounded: otherwise two full directions would wait for each other.

Invariant: while the window is full, a ping is under way. Its pong, or patience, opens it.

What this is not. Data goes out when the window allows, without BBR's pacing: TCP below paces
it, and has its own congestion window. Losses are TCP's business too.

Pure: no sockets and no clock. ``now`` is any steady clock in seconds that resolves much less
than a millisecond.
"""

from __future__ import annotations

import math
from collections import deque
from enum import Enum
from typing import Final, NamedTuple

__all__ = ["PATIENCE", "QUEUE_DELAY", "SendWindow"]

QUEUE_DELAY: Final = 0.06
"""Seconds that bytes may wait behind others on a path that is full."""

PATIENCE: Final = 2.0
"""Seconds without a pong after which a full window lets as much pass again, at first."""

_MAX_PATIENCE: Final = 60.0
"""Seconds that patience grows to."""

_LONG_PATH: Final = 1.5
"""Window in round trips where they are long. More than one: a path that has become faster
is noticed only by sending more."""

_START: Final = 4 * 1024
"""Bytes of the window before anything is known of the path."""
_FLOOR: Final = 2 * 1024
"""Bytes of the smallest window, and of the window while the round trip is probed."""
_LIMITED_FLOOR: Final = 16 * 1024
"""Bytes below which a window is not made smaller by what a sender with little data showed."""
_CEILING: Final = 64 * 1024 * 1024
"""Bytes of the largest window."""
_MIN_QUANTUM: Final = 1024
"""Bytes of the shortest turn: in shorter ones, headers and calls would count for too much."""

_PINGS: Final = 8
"""Pings for each window; with fewer the path runs dry between two pongs."""
_MAX_PINGS: Final = 8 * _PINGS
"""Unanswered pings remembered."""
_SPACING: Final = 16 * 1024
"""Bytes between two pings, unless the window is too small, or so large that fewer do."""

_RATE_SPAN: Final = 0.2
"""Seconds over which a rate is measured, at least (rule 2)."""
_RATE_MEMORY: Final = 1.0
"""Seconds for which a measured rate is believed; or four of the shortest round trips, if they
last longer. Not of the latest: a queue would make a rate that has built it up last."""
_PATH_MEMORY: Final = 10.0
"""Seconds for which the shortest round trip is believed; or twenty of them."""


class _FarEnd(Enum):
    """What is known of the other end (rule 5)."""

    UNKNOWN = "no pong yet"
    ANSWERS = "answers pings"
    SILENT = "has not answered in time, and is not pinged"


# To look a member up in its class costs as much as the rest of a question like "is it full?".
_UNKNOWN, _ANSWERS, _SILENT = _FarEnd


class _Ping(NamedTuple):
    number: int
    position: int
    """Bytes sent before it."""
    time: float
    in_flight: int
    """Bytes in flight when it was sent."""


class SendWindow:
    """The bytes in flight on one link, and the bound on them.

    Add what is sent to :attr:`sent`; when that reaches :attr:`mark`, call
    :meth:`mark_reached` and send the ping it returns. While the window is :attr:`full`,
    send nothing that can wait.
    """

    __slots__ = (
        "_acked",
        "_far_end",
        "_history",
        "_in_force",
        "_last_news",
        "_last_number",
        "_limited_at",
        "_patience",
        "_pings",
        "_probing",
        "_rates",
        "_round_trip",
        "_round_trip_time",
        "_size",
        "_spacing",
        "_starting",
        "_suspended",
        "_used_up_at",
        "mark",
        "quantum",
        "sent",
        "size",
    )

    def __init__(self) -> None:
        self.sent = 0
        """Bytes sent so far; the sender adds to it."""
        self.mark = _START // 2
        """Value of :attr:`sent` from which on :meth:`mark_reached` has to be called."""
        self._size = _START
        """What was found to fit the path."""
        self._starting = True
        self._acked = 0
        """Bytes known to be read."""
        self._pings: deque[_Ping] = deque(maxlen=_MAX_PINGS)
        """Pings under way, oldest first; their numbers have no gaps."""
        self._last_number = 0
        self._far_end = _UNKNOWN
        self._patience = PATIENCE
        """Seconds that a full window waits for a pong."""
        self._suspended = False
        self._last_news = 0.0
        """When the last pong came, patience ran out, or measuring started again."""
        self._history: deque[tuple[float, int]] = deque()
        """Times, and the bytes read by then: where rate samples may begin."""
        self._limited_at = -1
        """Value of :attr:`sent` when the window was last seen full: what was sent up to there
        was held back by the window and not by a lack of data."""
        self._used_up_at = -1
        """Value of :attr:`sent` when a turn was last used up: there may have been more to send."""
        self._rates: deque[tuple[float, float]] = deque()
        """Times and rates, ascending in time and descending in rate: the first is the highest,
        and what is both older and lower than another can never be."""
        self._round_trip = math.inf
        """Seconds of the shortest round trip; infinite until a ping is answered."""
        self._round_trip_time = 0.0
        """When the shortest round trip was last seen."""
        self._probing = False
        # What follows from all that, and is asked for more often than it changes.
        self._in_force = True
        """Whether anything is bounded."""
        self.size = _START
        """Bytes that may be in flight now."""
        self.quantum = 0
        """Bytes that one of many senders may send before it is the next one's turn."""
        self._spacing = 0
        """Bytes between two pings."""
        self._settle()

    @property
    def in_flight(self) -> int:
        """Bytes sent and not known to be read."""
        return self.sent - self._acked

    @property
    def full(self) -> bool:
        """Whether bulk data has to wait for a pong."""
        return self.sent - self._acked >= self.size and self._in_force

    def turn_used_up(self) -> None:
        """Note that as many bytes were sent at once as a turn has; before :meth:`mark_reached`."""
        self._used_up_at = self.sent

    def begin(self, now: float) -> bytes:
        """Return the payload of a ping to send before the first bytes (rule 1)."""
        return self._ping(now)

    def mark_reached(self, now: float) -> bytes | None:
        """Set the next mark; return the payload of a ping to send now, if one is due."""
        payload = None
        if self._in_force:
            sent = self.sent
            last = self._pings[-1].position if self._pings else self._acked
            is_full = sent - self._acked >= self.size
            # What fills the window is not to wait for the pong of what came before it.
            if sent - last >= (self._spacing // 4 if is_full else self._spacing):
                payload = self._ping(now)
            if is_full:
                self._limited_at = sent
        self._set_mark()
        return payload

    def suspend(self) -> None:
        """Bound nothing until :meth:`resume`: the other end is not read, nor are its pongs."""
        self._suspended = True
        self._settle()
        self._set_mark()

    def resume(self) -> None:
        """Bound what is sent from now on, after :meth:`suspend`."""
        self._suspended = False
        # Pongs that waited to be read say nothing about the path, nor does what was sent
        # without a bound.
        self._pings.clear()
        self._history.clear()
        self._acked = self.sent
        self._probing = False
        self._settle()
        self._set_mark()

    def patience_left(self, now: float) -> float:
        """Return how many more seconds a full window waits for a pong; 0 or less if overdue."""
        return self._last_news + self._patience - now

    def expire(self, now: float) -> None:
        """Give up waiting for a pong, when no patience is left: count all as read.

        If no pong has ever come, stop pinging and bound nothing.
        """
        if self._far_end is _UNKNOWN:
            self._far_end = _SILENT
            self._settle()
        self._patience = min(_MAX_PATIENCE, 2 * self._patience)
        self._last_news = now
        self._acked = self.sent
        self._set_mark()

    def pong_received(self, payload: bytes, now: float) -> bytes | None:
        """Handle a pong; return the payload of a ping to send now, if one is due.

        A pong that answers no ping of this window only shows that this end sends pongs.
        """
        if self._far_end is not _ANSWERS:
            self._far_end = _ANSWERS
            self._settle()
        ping = self._answered(payload)
        if ping is None:
            return None
        self._last_news = now
        self._measure(ping, now)
        self._settle()
        # A late pong may be older than the last time that patience ran out.
        if ping.position > self._acked:
            self._acked = ping.position
        # The invariant: a window that has just become smaller may be full of data that no ping
        # has followed yet.
        due = self._ping(now) if not self._pings and self.full else None
        self._set_mark()
        return due

    def _settle(self) -> None:
        """Work out again what follows from the state; to be called when that has changed."""
        self._in_force = self._far_end is not _SILENT and not self._suspended
        size = _CEILING if not self._in_force else _FLOOR if self._probing else self._size
        self.size = size
        part = size // _PINGS
        self.quantum = part if part > _MIN_QUANTUM else _MIN_QUANTUM
        small = size // 2
        if small > _SPACING:
            small = _SPACING
        self._spacing = part if part > small else small

    def _set_mark(self) -> None:
        # The next ping is due, or the window full, whichever comes first.
        last = self._pings[-1].position if self._pings else self._acked
        ping_due, full = last + self._spacing, self._acked + self.size
        mark = ping_due if ping_due < full else full
        self.mark = mark if mark > self.sent else self.sent + 1

    def _ping(self, now: float) -> bytes:
        if not self._pings:
            self._start_measuring(now)
        self._last_number += 1
        ping = _Ping(self._last_number, self.sent, now, self.in_flight)
        self._pings.append(ping)
        return b"w%d" % ping.number

    def _start_measuring(self, now: float) -> None:
        """Start to measure again, unless only the window has held data back (rule 3)."""
        was_idle = now - self._last_news > max(QUEUE_DELAY, 2 * self._round_trip)
        held_back_at = max(self._limited_at, self._used_up_at)
        if was_idle or not self._history or held_back_at < self._acked:
            # What is under way counts as read: it is only what this ping follows.
            self._history.clear()
            self._history.append((now, self.sent))
            self._last_news = now

    def _answered(self, payload: bytes) -> _Ping | None:
        """Drop the pings that a pong answers, its own and all earlier; return its own."""
        number = payload[1:]
        if payload[:1] != b"w" or not number.isdigit() or not self._pings:
            return None
        if not self._pings[0].number <= int(number) <= self._last_number:
            return None
        while True:
            ping = self._pings.popleft()
            if ping.number == int(number):
                return ping

    def _measure(self, ping: _Ping, now: float) -> None:
        # 1. The round trip, and the part of it that was a queue.
        self._note_round_trip(ping, now)
        round_trip = now - ping.time
        queued = round_trip - self._round_trip
        patience = 4 * round_trip
        self._patience = PATIENCE if patience < PATIENCE else min(_MAX_PATIENCE, patience)
        # 2. In start-up the window grows without a rate.
        if self._starting:
            self._start_up(ping, queued)
        # 3. A rate, unless it is too early for one.
        begin = self._sample_begin(ping, now)
        self._history.append((now, ping.position))
        if begin is None:
            return
        since, base = begin
        rate = (ping.position - base) / (now - since)
        window = self._fitting(self._best_rate(rate, now))
        # 4. The window: more is believed at once, less only where data was held back.
        if window > self._size or (base <= self._limited_at and not self._starting):
            self._size = window
        elif queued > 2 * QUEUE_DELAY and not self._starting:
            self._size = max(window, min(self._size, _LIMITED_FLOOR))

    def _start_up(self, ping: _Ping, queued: float) -> None:
        """Treble the window with each round trip until a queue shows (RFC 9406)."""
        if queued > QUEUE_DELAY / 2:
            self._starting = False
        elif self._acked <= max(self._limited_at, self._used_up_at):
            self._size = min(_CEILING, self._size + 2 * max(0, ping.position - self._acked))

    def _sample_begin(self, ping: _Ping, now: float) -> tuple[float, int] | None:
        """Return a time from which a rate can be measured, and the bytes read by then.

        It is the latest that is before the ping was sent and long enough ago; ``None`` if
        there is none yet. Drops what is older.
        """
        history = self._history
        latest = now - _RATE_SPAN
        if ping.time < latest:
            latest = ping.time
        while len(history) > 1 and history[1][0] <= latest:
            history.popleft()
        return history[0] if history[0][0] <= latest else None

    def _best_rate(self, rate: float, now: float) -> float:
        """Return the highest rate that is still believed, ``rate`` being the latest."""
        rates = self._rates
        memory = 4 * self._round_trip
        if memory < _RATE_MEMORY:
            memory = _RATE_MEMORY
        while rates and rates[-1][1] <= rate:
            rates.pop()
        rates.append((now, rate))
        while rates[0][0] < now - memory:
            rates.popleft()
        return rates[0][1]

    def _fitting(self, rate: float) -> int:
        """Return the window for a rate in bytes a second, on a path of this round trip."""
        time, on_long_path = self._round_trip + QUEUE_DELAY, _LONG_PATH * self._round_trip
        window = int(rate * (on_long_path if on_long_path > time else time))
        return _FLOOR if window < _FLOOR else _CEILING if window > _CEILING else window

    def _note_round_trip(self, ping: _Ping, now: float) -> None:
        """Keep the shortest round trip; begin or end a probe of it (rule 4)."""
        round_trip = now - ping.time
        is_clean = self._probing and ping.in_flight <= _FLOOR
        if round_trip <= self._round_trip or is_clean:
            self._round_trip, self._round_trip_time = round_trip, now
            self._probing = False
        elif now - self._round_trip_time > max(_PATH_MEMORY, 20 * self._round_trip):
            self._probing = True
