"""Whatever the network does to a link: nothing is altered, nothing hangs, and it comes back.

Each proxy has a :class:`~support.network.faults.FaultProxy` between itself and the service.
What comes through is judged by each end for itself: every connection has bytes of its own both
ways.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from support.network.applications import application, client, noise
from support.network.faults import Fault, FaultProxy, Kind, Script, Way, fault_proxy, scripts
from support.service import ServiceProcess
from support.tunnel import (
    Ends,
    RunningProxy,
    arguments_for,
    both_proxies,
    proxy_process,
    tunnel_of,
)
from support.waiting import HANG, until
from tailrace.cli.exit_codes import ExitCode
from tailrace.common.addresses import LocalAddress
from tailrace.localproxy.events import Connecting, Ended, Reconnecting
from tailrace.service.config import parse_address
from tailrace.wire import Side

HANDSHAKE = 6000
"""More bytes than TLS and upgrade take in either way."""
DELAY_CAP = 0.1
TRIES = 6
"""Links that may be begun until the tunnel is usable again: the one that a fault is played to
and the next; a machine that is very busy lets a step of one take too long."""
GROWTH = 8 * 1024 * 1024

_HEAD = struct.Struct("!II")


class Witness:
    """An application that answers each connection with bytes of its own, and judges its input."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.open = 0
        self.visited = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.visited.set()
        try:
            await self._serve(reader, writer)
        finally:
            self.open -= 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            seed, size = _HEAD.unpack(await reader.readexactly(_HEAD.size))
            expected = noise(size, seed)
            writer.write(noise(size, -seed))
            got = 0
            while got < size and (data := await reader.read(65536)):
                if data != expected[got : got + len(data)]:
                    self.faults.append(f"connection {seed}: altered behind byte {got}")
                got += len(data)
            await writer.drain()


async def visit(at: LocalAddress, seed: int, size: int) -> bool:
    """Talk to a witness until all has come or the connection has ended; was it all?"""
    expected = noise(size, -seed)
    got = 0
    # A reset may come before this loop has seen the connection open.
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(HANG), client(at) as (reader, writer):
            writer.write(_HEAD.pack(seed, size) + noise(size, seed))
            with contextlib.suppress(ConnectionError):
                while got < size and (data := await reader.read(65536)):
                    assert data == expected[got : got + len(data)], f"altered behind byte {got}"
                    got += len(data)
    return got == size


