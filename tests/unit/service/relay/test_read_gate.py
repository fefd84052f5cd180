"""Whether a link is read: the set of reasons, and the transport that follows it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import aiofastnet
import pytest

from support.network.sockets import reset
from support.plugins.clock import ManualClock
from support.waiting import HANG
from tailrace.service.relay.read_gate import ReadBlock, ReadGate
from tailrace.service.relay.read_limiter import FULL_READ, SMALL_READ, ReadLimiter
from tailrace.service.telemetry.counters import StallClock

BUDGET, PEER, THROTTLED = ReadBlock.OVER_BUDGET, ReadBlock.PEER_BLOCKED, ReadBlock.THROTTLED


class Transport(asyncio.Transport):
    """Writes down what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def pause_reading(self) -> None:
        self.told.append("pause")

    def resume_reading(self) -> None:
        self.told.append("resume")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def stalls(clock: ManualClock) -> StallClock:
    return StallClock(clock)


@pytest.fixture
def transport() -> Transport:
    return Transport()


@pytest.fixture
def gate(stalls: StallClock, transport: Transport) -> ReadGate:
    gate = ReadGate(stalls)
    gate.attach(transport)
    return gate


async def test_it_is_open_while_there_is_no_reason_against_it(gate: ReadGate) -> None:
    assert gate.is_open
    assert gate.block(PEER)
    assert not gate.is_open
    assert not gate.block(THROTTLED)
    assert not gate.block(PEER)
    assert not gate.unblock(PEER)
    assert not gate.is_open
    assert not gate.unblock(PEER)
    assert gate.unblock(THROTTLED)
    assert gate.is_open
    assert not gate.unblock(THROTTLED)


async def test_several_reasons_are_dropped_at_once(gate: ReadGate) -> None:
    for reason in ReadBlock:
        gate.block(reason)
    assert not gate.unblock(PEER, THROTTLED)
    assert gate.unblock(BUDGET, PEER)


async def test_the_transport_follows_in_the_next_turn(gate: ReadGate, transport: Transport) -> None:
    gate.block(PEER)
    gate.block(THROTTLED)
    assert gate.is_reading
    assert transport.told == []
    await asyncio.sleep(0)
    assert not gate.is_reading
    assert transport.told == ["pause"]
    gate.unblock(PEER)
    gate.unblock(THROTTLED)
    await asyncio.sleep(0)
    assert gate.is_reading
    assert transport.told == ["pause", "resume"]


async def test_or_at_once(gate: ReadGate, transport: Transport) -> None:
    gate.block(BUDGET)
    gate.apply()
    gate.apply()
    assert transport.told == ["pause"]
    await asyncio.sleep(0)
    assert transport.told == ["pause"]


async def test_it_is_not_told_of_what_was_undone_before(
    gate: ReadGate, transport: Transport
) -> None:
    gate.block(PEER)
    gate.unblock(PEER)
    await asyncio.sleep(0)
    assert transport.told == []


async def test_a_transport_that_is_gone_is_left_alone(gate: ReadGate, transport: Transport) -> None:
    gate.block(PEER)
    await asyncio.sleep(0)
    gate.unblock(PEER)
    gate.detach()
    await asyncio.sleep(0)
    assert transport.told == ["pause"]
    assert not gate.is_reading


async def test_the_time_that_it_is_shut_is_counted(
    gate: ReadGate, stalls: StallClock, clock: ManualClock
) -> None:
    clock.now = 1.0
    gate.block(PEER)
    assert stalls.stalled == 1
    clock.now = 2.0
    gate.block(BUDGET)
    gate.unblock(PEER)
    clock.now = 5.0
    gate.unblock(BUDGET)
    clock.now = 9.0
    assert stalls.stalled == 0
    assert stalls.seconds == 4.0


class Receiver(asyncio.BufferedProtocol):
    """Takes what one read brings, and blocks its own gate if told to."""

    def __init__(self, gate: ReadGate) -> None:
        self.gate = gate
        self.blocks = False
        self.sizes: list[int] = []
        self.buffer = bytearray(4 * FULL_READ)
        self.lost = False

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self.buffer)

    def buffer_updated(self, nbytes: int) -> None:
        self.sizes.append(nbytes)
        if self.blocks:
            self.gate.block(BUDGET)
            self.gate.apply()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


