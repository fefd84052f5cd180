"""Keystrokes next to a bulk transfer over a slow link.

Nothing here looks at the clock: what a keystroke has to wait for is told by the bytes
of the bulk transfer that arrive between it and its echo.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from support.network.applications import application, check_echo, client, echo, noise
from support.network.sockets import Streams
from support.service import ServiceProcess
from support.tunnel import both_proxies, tunnel_of
from support.waiting import until
from tailrace.testing.middlebox import middlebox
from tailrace.wire import Side


@dataclass(frozen=True)
class SlowLink:
    rate: int
    """Bytes a second."""
    before: int
    """Bytes by which the transfer has found its pace."""
    keystrokes: int
    queue: int
    """Bytes that a keystroke and its echo may have to wait for. Socket buffers hold more."""
    of_all: Callable[[list[int]], float]
    """Which of the keystrokes counts."""


AWS = SlowLink(800_000, 1_600_000, 20, 300_000, statistics.median)
"""What AWS allows a tunnel."""
MODEM = SlowLink(8_000, 1, 5, 24_000, max)
"""64 kbit/s, from the first byte on: three seconds."""


class Transfer:
    """A bulk transfer that goes on until it is cut off."""

    def __init__(self) -> None:
        self.arrived = 0

    async def send(self, streams: Streams) -> None:
        block = noise(64 * 1024)
        while True:
            streams[1].write(block)
            await streams[1].drain()

    async def receive(self, streams: Streams) -> None:
        while data := await streams[0].read(65_536):
            self.arrived += len(data)


@pytest.mark.parametrize("link", [AWS, MODEM], ids=["AWS", "modem"])
@pytest.mark.parametrize("slow", list(Side))
@pytest.mark.parametrize("way", ["up", "down"])
async def test_keystrokes_do_not_wait_behind_bulk(
    service: ServiceProcess, way: str, slow: Side, link: SlowLink
):
    transfer = Transfer()

    async def bulk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        streams = (reader, writer)
        await (transfer.receive(streams) if way == "up" else transfer.send(streams))

    with tunnel_of(service, "BULK", "KEYS") as tunnel:
        async with application(bulk) as bulk_app, application(echo) as echo_app:
            near = tunnel.settings(Side.SOURCE)
            far = tunnel.settings(Side.DESTINATION, services={"BULK": bulk_app, "KEYS": echo_app})
            async with middlebox(near, rate=link.rate) as box:
                if slow is Side.SOURCE:
                    near = box.behind(near)
                else:
                    far = box.behind(far)
                async with (
                    both_proxies(near, far) as ends,
                    client(ends.listening["KEYS"]) as keys,
                    client(ends.listening["BULK"]) as streams,
                ):
                    work = transfer.send(streams) if way == "up" else transfer.receive(streams)
                    task = asyncio.get_running_loop().create_task(work)
                    await until(lambda: transfer.arrived >= link.before, "the transfer")
                    waits = []
                    for number in range(link.keystrokes):
                        before = transfer.arrived
                        await check_echo(keys, b"%d" % number)
                        waits.append(transfer.arrived - before)
                    task.cancel()
                    # What its buffers hold would take a minute to be sent.
                    streams[1].transport.abort()
    assert link.of_all(waits) < link.queue


async def test_two_directions_do_not_wait_for_each_other(
    service: ServiceProcess, monkeypatch: pytest.MonkeyPatch
):
    """Both are full, so neither end reads for a while, and then it sees no pongs."""
    for module in ("flow.send_window", "flow.window_driver"):
        monkeypatch.setattr(f"tailrace.{module}.PATIENCE", 3600.0)
    with tunnel_of(service, "ECHO") as tunnel:
        async with application(echo) as app:
            near = tunnel.settings(Side.SOURCE)
            far = tunnel.settings(Side.DESTINATION, services={"ECHO": app})
            async with both_proxies(near, far) as ends:
                for _ in range(3):
                    async with client(ends.listening["ECHO"]) as streams:
                        await check_echo(streams, noise(20_000_000))
