"""Connections over lost links: what a cut, a silence, a restart or a stranger does to them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from support.network.applications import (
    Handler,
    application,
    check_echo,
    client,
    echo,
    noise,
    read_to_the_end,
)
from support.network.sockets import Streams, reset_streams
from support.service import ServiceProcess, service_process
from support.service.clients import MessageClient, dial
from support.tunnel import (
    Ends,
    ProxyProcess,
    RunningProxy,
    Tunnel,
    both_proxies,
    disguise,
    running_proxy,
    tunnel_of,
    tunnel_process,
)
from support.tunnel.engine import connections_of
from support.waiting import HANG, POLL, until
from tailrace.common.addresses import LocalAddress
from tailrace.common.secret import Secret
from tailrace.errors import LinkError
from tailrace.localproxy.connection_states import ConnectionState
from tailrace.localproxy.events import (
    Connected,
    ConnectionClosed,
    ConnectionCut,
    ConnectionOpened,
    PeerLeft,
    Reconnecting,
    TunnelPaused,
    TunnelResumed,
)
from tailrace.localproxy.settings import Backend
from tailrace.session.ledger import FIRST_LIMIT
from tailrace.session.replay import MAX_KEPT
from tailrace.testing.middlebox import Middlebox, middlebox
from tailrace.wire import (
    CAPABILITIES_FIELD,
    Message,
    MessageSplitter,
    MessageType,
    Progress,
    SessionOffer,
    Side,
    decode,
    decode_offer,
    encode_offer,
    encode_progress,
)

CHUNK = 64 * 1024
ALL_KEPT = 32 * 1024 * 1024
"""Bytes that a tunnel may keep to send them again."""
_WAITING = (ConnectionState.PARKED, ConnectionState.PAUSED)

each_side = pytest.mark.parametrize("side", Side, ids=lambda side: side.value)
each_backend = pytest.mark.parametrize(
    "backend", [Backend.PICOWS, Backend.WEBSOCKETS], ids=lambda backend: backend.value
)

Fault = Callable[["Rig"], Awaitable[None]]


@dataclass(frozen=True)
class Rig:
    """A tunnel with a box in front of each end, and an application behind it."""

    service: ServiceProcess
    tunnel: Tunnel
    boxes: Mapping[Side, Middlebox]
    ends: Ends

    @property
    def port(self) -> LocalAddress:
        return self.ends.listening["SSH"]

    @property
    def clients_wait(self) -> bool:
        """Whether the source reads none of its clients."""
        connections = self.ends.source.proxy.status().connections
        return all(each.state in _WAITING for each in connections)

    def end(self, side: Side) -> RunningProxy:
        return self.ends.source if side is Side.SOURCE else self.ends.destination

    def is_up(self, side: Side) -> bool:
        """Return whether an end has a link, as far as it knows."""
        links = [e for e in self.end(side).events if isinstance(e, Connected | Reconnecting)]
        return isinstance(links[-1], Connected)

    def losses(self, side: Side) -> int:
        """Return how often an end lost its link, or could not set it up."""
        return len(self.end(side).all(Reconnecting))


@asynccontextmanager
async def rig_of(
    service: ServiceProcess, handler: Handler, backend: Backend = Backend.AUTO, **changes: Any
) -> AsyncIterator[Rig]:
    """A tunnel to an application; ``changes`` are of the settings of both ends."""
    changes = {"retry_delay_cap": 0.2} | changes
    with tunnel_of(service, "SSH") as tunnel:
        async with application(handler) as where:
            source = tunnel.settings(Side.SOURCE, backend=backend, **changes)
            destination = tunnel.settings(
                Side.DESTINATION, backend=backend, services={"SSH": where}, **changes
            )
            async with middlebox(source) as near, middlebox(destination) as far:
                async with both_proxies(near.behind(source), far.behind(destination)) as ends:
                    boxes = {Side.SOURCE: near, Side.DESTINATION: far}
                    yield Rig(service, tunnel, boxes, ends)


# -- faults ------------------------------------------------------------------------------------


def cut(*sides: Side, in_order: bool = False) -> Fault:
    """Return a fault that drops the links of some ends, which notice."""

    async def fault(rig: Rig) -> None:
        for side in sides:
            box, losses = rig.boxes[side], rig.losses(side)
            await until(lambda side=side: rig.is_up(side), f"a link of the {side.value}")
            if in_order:
                box.finish()
            else:
                box.cut()
            await rig.end(side).seen(Reconnecting, losses + 1)

    return fault


CUTS = {
    "source": cut(Side.SOURCE),
    "destination": cut(Side.DESTINATION),
    "both": cut(*Side),
    "source in order": cut(Side.SOURCE, in_order=True),
    "destination in order": cut(Side.DESTINATION, in_order=True),
}


async def kill_service(rig: Rig) -> None:
    await asyncio.to_thread(rig.service.restart, signal.SIGKILL)


# -- load --------------------------------------------------------------------------------------


async def echo_through(rig: Rig, size: int, faults: Mapping[int, Fault]) -> None:
    """Send and receive ``size`` bytes at the same time, with faults where so many have come."""
    content = noise(size)
    digest = hashlib.sha256()
    received = 0

    async def send(writer: asyncio.StreamWriter) -> None:
        for at in range(0, size, CHUNK):
            writer.write(content[at : at + CHUNK])
            await writer.drain()
        writer.write_eof()

    async with client(rig.port) as (reader, writer), asyncio.timeout(HANG):
        async with asyncio.TaskGroup() as group:
            group.create_task(send(writer))
            for at, fault in sorted(faults.items()):
                while received < at:
                    data = await reader.read(CHUNK)
                    assert data, f"the end after {received} bytes"
                    received += len(data)
                    digest.update(data)
                await fault(rig)
            while data := await reader.read(CHUNK):
                received += len(data)
                digest.update(data)
    assert received == size
    assert digest.digest() == hashlib.sha256(content).digest()


@pytest.mark.pairwise
@each_backend
@pytest.mark.parametrize("fault", CUTS)
async def test_no_byte_is_lost_and_none_comes_twice(
    service: ServiceProcess, loop_kind: str, backend: Backend, fault: str
):
    size = 12_000_000
    faults = {size * part // 100: CUTS[fault] for part in (1, 5, 30, 31, 60, 99)}
    async with rig_of(service, echo, backend) as rig:
        await echo_through(rig, size, faults)


async def test_a_killed_service_is_a_pause(tmp_path: Path):
    size = 12_000_000
    with service_process(tmp_path) as service:
        async with rig_of(service, echo) as rig:
            await echo_through(rig, size, {size // 3: kill_service})
            (resumed,) = rig.ends.source.all(TunnelResumed)
            assert resumed.connections == 1


# -- silence -----------------------------------------------------------------------------------


@each_side
async def test_a_short_silence_costs_no_link(service: ServiceProcess, side: Side):
    async with rig_of(service, echo) as rig, client(rig.port) as streams:
        await check_echo(streams, b"before")
        rig.boxes[side].swallow()
        content = noise(3_000_000)
        streams[1].write(content)
        await until(lambda: rig.clients_wait, "a client that has to wait")
        rig.boxes[side].release()
        assert await read(streams, len(content)) == content
        assert not rig.losses(Side.SOURCE) + rig.losses(Side.DESTINATION)
        assert not rig.ends.source.all(TunnelPaused)


@pytest.mark.parametrize("sides", [(Side.SOURCE,), (Side.DESTINATION,), tuple(Side)])
async def test_a_long_silence_is_a_pause(service: ServiceProcess, sides: tuple[Side, ...]):
    """The heartbeat gives the link up; at the service the old one is there until it is replaced."""
    async with rig_of(service, echo, ping_period=0.3) as rig, client(rig.port) as streams:
        await check_echo(streams, b"before")
        for side in sides:
            rig.boxes[side].swallow()
        content = noise(3_000_000)
        streams[1].write(content)
        for side in sides:
            await rig.end(side).seen(Reconnecting)
        for side in sides:
            rig.boxes[side].release()
        assert await read(streams, len(content)) == content
        await check_echo(streams, b"after")


# -- while a link is down ----------------------------------------------------------------------


class Application:
    """Keeps what connects to it; a test plays its part."""

    def __init__(self) -> None:
        self._accepted: asyncio.Queue[Streams] = asyncio.Queue()
        self._ends = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._accepted.put_nowait((reader, writer))
        await self._ends.wait()

    async def accepted(self) -> Streams:
        async with asyncio.timeout(HANG):
            return await self._accepted.get()

    @property
    def waits(self) -> bool:
        """Whether something has connected that no test has taken."""
        return not self._accepted.empty()

    def end(self) -> None:
        """Hang up on all."""
        self._ends.set()


@dataclass(frozen=True)
class Pair:
    """One connection: what the client has of it, and the application."""

    rig: Rig
    application: Application
    ends: Mapping[Side, Streams]

    async def check(self) -> None:
        """Send a little each way."""
        for side in Side:
            self.ends[side][1].write(b"a little")
            assert await read(self.ends[side.other], 8) == b"a little"


@asynccontextmanager
async def pair_of(service: ServiceProcess, **changes: Any) -> AsyncIterator[Pair]:
    played = Application()
    async with rig_of(service, played, **changes) as rig:
        try:
            async with client(rig.port) as near:
                ends = {Side.SOURCE: near, Side.DESTINATION: await played.accepted()}
                pair = Pair(rig, played, ends)
                await pair.check()
                yield pair
        finally:
            played.end()


async def read(streams: Streams, size: int) -> bytes:
    async with asyncio.timeout(HANG):
        return await streams[0].readexactly(size)


async def check_reset(streams: Streams) -> None:
    """Expect a reset after nothing."""
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(HANG):
            assert await streams[0].read(1) == b""
            raise AssertionError("an end in order")


@asynccontextmanager
async def down(rig: Rig, side: Side) -> AsyncIterator[None]:
    """One end has no link, and both know."""
    pauses = {each: len(rig.end(each).all(TunnelPaused)) for each in Side}
    rig.boxes[side].refuse()
    rig.boxes[side].finish()
    for each in Side:
        await rig.end(each).seen(TunnelPaused, pauses[each] + 1)
    yield
    resumes = {each: len(rig.end(each).all(TunnelResumed)) for each in Side}
    await rig.boxes[side].accept()
    for each in Side:
        await rig.end(each).seen(TunnelResumed, resumes[each] + 1)


WHO = {"client": Side.SOURCE, "application": Side.DESTINATION}
each_end = pytest.mark.parametrize("who", WHO)


@pytest.mark.pairwise
@each_side
@each_end
@pytest.mark.parametrize("when", ["before", "during", "after"])
async def test_half_a_connection_ends_as_it_does_with_tcp(
    service: ServiceProcess, loop_kind: str, side: Side, who: str, when: str
):
    """The one half ends behind its last byte; the other one goes on for as long as it likes."""
    content = noise(400_000)
    async with pair_of(service) as pair:
        ends, other = pair.ends[WHO[who]], pair.ends[WHO[who].other]

        def end() -> None:
            ends[1].write(content)
            ends[1].write_eof()

        if when == "before":
            end()
        async with down(pair.rig, side):
            if when == "during":
                end()
        if when == "after":
            end()
        async with asyncio.timeout(HANG):
            assert await other[0].read(-1) == content
        async with down(pair.rig, side):
            other[1].write(content)
        assert await read(ends, len(content)) == content
        other[1].write_eof()
        assert await read_to_the_end(ends) == b""
        for each in Side:
            await pair.rig.end(each).seen(ConnectionClosed)
            assert not pair.rig.end(each).all(ConnectionCut)


@each_side
@each_end
async def test_a_reset_while_the_link_is_down_arrives(
    service: ServiceProcess, side: Side, who: str
):
    async with pair_of(service) as pair:
        async with down(pair.rig, side):
            # What a paused end sends is not looked at, and neither is its end.
            pair.ends[WHO[who]][1].write(b"the last")
            reset_streams(pair.ends[WHO[who]])
        await check_reset_behind(pair.ends[WHO[who].other], b"the last")
        for each in Side:
            await pair.rig.end(each).seen(ConnectionClosed)


async def check_reset_behind(streams: Streams, most: bytes) -> None:
    """Expect a reset, behind all or some of what was sent before it, as with TCP."""
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(HANG):
            while data := await streams[0].read(CHUNK):
                assert most.startswith(data)
            raise AssertionError("an end in order")


@each_side
async def test_clients_come_and_go_while_the_link_is_down(service: ServiceProcess, side: Side):
    """One that has closed already is served like any other."""
    async with pair_of(service) as pair, contextlib.AsyncExitStack() as stack:
        async with down(pair.rig, side):
            near = await stack.enter_async_context(client(pair.rig.port))
            near[1].write(b"early")
            async with client(pair.rig.port) as gone:
                gone[1].write(b"and gone")
        said = set()
        for _ in range(2):
            far = await pair.application.accepted()
            said.add(await far[0].read(8))
        assert said == {b"early", b"and gone"}
        await pair.check()
        assert not pair.application.waits


@each_side
@each_end
async def test_who_closes_while_the_link_is_down_has_said_everything(
    service: ServiceProcess, side: Side, who: str
):
    content = noise(200_000)
    async with pair_of(service) as pair:
        ends, other = pair.ends[WHO[who]], pair.ends[WHO[who].other]
        async with down(pair.rig, side):
            ends[1].write(content)
            ends[1].close()
        assert await read_to_the_end(other) == content
        other[1].close()
        for each in Side:
            await pair.rig.end(each).seen(ConnectionClosed)


# -- what does not survive ---------------------------------------------------------------------


@each_side
async def test_who_does_not_come_back_in_time_is_given_up(service: ServiceProcess, side: Side):
    """Both local ends are reset, each by its own proxy; what comes then is served."""
    async with pair_of(service, resume_timeout=0.3) as pair:
        rig = pair.rig
        rig.boxes[side].close_road()
        for each in Side:
            await check_reset(pair.ends[each])
            cut = await rig.end(each).seen(ConnectionCut)
            assert "in time" in cut.reason, cut
        rig.boxes[side].open_road()
        await until(lambda: all(rig.is_up(each) for each in Side), "both links")
        async with client(rig.port) as near:
            near[1].write(b"new")
            far = await pair.application.accepted()
            assert await read(far, 3) == b"new"
        for each in Side:
            assert not rig.end(each).all(TunnelResumed)


@each_side
@pytest.mark.parametrize("again", [True, False], ids=["started again", "gone for good"])
async def test_what_a_killed_proxy_had_is_reset(
    service: ServiceProcess, tmp_path: Path, side: Side, again: bool
):
    """By the first offer of the next one, or else when it was waited for long enough."""
    played = Application()
    timeout = HANG if again else 0.3
    with tunnel_of(service, "SSH") as tunnel:
        async with application(played) as where, contextlib.AsyncExitStack() as stack:
            stack.callback(played.end)
            services = {"SSH": where} if side is Side.DESTINATION else None
            kept = tunnel.settings(
                side.other,
                resume_timeout=timeout,
                **({"services": {"SSH": where}} if side is Side.SOURCE else {}),
            )

            def process() -> AbstractContextManager[ProxyProcess]:
                options = ("--client-token", tunnel.tunnel_id)
                return tunnel_process(tmp_path, tunnel, side, services, *options)

            killed = stack.enter_context(process())
            staying = await stack.enter_async_context(running_proxy(kept))
            addresses = await killed.ready()
            port = (addresses if side is Side.SOURCE else await staying.ready())["SSH"]
            near = await stack.enter_async_context(client(port))
            near[1].write(b"open")
            far = await played.accepted()
            assert await read(far, 4) == b"open"
            killed.kill()
            killed.ready_file.unlink()
            await staying.seen(TunnelPaused)
            if again:
                started = stack.enter_context(process())
                await started.ready()
            await check_reset(near if side is Side.DESTINATION else far)
            cut = await staying.seen(ConnectionCut)
            assert ("restarted" if again else "in time") in cut.reason, cut


# -- who comes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("can_resume", [True, False])
async def test_a_client_may_come_at_the_moment_the_destination_does(
    service: ServiceProcess, monkeypatch: pytest.MonkeyPatch, can_resume: bool
):
    """The source has not been told yet, and what it sends gets there all the same."""
    if not can_resume:
        disguise(monkeypatch, Side.DESTINATION)
    with tunnel_of(service, "SSH") as tunnel:
        settings = tunnel.settings(Side.SOURCE)
        async with (
            application(echo) as where,
            middlebox(settings) as box,
            running_proxy(box.behind(settings)) as source,
        ):
            port = (await source.ready())["SSH"]
            await source.seen(PeerLeft)
            box.swallow()
            destination = tunnel.settings(Side.DESTINATION, services={"SSH": where})
            async with running_proxy(destination) as coming:
                await coming.ready()
                async with client(port) as streams:
                    await source.seen(ConnectionOpened)
                    streams[1].write(b"early")
                    box.release()
                    assert await read(streams, 5) == b"early"
                    if can_resume:
                        streams[1].write_eof()
                        assert await read_to_the_end(streams) == b""


async def known_messages(peer: MessageClient) -> AsyncIterator[Message]:
    """Yield what comes, of which nothing may be unknown to peers of other makes."""
    splitter = MessageSplitter()
    async for frame in peer.socket:
        assert isinstance(frame, bytes)
        for body in splitter.feed(memoryview(frame)):
            message = decode(body)
            assert message.type <= MessageType.CONNECTION_RESET, message
            yield message._replace(payload=bytes(message.payload))


@each_side
async def test_a_foreign_peer_in_the_place_of_one_that_is_waited_for(
    service: ServiceProcess, side: Side
):
    """It gets nothing that was there before it, and no message that it does not know."""
    played = Application()
    with tunnel_of(service, "SSH") as tunnel:
        async with application(played) as where, contextlib.AsyncExitStack() as stack:
            stack.callback(played.end)
            token = Secret(tunnel.tunnel_id)
            settings = {
                Side.SOURCE: tunnel.settings(Side.SOURCE),
                Side.DESTINATION: tunnel.settings(Side.DESTINATION, services={"SSH": where}),
            }
            leaving = replace(settings[side], client_token=token, connect_retry_count=0)
            kept = await stack.enter_async_context(running_proxy(settings[side.other]))
            first = await stack.enter_async_context(running_proxy(leaving))
            ports = {
                each: await proxy.ready() for each, proxy in ((side, first), (side.other, kept))
            }
            near = await stack.enter_async_context(client(ports[Side.SOURCE]["SSH"]))
            near[1].write(b"open")
            far = await played.accepted()
            assert await read(far, 4) == b"open"
            access = tunnel.tokens[side].reveal()
            foreign = await stack.enter_async_context(
                dial(
                    tunnel.endpoints,
                    side.value,
                    access,
                    client_token=token.reveal(),
                    expect_ids=["SSH"],
                )
            )
            await check_reset(near if side is Side.DESTINATION else far)
            assert "cannot resume" in (await kept.seen(ConnectionCut)).reason
            with pytest.raises(LinkError, match="replaced"):
                await first.ended()
            messages = known_messages(foreign)
            if side is Side.SOURCE:
                await foreign.send(Message(MessageType.STREAM_START, 1, "SSH", 1))
                await foreign.send(Message(MessageType.DATA, 1, "SSH", 1, b"new"))
                far = await played.accepted()
                assert await read(far, 3) == b"new"
                far[1].write(b"answer")
            else:
                near = await stack.enter_async_context(client(ports[Side.SOURCE]["SSH"]))
                near[1].write(b"answer")
                async with asyncio.timeout(HANG):
                    assert (await anext(messages)).type == MessageType.STREAM_START
            async with asyncio.timeout(HANG):
                came = await anext(messages)
            assert (came.type, came.payload) == (MessageType.DATA, b"answer")


# -- many, and much ----------------------------------------------------------------------------


async def test_many_connections_go_on(service: ServiceProcess):
    """None of them is mistaken for another."""
    many = 500
    async with rig_of(service, echo) as rig, contextlib.AsyncExitStack() as stack:
        streams = []
        for _ in range(many):
            streams.append(await stack.enter_async_context(client(rig.port)))
        for fault in (cut(Side.SOURCE), cut(Side.DESTINATION), cut(*Side)):
            for number, (_, writer) in enumerate(streams):
                writer.write(noise(1_000, number))
            await fault(rig)
            for number, each in enumerate(streams):
                assert await read(each, 1_000) == noise(1_000, number)


@dataclass
class SilentPeer:
    """A destination that can resume, reads everything, and acknowledges only what it is told to."""

    client: MessageClient
    received: Counter[int] = field(default_factory=Counter)
    """Connection id -> bytes."""
    starts: dict[int, Message] = field(default_factory=dict)

    async def run(self) -> None:
        """Agree with each incarnation of the source, and read for ever."""
        splitter = MessageSplitter()
        async for frame in self.client.socket:
            assert isinstance(frame, bytes)
            for body in splitter.feed(memoryview(frame)):
                message = decode(body)
                if message.type == MessageType.SESSION_OFFER:
                    await self._agree(message)
                elif message.type in (MessageType.STREAM_START, MessageType.CONNECTION_START):
                    self.starts[message.connection_id] = message
                elif message.type == MessageType.DATA:
                    self.received[message.connection_id] += len(message.payload)

    async def _agree(self, message: Message) -> None:
        heard = decode_offer(message.payload)
        assert heard is not None
        offer = SessionOffer(b"a silent peer ..", heard.sender, 1, heard.nonce, {"SSH": 0}, ())
        for payload in encode_offer(offer):
            await self.client.send(
                Message(MessageType.SESSION_OFFER, payload=payload, ignorable=True)
            )

    async def acknowledge(self) -> None:
        """Acknowledge all that has come, and allow as much again."""
        for number, start in self.starts.items():
            size = self.received[number]
            progress = encode_progress(Progress(size, size + FIRST_LIMIT, fin_seen=False))
            message = Message(
                MessageType.CONNECTION_ACK,
                *(start.stream_id, start.service_id, number, progress),
                ignorable=True,
            )
            await self.client.send(message)


async def test_what_is_kept_is_bounded(service: ServiceProcess):
    """A peer that acknowledges nothing gets 256 KiB of each connection, and 32 MiB of all.

    And 8 KiB of each: the smallest share that is not counted.
    """
    many, size = 200, 2 * FIRST_LIMIT
    most = ALL_KEPT + many * 8 * 1024
    with tunnel_of(service, "SSH") as tunnel:
        headers = {
            "access-token": tunnel.tokens[Side.DESTINATION].reveal(),
            CAPABILITIES_FIELD: "flow, resume",
        }
        async with (
            running_proxy(tunnel.settings(Side.SOURCE)) as source,
            dial(
                *(tunnel.endpoints, "destination", ""),
                expect_ids=["SSH"],
                additional_headers=headers,
            ) as raw,
            contextlib.AsyncExitStack() as stack,
        ):
            peer = SilentPeer(raw)
            task = asyncio.get_running_loop().create_task(peer.run())
            stack.callback(task.cancel)
            port = (await source.ready())["SSH"]
            # Nobody answers them, so that they need not be read.
            for _ in range(many):
                _, writer = await stack.enter_async_context(client(port))
                writer.write(bytes(size))
            connections = connections_of(source)
            outbound = connections.outbound
            await until(lambda: outbound.memory.size > MAX_KEPT, "a memory that is full")
            await until(lambda: len(peer.starts) == many, "all connections")
            # What is on its way comes; then nothing does, however long it takes.
            await until(
                lambda: peer.received.total() == sum(each.bytes_in for each in connections),
                "all that was sent",
            )
            assert ALL_KEPT // 2 < peer.received.total() <= most < many * FIRST_LIMIT
            assert max(peer.received.values()) <= FIRST_LIMIT
            async with asyncio.timeout(HANG):
                while peer.received.total() < many * size:
                    await peer.acknowledge()
                    await asyncio.sleep(POLL)
