"""The fault proxy does what it says: otherwise the tests that use it prove nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.network.applications import noise, read_to_the_end
from support.network.faults import (
    Fault,
    FaultProxy,
    Kind,
    Passage,
    Script,
    Shape,
    Way,
    fault_proxy,
    scripts,
)
from support.network.sockets import Streams, hang_up
from support.waiting import HANG

each_way = pytest.mark.parametrize("way", Way, ids=lambda way: way.value)


class Road:
    """A client and a server with a fault proxy between them."""

    def __init__(self, proxy: FaultProxy, ends: dict[Way, Streams], passage: Passage) -> None:
        self.proxy = proxy
        self.passage = passage
        self._ends = ends

    def sender(self, way: Way) -> Streams:
        return self._ends[way]

    def receiver(self, way: Way) -> Streams:
        return self._ends[way.back]

    async def send(self, way: Way, content: bytes) -> None:
        self.sender(way)[1].write(content)
        async with asyncio.timeout(HANG):
            await self.sender(way)[1].drain()


@asynccontextmanager
async def road(script: Script) -> AsyncIterator[Road]:
    accepted: asyncio.Queue[Streams] = asyncio.Queue()
    server = await asyncio.start_server(lambda *s: accepted.put_nowait(s), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, fault_proxy("127.0.0.1", port) as proxy:
        proxy.play(script)
        near = await asyncio.open_connection("127.0.0.1", proxy.port)
        far = await accepted.get()
        try:
            yield Road(proxy, {Way.UP: near, Way.DOWN: far}, await proxy.passage(0))
        finally:
            later = [accepted.get_nowait() for _ in range(accepted.qsize())]
            for _, writer in (near, far, *later):
                await hang_up(writer)


async def ending(streams: Streams) -> str:
    """Return how a connection ends once all has been read."""
    try:
        async with asyncio.timeout(HANG):
            while await streams[0].read(65536):
                pass
    except ConnectionError:
        return "reset"
    return "eof"


async def is_silent(streams: Streams) -> bool:
    """Tell that nothing comes, not even an end; as long as one can wait for nothing."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await streams[0].read(1)
            return False
    return True


@each_way
async def test_what_is_left_alone_arrives(way: Way):
    content = noise(300_000)
    async with road(Script()) as between:
        await between.send(way, content)
        between.sender(way)[1].write_eof()
        assert await between.receiver(way)[0].read(-1) == content
        await between.send(way.back, b"an answer behind the end")
        between.sender(way.back)[1].write_eof()
        assert await between.receiver(way.back)[0].read(-1) == b"an answer behind the end"


@each_way
async def test_an_end_that_refuses_ends_the_other(way: Way):
    async with road(Script()) as between:
        between.sender(way)[1].transport.abort()
        assert await ending(between.receiver(way)) in ("reset", "eof")


@each_way
@pytest.mark.parametrize("offset", [0, 1, 1000, 100_000])
@pytest.mark.parametrize(
    ("kind", "at_the_receiver", "at_the_sender"),
    [
        (Kind.FIN, "eof", "eof"),
        (Kind.RST, "reset", "reset"),
        (Kind.BLACKHOLE, "", ""),
        (Kind.HALF_OPEN, "reset", ""),
        (Kind.HALF_CLOSE, "eof", ""),
    ],
)
async def test_each_fault_strikes_at_its_offset(
    way: Way, offset: int, kind: Kind, at_the_receiver: str, at_the_sender: str
):
    content = noise(100_100)
    fault = Fault(kind, way, offset)
    async with road(Script(fault)) as between:
        between.sender(way)[1].write(content)
        async with asyncio.timeout(HANG):
            got = await between.receiver(way)[0].readexactly(offset)
            assert await between.passage.struck == fault
        assert got == content[:offset]
        assert between.passage.passed == {way: offset, way.back: 0}
        for streams, expected in (
            (between.receiver(way), at_the_receiver),
            (between.sender(way), at_the_sender),
        ):
            if expected:
                assert await ending(streams) == expected
            else:
                assert await is_silent(streams)