class Seeds:
    """Numbers of connections: none twice, so that none has the bytes of another."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        self._last += 1
        return self._last


@dataclass(frozen=True)
class Rig:
    """A tunnel with a fault proxy in front of each end."""

    service: ServiceProcess
    witness: Witness
    boxes: dict[Side, FaultProxy]
    ends: Ends
    seeds: Seeds

    @property
    def port(self) -> LocalAddress:
        return self.ends.listening["SSH"]

    def end(self, side: Side) -> RunningProxy:
        return self.ends.source if side is Side.SOURCE else self.ends.destination

    async def visits(self, *sizes: int) -> list[bool]:
        return await asyncio.gather(*(visit(self.port, self.seeds.next(), n) for n in sizes))

    async def usable(self) -> None:
        """Wait until a visit goes well; those that do not must end all the same."""
        async with asyncio.timeout(HANG):
            while not all(await self.visits(2000)):
                await asyncio.sleep(0.02)

    async def as_before(self, descriptors: int, tasks: int) -> None:
        """Expect that nothing has died, and wait until nothing is left of what was."""
        for box in self.boxes.values():
            await box.forget()
        await until(lambda: self.witness.open == 0, "the end of all connections")
        await until(lambda: open_descriptors() <= descriptors, f"{descriptors} descriptors")
        await until(lambda: len(asyncio.all_tasks()) <= tasks, f"{tasks} tasks")
        assert self.witness.faults == []
        assert self.service.process.running
        assert not any(proxy.all(Ended) for proxy in (self.ends.source, self.ends.destination))


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
async def rig(service: ServiceProcess) -> AsyncIterator[Rig]:
    witness = Witness()
    with tunnel_of(service, "SSH") as tunnel:
        data = parse_address(tunnel.endpoints.data_endpoint, "data")
        quick = {
            "ping_period": 0.2,
            "retry_delay": 0.02,
            "retry_delay_cap": DELAY_CAP,
            "connect_timeout": 2.0,
            "linger": 0.1,
        }
        async with (
            application(witness) as where,
            fault_proxy(data.host, data.port) as near,
            fault_proxy(data.host, data.port) as far,
            both_proxies(
                near.behind(tunnel.settings(Side.SOURCE, **quick)),
                far.behind(tunnel.settings(Side.DESTINATION, services={"SSH": where}, **quick)),
            ) as ends,
        ):
            boxes = {Side.SOURCE: near, Side.DESTINATION: far}
            built = Rig(service, witness, boxes, ends, Seeds())
            await built.usable()
            yield built


def in_data(kind: Kind, way: Way) -> Script:
    return Script(Fault(kind, way, HANDSHAKE + 50_000))


OFFSETS = st.one_of(st.integers(0, HANDSHAKE), st.integers(HANDSHAKE, 400_000))
SIZES = st.lists(st.integers(0, 200_000), min_size=1, max_size=3)
FEW = settings(
    max_examples=max(1, settings.default.max_examples // 12),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
"""Some seconds of them; HYPOTHESIS_PROFILE=deep for hundreds."""


@pytest.mark.timeout(1800)
@FEW
@given(side=st.sampled_from(Side), script=scripts(OFFSETS), sizes=SIZES)
@example(Side.SOURCE, in_data(Kind.FIN, Way.DOWN), [200_000, 10])
@example(Side.SOURCE, in_data(Kind.RST, Way.UP), [200_000, 10])
@example(Side.SOURCE, in_data(Kind.BLACKHOLE, Way.DOWN), [200_000, 10])
@example(Side.SOURCE, in_data(Kind.HALF_OPEN, Way.UP), [200_000, 10])
@example(Side.SOURCE, in_data(Kind.HALF_CLOSE, Way.DOWN), [200_000, 10])
@example(Side.DESTINATION, in_data(Kind.FIN, Way.UP), [200_000, 10])
@example(Side.DESTINATION, in_data(Kind.RST, Way.DOWN), [200_000, 10])
@example(Side.DESTINATION, in_data(Kind.BLACKHOLE, Way.UP), [200_000, 10])
@example(Side.DESTINATION, in_data(Kind.HALF_OPEN, Way.DOWN), [200_000, 10])
@example(Side.DESTINATION, in_data(Kind.HALF_CLOSE, Way.UP), [200_000, 10])
async def test_what_is_delivered_is_a_prefix_and_the_tunnel_comes_back(
    rig: Rig, side: Side, script: Script, sizes: list[int]
):
    """The link is cut; the fault is played to the next one while clients come, and then no more."""
    box, proxy = rig.boxes[side], rig.end(side)
    before = open_descriptors(), len(asyncio.all_tasks())
    links, retries = len(proxy.all(Connecting)), len(proxy.all(Reconnecting))
    number = len(box.passages)
    box.play(script)
    box.strike(Fault(Kind.RST))
    async with asyncio.timeout(HANG):
        await box.passage(number)
    await rig.visits(*sizes)
    await rig.usable()
    await rig.as_before(*before)
    assert len(proxy.all(Connecting)) - links <= TRIES
    assert all(each.delay <= DELAY_CAP for each in proxy.all(Reconnecting)[retries:])


async def test_the_witness_can_accuse():
    witness = Witness()
    async with application(witness) as where:
        assert await visit(where, 1, 1000)
        async with client(where) as (reader, writer):
            writer.write(_HEAD.pack(2, 1000) + noise(999, 2) + b"?" + b"more")
            await reader.readexactly(1000)
            writer.write_eof()
            await until(lambda: witness.faults, "an accusation")
    assert "connection 2: altered" in witness.faults[0]


# -- processes ----------------------------------------------------------------------------------


async def test_commands_survive_faults_and_do_not_grow(service: ServiceProcess, tmp_path: Path):
    """Faults at both ends of running commands: the same process, and no more of it."""
    fine = {"tunneling": {"proxy": {"websocket": {"ping_period_ms": 300, "retry_delay_ms": 1}}}}
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(fine))
    witness, seeds = Witness(), Seeds()
    with tunnel_of(service, "SSH") as tunnel, contextlib.ExitStack() as stack:
        data = parse_address(tunnel.endpoints.data_endpoint, "data")
        async with (
            application(witness) as where,
            fault_proxy(data.host, data.port) as near,
            fault_proxy(data.host, data.port) as far,
        ):
            proxies = {}
            for side, box in ((Side.DESTINATION, far), (Side.SOURCE, near)):
                services = {"SSH": where} if side is Side.DESTINATION else None
                arguments = arguments_for(tunnel, side, services)
                arguments[1] = f"127.0.0.1:{box.port}"
                proxies[side] = stack.enter_context(
                    proxy_process(
                        tmp_path,
                        side.value,
                        [*arguments, "--settings-json", str(file)],
                        tunnel.tokens[side],
                    )
                )
            await proxies[Side.DESTINATION].ready()
            port = (await proxies[Side.SOURCE].ready())["SSH"]

            async def usable() -> None:
                async with asyncio.timeout(HANG):
                    while not await visit(port, seeds.next(), 2000):
                        await asyncio.sleep(0.02)

            await visit(port, seeds.next(), 1_000_000)
            base = {proxy: (proxy.descriptors, proxy.memory) for proxy in proxies.values()}
            quick = (Kind.FIN, Kind.RST, Kind.HALF_CLOSE)
            for box, kinds in ((near, (*quick, Kind.BLACKHOLE)), (far, quick)):
                for kind in kinds:
                    witness.visited.clear()
                    visiting = asyncio.get_running_loop().create_task(
                        visit(port, seeds.next(), 1_000_000)
                    )
                    async with asyncio.timeout(HANG):
                        await witness.visited.wait()
                    box.strike(Fault(kind, Way.DOWN))
                    await visiting
                    await usable()
            await until(lambda: witness.open == 0, "the end of all connections")
            for proxy, (descriptors, memory) in base.items():
                await until(
                    lambda proxy=proxy, most=descriptors: proxy.descriptors <= most,
                    f"{descriptors} descriptors of {proxy.name}",
                )
                assert proxy.memory - memory < GROWTH
                proxy.terminate()
                assert await proxy.exit_code() == ExitCode.OK
                assert "Traceback" not in proxy.log
                assert "never" not in proxy.log, proxy.log  # retrieved, awaited
            assert witness.faults == []
