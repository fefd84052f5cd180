"""``python -m bench.load``: one JSON command a line in, one JSON answer a line out.

``{"do": NAME, ...}`` is answered with the results of what :class:`_Commands` has under
that name, or with ``{"error": TEXT}``. The end of standard input ends the process.
"""

from __future__ import annotations

import gc
import json
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from .link import IdleLinks
from .loop import Loop
from .pings import Crowd, connects, echo, round_trips
from .throttle import Throttle
from .transfers import ENDLESS, Sink, Transfer

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

    def readable(events: int) -> None:
        line = sys.stdin.buffer.readline()
        if line:
            print(json.dumps(commands.obey(json.loads(line))), flush=True)
        else:
            loop.stop()

    loop.watch(sys.stdin.fileno(), select.EPOLLIN, readable)
    loop.run()
    return 0


class _Commands:
    """What a load generator can do."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._sink: Sink
        self._mover: Sink | Transfer
        self._link: Throttle
        self._idle: IdleLinks
        crowd = Crowd()
        self._by_name: dict[str, Callable[..., Answer]] = {
            # applications
            "sink": self._be_sink,
            "echo": self._be_echo,
            "hold": self._hold,
            # clients
            "transfer": self._transfer,
            "progress": self._progress,
            "release": self._release,
            "wait": self._wait,
            "round_trips": round_trips,
            "connects": connects,
            "crowd": crowd.open,
            "crowd_echo": crowd.echo,
            # a slow link, and proxies that have nothing to do
            "link": self._be_link,
            "lead_to": self._lead_to,
            "idle": self._open_idle,
            "idle_lost": self._count_lost,
        }

    def obey(self, command: dict[str, Any]) -> Answer:
        """Carry out a command."""
        do = self._by_name[command.pop("do")]
        if "address" in command:
            command["address"] = tuple(command["address"])
        try:
            return do(**command)
        except (OSError, ValueError) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def _be_sink(self) -> Answer:
        """Be the application of transfers."""
        self._mover = self._sink = Sink(self._loop)
        return {"port": self._sink.port}

    def _be_echo(self) -> Answer:
        """Be an echo."""
        return {"port": echo(self._loop)}

    def _hold(self) -> Answer:
        """Do not receive transfers that begin from now on."""
        self._sink.holds = True
        return {}

    def _transfer(
        self,
        addresses: list[list[Any]],
        direction: str,
        size: int = ENDLESS,
        check: bool = False,
        held: bool = False,
    ) -> Answer:
        """Open a transfer's connections, one for each address, and start it."""
        targets = [(host, port) for host, port in addresses]
        self._mover = Transfer(self._loop, targets, direction, size=size, check=check, held=held)
        return {}

    def _progress(self) -> Answer:
        """Return the bytes that this end has moved."""
        return {"now": time.monotonic(), "moved": self._mover.moved}

    def _release(self) -> Answer:
        """Receive what was held."""
        self._mover.release()
        return {}

    def _wait(self) -> Answer:
        """Wait for the end of the transfer and return what was measured."""
        transfer = self._mover
        assert isinstance(transfer, Transfer)
        moved = -1
        try:
            while not self._loop.run(lambda: not transfer.open, _STANDSTILL):
                if transfer.moved == moved:
                    raise ConnectionError(f"the transfer has stood still for {_STANDSTILL:g} s")
                moved = transfer.moved
            return transfer.result()
        finally:
            transfer.close()

    def _be_link(self, rate: float) -> Answer:
        """Be a slow link of ``rate`` bytes a second each way."""
        self._link = Throttle(self._loop, rate)
        return {}

    def _lead_to(self, address: tuple[str, int]) -> Answer:
        """Lead connections to an address over the slow link."""
        return {"port": self._link.lead_to(address)}

    def _open_idle(self, **options: Any) -> Answer:
        """Open links that do nothing but ping."""
        self._idle = IdleLinks(self._loop, **options)
        return {}

    def _count_lost(self) -> Answer:
        """Return how many links the service has ended."""
        return {"lost": self._idle.lost}


if __name__ == "__main__":
    sys.exit(main())