class TestAiofastnet:
    """Its transports can be paused from within a read, so that reads are limited."""

    @pytest.fixture
    async def receiver(self, gate: ReadGate) -> AsyncIterator[Receiver]:
        loop = asyncio.get_running_loop()
        self.far, near = socket.socketpair()
        near.setblocking(False)
        receiver = Receiver(gate)
        transport, _ = await aiofastnet.create_connection(loop, lambda: receiver, sock=near)
        gate.attach(transport)
        yield receiver
        gate.detach()
        transport.abort()
        self.far.close()
        await asyncio.sleep(0)

    async def test_one_read_brings_no_more_than_it_may(
        self, gate: ReadGate, receiver: Receiver
    ) -> None:
        assert gate.can_pause_in_read
        for small, size in ((False, FULL_READ), (True, SMALL_READ), (False, FULL_READ)):
            gate.limit_reads(small)
            self.far.sendall(bytes(2 * FULL_READ))
            receiver.sizes.clear()
            while sum(receiver.sizes) < 2 * FULL_READ:
                await asyncio.sleep(0.001)
            assert max(receiver.sizes) == size

    async def test_it_stops_from_within_a_read_and_goes_on(
        self, gate: ReadGate, receiver: Receiver
    ) -> None:
        receiver.blocks = True
        self.far.sendall(bytes(3 * FULL_READ))
        for reads in (1, 2, 3):
            while len(receiver.sizes) < reads:
                await asyncio.sleep(0.001)
            for _ in range(5):
                await asyncio.sleep(0)
            assert receiver.sizes == [FULL_READ] * reads
            gate.unblock(BUDGET)


async def test_a_reset_behind_bytes_is_found(gate: ReadGate, loop_kind: str) -> None:
    """Behind TLS on uvloop, nobody else would tell of it."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        far = socket.create_connection(listening.getsockname())
        near, _ = listening.accept()
    near.setblocking(False)
    receiver = Receiver(gate)
    transport, _ = await aiofastnet.create_connection(loop, lambda: receiver, sock=near)
    gate.attach(transport)
    gate.limit_reads(small=True)
    gate.look_again()
    far.sendall(bytes(3 * FULL_READ))
    reset(far)
    async with asyncio.timeout(HANG):
        while not receiver.sizes:
            await asyncio.sleep(0)
        while not receiver.lost:
            gate.look_again()
            await asyncio.sleep(0.001)
    assert sum(receiver.sizes) == 3 * FULL_READ
    gate.look_again()
    gate.detach()
    gate.look_again()


async def test_what_is_not_read_is_not_looked_at(gate: ReadGate, transport: Transport) -> None:
    gate.block(PEER)
    await asyncio.sleep(0)
    gate.look_again()
    assert transport.told == ["pause"]


async def test_reads_of_other_transports_are_not_limited(gate: ReadGate) -> None:
    assert not gate.can_pause_in_read
    gate.limit_reads(True)


async def test_nor_those_of_an_encrypted_one_that_cannot_be_told_to_read_on(
    stalls: StallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has decrypted more than it has delivered when it is paused from within a read."""

    class Encrypted(Transport):
        def __init__(self) -> None:
            super().__init__()
            self.protocol = Receiver(ReadGate(stalls))

        def get_extra_info(self, name: str, default: object = None) -> object:
            return self if name == "ssl_object" else default

        def get_protocol(self) -> asyncio.BaseProtocol:
            return self.protocol

        def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
            assert isinstance(protocol, ReadLimiter)
            self.told.append("limited")

    class Retrying(Encrypted):
        def _retry_ssl_read(self) -> None:
            self.told.append("retry")

    monkeypatch.setattr(aiofastnet, "Transport", Encrypted)
    for kind, limited in ((Encrypted, False), (Retrying, True)):
        transport, gate = kind(), ReadGate(stalls)
        gate.attach(transport)
        assert gate.can_pause_in_read is limited
        gate.block(PEER)
        gate.apply()
        gate.unblock(PEER)
        gate.apply()
        assert transport.told == (
            ["limited", "pause", "resume", "retry"] if limited else ["pause", "resume"]
        )