@each_way
async def test_a_half_closed_connection_carries_the_other_way(way: Way):
    content = noise(200_000)
    async with road(Script(Fault(Kind.HALF_CLOSE, way, 10))) as between:
        await between.send(way, noise(5000))
        assert await between.receiver(way)[0].read(-1) == noise(5000)[:10]
        await between.send(way.back, content)
        between.sender(way.back)[1].write_eof()
        assert await between.receiver(way.back)[0].read(-1) == content


@each_way
async def test_a_fault_can_be_done_now_and_the_next_connection_is_free_of_it(way: Way):
    async with road(Script()) as between:
        await between.send(way, b"before")
        assert await between.receiver(way)[0].readexactly(6) == b"before"
        between.proxy.strike(Fault(Kind.RST))
        assert await ending(between.receiver(way)) == "reset"
        assert await ending(between.sender(way)) == "reset"
        again = await asyncio.open_connection("127.0.0.1", between.proxy.port)
        passage = await between.proxy.passage(1)
        again[1].write(b"after")
        while passage.passed[Way.UP] < 5:
            await asyncio.sleep(0.001)
        await hang_up(again[1])


async def test_a_black_hole_takes_only_what_buffers_hold():
    async with road(Script(Fault(Kind.BLACKHOLE))) as between:
        writer = between.sender(Way.UP)[1]
        writer.write(bytes(20_000_000))
        await asyncio.sleep(0.1)
        assert writer.transport.get_write_buffer_size() > 0
        writer.transport.abort()


@each_way
async def test_bytes_at_a_time(way: Way):
    content = noise(3000)
    async with road(Script(shapes={way: Shape(piece=1, pieces_until=100)})) as between:
        await between.send(way, content)
        async with asyncio.timeout(HANG):
            assert await between.receiver(way)[0].readexactly(len(content)) == content
        # A hundred single bytes, and the rest in a piece or a few.
        assert 100 < between.passage.pieces[way] < 120


@pytest.mark.parametrize(
    "shape", [Shape(rate=40_000), Shape(delay=0.2), Shape(jitter=4.0)], ids=["rate", "delay", "jit"]
)
async def test_what_is_slow_comes_later(shape: Shape):
    """Later than an answer the other way that was sent after it."""
    content = noise(20_000)
    async with road(Script(shapes={Way.UP: shape}, seed=1)) as between:
        await between.send(Way.UP, content)
        await between.send(Way.DOWN, content)
        assert await between.receiver(Way.DOWN)[0].readexactly(len(content)) == content
        assert between.passage.passed[Way.UP] < len(content)
        async with asyncio.timeout(HANG):
            assert await between.receiver(Way.UP)[0].readexactly(len(content)) == content


async def test_nobody_there_is_a_reset():
    listening = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    listening.close()
    await listening.wait_closed()
    async with fault_proxy("127.0.0.1", port) as proxy:
        streams = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await ending(streams) == "reset"
        await hang_up(streams[1])


@settings(max_examples=settings.default.max_examples // 5)
@given(scripts(st.integers(0, 60_000)), st.binary(max_size=64))
async def test_whatever_happens_what_arrives_is_a_prefix(script: Script, tail: bytes):
    contents = {way: noise(50_000, seed) + tail for seed, way in enumerate(Way)}
    async with road(script) as between:
        for way in Way:
            between.sender(way)[1].write(contents[way])
        silent = script.fault is not None and script.fault.kind is not Kind.FIN
        for way in Way:
            if not silent:
                between.sender(way)[1].write_eof()
        if silent:
            # It may never end by itself.
            await asyncio.wait([between.passage.struck], timeout=0.2)
            await asyncio.sleep(0.01)
            await between.proxy.stop()
        for way in Way:
            got = await read_to_the_end(between.receiver(way))
            assert contents[way].startswith(got)
            if script.fault is None:
                assert got == contents[way]
