"""How much may be on its way to the other end of a WebSocket: a bound on bytes in flight.

On a slow path the queue that makes keystrokes wait is not in this process but below it,
in socket buffers and in the network. Pings measure it: frames are read in order, so a
pong says that everything sent before its ping was read (RFC 6455 section 5.5.3). From the
pongs follow the rate at which the other end takes bytes and the round trip of an empty
path; the window is what that rate carries within the round trip and a little more. On a
fast path it is megabytes and never felt.

Pure: no sockets and no clock. ``now`` is any steady clock in seconds that tells more than
milliseconds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

__all__ = ["PATIENCE", "QUEUE_DELAY", "SendWindow"]

QUEUE_DELAY: Final = 0.06
"""Seconds that bytes may wait behind others on a path that is full."""

PATIENCE: Final = 2.0
"""Seconds without a pong after which a full window lets as much pass again.

Nobody has to answer pings, and one who reads nothing answers none: the path's own flow
control rules then.
"""

_LONG_PATH: Final = 1.5
"""Window in round trips where they are long. More than one: a path that has become faster
is noticed only by sending more."""

_START: Final = 64 * 1024
_FLOOR: Final = 16 * 1024
_CEILING: Final = 64 * 1024 * 1024
_MIN_QUANTUM: Final = 4096

_PINGS: Final = 8
"""Pings for each window; with fewer the path runs dry between two pongs."""
_MAX_PINGS: Final = 8 * _PINGS
"""Unanswered pings remembered."""
_SPACING: Final = 16 * 1024
"""Bytes between two pings, unless the window is too small, or so large that fewer do."""

_RATE_SPAN: Final = 0.2
"""Seconds over which a rate is measured, at least: shorter, and what buffers swallow at the
beginning looks like a fast path."""
_RATE_MEMORY: Final = 1.0
"""Seconds for which a measured rate is believed; or four round trips, if they last longer."""
_PATH_MEMORY: Final = 10.0
"""Seconds for which the shortest round trip is believed; or twenty of them."""


@dataclass(frozen=True, slots=True)
class _Ping:
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
        "_believed",
        "_history",
        "_last_news",
        "_last_number",
        "_limited_at",
        "_pings",
        "_probing",
        "_rates",
        "_round_trip",
        "_round_trip_time",
        "_size",
        "_starting",
        "_suspended",
        "mark",
        "sent",
    )

    def __init__(self) -> None:
        self.sent = 0
        """Bytes sent so far; whoever sends adds to it."""
        self.mark = _SPACING
        """Value of :attr:`sent` from which on :meth:`mark_reached` has to be called."""
        self._size = _START
        self._starting = True
        self._acked = 0
        self._pings: deque[_Ping] = deque(maxlen=_MAX_PINGS)
        self._last_number = 0
        self._believed = True
        self._suspended = False
        self._last_news = 0.0
        self._history: deque[tuple[float, int]] = deque()
        self._limited_at = -1
        self._rates: deque[tuple[float, float]] = deque()
        self._round_trip = float("inf")
        self._round_trip_time = 0.0
        self._probing = False

    @property
    def size(self) -> int:
        """Bytes that may be in flight now."""
        if not self._in_force:
            return _CEILING
        return _FLOOR if self._probing else self._size

    @property
    def in_flight(self) -> int:
        """Bytes sent and not known to be read."""
        return self.sent - self._acked

    @property
    def full(self) -> bool:
        """Whether what can wait has to wait for a pong."""
        return self._in_force and self.sent - self._acked >= self.size

    @property
    def quantum(self) -> int:
        """Bytes that one of many senders may send before it is the next one's turn."""
        return max(_MIN_QUANTUM, self.size // _PINGS)

    def mark_reached(self, now: float) -> bytes | None:
        """Set the next mark; return the payload of a ping to send now, if one is due."""
        payload = None
        if self._in_force:
            last = self._pings[-1].position if self._pings else self._acked
            if self.sent - last >= self._spacing or (self.full and not self._pings):
                payload = self._ping(now)
            if self.full:
                self._limited_at = self.sent
        self._set_mark()
        return payload

    def suspend(self) -> None:
        """Bound nothing while the other end is not read: its pongs cannot be seen.

        Otherwise two directions that wait for each other would stand still.
        """
        self._suspended = True
        self._set_mark()

    def resume(self) -> None:
        """Bound what is sent from now on; pongs that were kept waiting tell nothing."""
        self._suspended = False
        self._pings.clear()
        self._history.clear()
        self._acked = self.sent
        self._probing = False
        self._set_mark()

    def patience_left(self, now: float) -> float:
        """Return for how many seconds a full window waits for the next pong."""
        return self._last_news + PATIENCE - now

    def expire(self) -> None:
        """Give up waiting for a pong: take what is in flight for read.

        One who has never answered a ping is asked no more.
        """
        if self._round_trip_time == 0.0:
            self._believed = False
        self._acked = self.sent
        self._last_news = 0.0
        self._set_mark()

    def pong_received(self, payload: bytes, now: float) -> bytes | None:
        """Take a pong; return the payload of a ping to send now, if one is due.

        A pong that answers no ping of this window does nothing.
        """
        ping = self._answered(payload)
        if ping is None:
            return None
        self._believed = True
        self._last_news = now
        self._measure(ping, now)
        self._acked = max(self._acked, ping.position)
        # A window that has become smaller may be full of what no ping followed.
        due = self._ping(now) if self.full and not self._pings else None
        self._set_mark()
        return due

    @property
    def _in_force(self) -> bool:
        return self._believed and not self._suspended

    @property
    def _spacing(self) -> int:
        return max(min(_SPACING, self.size // 2), self.size // _PINGS)

    def _set_mark(self) -> None:
        last = self._pings[-1].position if self._pings else self._acked
        self.mark = max(self.sent + 1, min(last + self._spacing, self._acked + self.size))

    def _ping(self, now: float) -> bytes:
        if not self._pings:
            self._resume(now)
        self._last_number += 1
        ping = _Ping(self._last_number, self.sent, now, self.in_flight)
        self._pings.append(ping)
        return b"w%d" % ping.number

    def _resume(self, now: float) -> None:
        """Begin to measure anew, unless it was only the window that kept data back."""
        was_idle = now - self._last_news > max(QUEUE_DELAY, 2 * self._round_trip)
        if was_idle or not self._history or self._limited_at < self._acked:
            self._history.clear()
            self._history.append((now, self.sent))
            self._last_news = now

    def _answered(self, payload: bytes) -> _Ping | None:
        """Drop the pings that a pong answers, its own and all before; return the last."""
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
        self._note_round_trip(ping, now)
        queued = now - ping.time - self._round_trip
        if self._starting:
            self._start_up(ping, queued)
        begin, base = self._beginning(ping, now)
        self._history.append((now, ping.position))
        if begin == now:
            return
        round_trip = now - ping.time
        rate = (ping.position - base) / (now - begin)
        window = self._fitting(self._best_rate(rate, now, max(_RATE_MEMORY, 4 * round_trip)))
        shrinks = base <= self._limited_at or queued > 2 * QUEUE_DELAY
        if window > self._size or (shrinks and not self._starting):
            self._size = window

    def _start_up(self, ping: _Ping, queued: float) -> None:
        """Double the window with each round trip until a queue shows (RFC 9406)."""
        if queued > QUEUE_DELAY / 2:
            self._starting = False
        elif self._acked <= self._limited_at:
            self._size = min(_CEILING, self._size + max(0, ping.position - self._acked))

    def _beginning(self, ping: _Ping, now: float) -> tuple[float, int]:
        """Return since when the rate can be told, and what had been read then.

        That is before the ping was sent: bytes that were already on their way do not
        tell what the path carries. ``now`` itself if it is too early to tell.
        """
        history = self._history
        latest = min(ping.time, now - _RATE_SPAN)
        while len(history) > 1 and history[1][0] <= latest:
            history.popleft()
        return history[0] if history[0][0] <= latest else (now, ping.position)

    def _best_rate(self, rate: float, now: float, memory: float) -> float:
        """Return the highest rate of late, ``rate`` being the latest."""
        rates = self._rates
        while rates and rates[-1][1] <= rate:
            rates.pop()
        rates.append((now, rate))
        while rates[0][0] < now - memory:
            rates.popleft()
        return rates[0][1]

    def _fitting(self, rate: float) -> int:
        time = max(self._round_trip + QUEUE_DELAY, _LONG_PATH * self._round_trip)
        return max(_FLOOR, min(_CEILING, int(rate * time)))

    def _note_round_trip(self, ping: _Ping, now: float) -> None:
        """Keep the shortest round trip, and see to it that it is measured again and again.

        With a queue that never empties it cannot be, so the window is narrowed for as
        long as that takes.
        """
        round_trip = now - ping.time
        is_clean = self._probing and ping.in_flight <= _FLOOR
        if round_trip <= self._round_trip or is_clean:
            self._round_trip, self._round_trip_time = round_trip, now
            self._probing = False
        elif now - self._round_trip_time > max(_PATH_MEMORY, 20 * self._round_trip):
            self._probing = True
