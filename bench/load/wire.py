"""A network cable with a delay, a rate and losses, for kernels without ``netem``.

Two ``tun`` devices, one for each network namespace, and this process between them:
what one kernel sends as packets is read here, kept for a while or dropped, and handed
to the other. TCP on both sides is the kernel's own, so it sees real round-trip times
and real losses.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import struct
import time
from collections import deque
from typing import Final

from .loop import Loop

__all__ = ["Wire"]

_TICK: Final = 0.001
_BATCH: Final = 64
"""Packets read from one device before the other one's turn."""
_MAX_PACKET: Final = 65_535

_TUNSETIFF: Final = 0x400454CA
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000


class Wire:
    """Both directions of the cable."""

    def __init__(self, loop: Loop, names: list[str]) -> None:
        ends = [_device(name) for name in names]
        self._ways = [_Way(ends[0], ends[1]), _Way(ends[1], ends[0])]
        for end, way in zip(ends, self._ways, strict=True):
            loop.watch(end, select.EPOLLIN, way.readable)
        loop.every(_TICK, self._deliver)

    def set(self, *, delay: float, rate: float, loss: float, queue: float) -> None:
        """Set one-way delay (s), rate (bytes/s), share of lost packets, queue (s at the rate)."""
        for way in self._ways:
            way.delay, way.rate, way.loss, way.queue = delay, rate, loss, queue

    def counts(self) -> dict[str, int]:
        """Return packets carried, lost by chance, and dropped because the queue was full."""
        return {
            "carried": sum(way.carried for way in self._ways),
            "lost": sum(way.lost for way in self._ways),
            "dropped": sum(way.dropped for way in self._ways),
        }

    def _deliver(self) -> None:
        for way in self._ways:
            way.deliver()


class _Way:
    """One direction: a queue in front of the wire, and the packets on it."""

    def __init__(self, source: int, sink: int) -> None:
        self._source = source
        self._sink = sink
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._free_at = 0.0
        self._chance = random.Random(sink)
        self.delay = 0.0
        self.rate = 1e9
        self.loss = 0.0
        self.queue = 1.0
        self.carried = self.lost = self.dropped = 0

    def readable(self, events: int) -> None:
        """Take packets from the kernel."""
        now = time.monotonic()
        for _ in range(_BATCH):
            try:
                packet = os.read(self._source, _MAX_PACKET)
            except BlockingIOError:
                return
            if self._free_at - now > self.queue:
                self.dropped += 1
                continue
            self._free_at = max(self._free_at, now) + len(packet) / self.rate
            if self.loss and self._chance.random() < self.loss:
                self.lost += 1
                continue
            self._under_way.append((self._free_at + self.delay, packet))

    def deliver(self) -> None:
        """Hand over the packets that have arrived by now."""
        now = time.monotonic()
        under_way = self._under_way
        while under_way and under_way[0][0] <= now:
            packet = under_way.popleft()[1]
            try:
                os.write(self._sink, packet)
                self.carried += 1
            except OSError:  # the device's own queue is full, or it is down
                self.dropped += 1


def _device(name: str) -> int:
    """Make a ``tun`` device without packet headers of its own."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return fd
