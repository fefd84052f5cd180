"""The program of a load generator: one JSON command a line in, one JSON answer a line out.

``{"do": NAME, ...}`` is answered with the results of :class:`_Commands`' method of that
name, or with ``{"error": TEXT}``. The end of standard input ends the process.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

from .crowd import Crowd
from .echo import Echo
from .idle import IdleLinks
from .loop import Loop
from .pings import connects, crowded_connects, round_trips
from .throttle import Throttle
from .transfers import ENDLESS, Direction, Sink, Transfer
from .wire import Wire

__all__ = ["main"]

Answer = dict[str, Any]

_STANDSTILL: Final = 20.0
"""Seconds without a byte after which a transfer is given up."""


def main() -> int:
    """Serve commands until standard input ends."""
    # Nobody wants to measure the collections and signals of the measuring process.
    gc.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    loop = Loop()
    commands = _Commands(loop)
    pending = bytearray()

    def readable(events: int) -> None:
        data = os.read(sys.stdin.fileno(), 65_536)
        pending.extend(data)
        if not data:
            loop.stop()
        while (end := pending.find(b"\n")) >= 0:
            line = bytes(pending[:end])
            del pending[: end + 1]
            answer = _answer(commands, json.loads(line))
            os.write(sys.stdout.fileno(), json.dumps(answer).encode() + b"\n")

    loop.watch(sys.stdin.fileno(), select.EPOLLIN, readable)
    loop.run()
    return 0


def _answer(commands: _Commands, command: dict[str, Any]) -> Answer:
    method: Callable[..., Answer] = getattr(commands, command.pop("do"))
    try:
        return method(**command)
    except (OSError, ValueError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


class _Commands:
    """What a load generator can do."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._sink: Sink | None = None
        self._transfer: Transfer | None = None
        self._crowd: Crowd | None = None
        self._throttle: Throttle | None = None
        self._wire: Wire | None = None
        self._idle: IdleLinks | None = None

    # Applications

    def sink(self, host: str) -> Answer:
        """Be the application of transfers."""
        self._sink = Sink(self._loop, host)
        return {"port": self._sink.port}

    def echo(self, host: str) -> Answer:
        """Be an echo."""
        return {"port": Echo(self._loop, host).port}

    def hold(self) -> Answer:
        """Do not read transfers that come from now on."""
        assert self._sink is not None
        self._sink.holds = True
        return {}

    # Clients

    def transfer(
        self,
        addresses: list[list[Any]],
        direction: str,
        size: int = ENDLESS,
        check: bool = False,
        held: bool = False,
    ) -> Answer:
        """Open a transfer's connections, one for each address, and start it."""
        way = Direction[direction.upper()]
        targets = [(host, port) for host, port in addresses]
        self._transfer = Transfer(self._loop, targets, way, size=size, check=check, held=held)
        self._transfer.start()
        return {}

    def progress(self) -> Answer:
        """Return the bytes that this end has moved."""
        mover = self._transfer or self._sink
        assert mover is not None
        return mover.progress()

    def release(self) -> Answer:
        """Read what was held."""
        mover = self._transfer or self._sink
        assert mover is not None
        mover.release()
        return {}

    def wait(self) -> Answer:
        """Wait for the end of the transfer and return what was measured."""
        transfer = self._transfer
        assert transfer is not None
        moved = -1.0
        while not self._loop.run(lambda: transfer.is_over, _STANDSTILL):
            now = transfer.progress()
            if now["sent"] + now["received"] == moved:
                self.drop()
                raise ConnectionError(f"the transfer has stood still for {_STANDSTILL:g} s")
            moved = now["sent"] + now["received"]
        result = transfer.result()
        self.drop()
        return result

    def drop(self) -> Answer:
        """Close the transfer's connections."""
        if self._transfer is not None:
            self._transfer.close()
            self._transfer = None
        return {}

    def round_trips(self, host: str, port: int, **options: Any) -> Answer:
        """Measure round trips on one connection."""
        return dict(round_trips((host, port), **options))

    def connects(
        self, host: str, port: int, seconds: float, count: int, at_once: int = 1
    ) -> Answer:
        """Measure short connections."""
        if at_once == 1:
            return dict(connects((host, port), seconds=seconds, count=count))
        return dict(
            crowded_connects(
                self._loop, (host, port), seconds=seconds, count=count, at_once=at_once
            )
        )

    def crowd(self, host: str, port: int, count: int, budget: float) -> Answer:
        """Let the crowd grow to ``count`` connections."""
        if self._crowd is None:
            self._crowd = Crowd(self._loop, (host, port))
        return dict(self._crowd.grow(count, budget))

    def crowd_echo(self, size: int, rounds: int, budget: float) -> Answer:
        """Let everybody in the crowd send and check the answers."""
        assert self._crowd is not None
        return dict(self._crowd.echo(size, rounds, budget))

    def crowd_close(self) -> Answer:
        """Close the crowd's connections."""
        assert self._crowd is not None
        self._crowd.close()
        return {}

    # What lies on the way

    def throttle(self, host: str, rate: float) -> Answer:
        """Be a slow link of ``rate`` bytes a second each way."""
        self._throttle = Throttle(self._loop, host, rate)
        return {}

    def throttle_to(self, host: str, port: int) -> Answer:
        """Lead connections to an address over the slow link."""
        assert self._throttle is not None
        return {"port": self._throttle.lead_to((host, port))}

    def wire(self, names: list[str]) -> Answer:
        """Make two network devices and carry packets between them."""
        self._wire = Wire(self._loop, names)
        return {}

    def wire_set(self, delay: float, rate: float, loss: float, queue: float) -> Answer:
        """Set what the wire does to packets."""
        assert self._wire is not None
        self._wire.set(delay=delay, rate=rate, loss=loss, queue=queue)
        return {}

    def wire_counts(self) -> Answer:
        """Return the packets carried and dropped."""
        assert self._wire is not None
        return dict(self._wire.counts())

    # Proxies that have nothing to do

    def idle(self, endpoint: str, ca_file: str, period: float) -> Answer:
        """Get ready to hold links that do nothing but ping every ``period`` seconds."""
        self._idle = IdleLinks(self._loop, endpoint, ca_file, period)
        return {}

    def idle_open(self, tokens: list[list[str]]) -> Answer:
        """Open a link for each pair of mode and token."""
        assert self._idle is not None
        return dict(self._idle.open([(mode, token) for mode, token in tokens]))

    def idle_check(self) -> Answer:
        """Return how many links are open and how many pongs have come."""
        assert self._idle is not None
        return dict(self._idle.counts())
