"""Streams within this process: what each side sees of the other, alone and through a tunnel."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.network.applications import application, check_echo, client, echo, noise
from support.service.process import ServiceProcess
from support.tunnel import Ends, both_proxies, running_proxy, tunnel_of
from support.waiting import until
from tailrace.errors import LocalProtocolError, OpenFailed
from tailrace.localproxy.connection_states import ConnectionState
from tailrace.localproxy.events import (
    ConnectionClosed,
    ConnectionOpened,
    Listening,
    Reconnecting,
    ServicesMapped,
)
from tailrace.localproxy.in_process import StreamEnd, new_streams
from tailrace.localproxy.proxy import LocalProxy
from tailrace.localproxy.routes import StreamHandler
from tailrace.localproxy.settings import PeerVersion
from tailrace.wire import Side


class Sides:
    """Both sides of a stream; ``read`` and ``write`` are what the connection does."""

    def __init__(self) -> None:
        self.end, (self.reader, self.writer) = new_streams(asyncio.get_running_loop())
        self.calls: list[str] = []

    @property
    def transport(self) -> asyncio.WriteTransport:
        return self.writer.transport

    def read(self, limit: int = 1000) -> bytes:
        buffer = bytearray(limit)
        size = self.end.recv_into(memoryview(buffer), limit)
        return bytes(buffer[:size])

    def write(self, data: bytes) -> int:
        memory = bytearray(data)
        sent = self.end.send(memoryview(memory))
        memory[:] = bytes(len(memory))
        return sent

    def note(self, call: str, then: Callable[[], object] = lambda: None) -> Callable[[], None]:
        def noted() -> None:
            self.calls.append(call)
            then()

        return noted

    def fill_reader(self) -> int:
        """Write until the reader is full; return the number of bytes."""
        size = 0
        while True:
            try:
                size += self.write(bytes(60_000))
            except BlockingIOError:
                return size


@pytest.fixture
async def sides() -> AsyncIterator[Sides]:
    sides = Sides()
    yield sides
    sides.end.close()
    await turns()


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# -- the program writes --------------------------------------------------------------------------


async def test_what_the_program_writes_is_read_in_parts(sides: Sides):
    sides.writer.writelines([b"hel", memoryview(b"lo"), bytearray(b" again")])
    assert sides.transport.get_write_buffer_size() == 11
    assert sides.read(5) == b"hello"
    assert sides.read(100) == b" again"
    with pytest.raises(BlockingIOError):
        sides.read()
    assert sides.transport.get_write_buffer_size() == 0


async def test_a_program_that_writes_too_much_waits(sides: Sides):
    sides.writer.write(bytes(64 * 1024))
    await sides.writer.drain()
    sides.writer.write(b"x")
    sides.writer.write(b"x")
    draining = asyncio.get_running_loop().create_task(sides.writer.drain())
    await turns()
    assert not draining.done()
    sides.read(64 * 1024 + 2 - 16 * 1024 - 1)
    await turns()
    assert not draining.done()
    sides.read(1)
    await draining
    sides.read(16 * 1024)


async def test_the_end_of_file_comes_after_what_was_written(sides: Sides):
    assert sides.writer.can_write_eof()
    sides.writer.write(b"last words")
    sides.writer.write_eof()
    assert sides.read() == b"last words"
    assert sides.read() == b""
    with pytest.raises(RuntimeError, match=r"after write_eof"):
        sides.writer.write(b"more")
    # The other half goes on.
    assert not sides.writer.is_closing()
    sides.write(b"answer")
    assert await sides.reader.read(100) == b"answer"


async def test_readiness_to_read_is_told_for_as_long_as_there_is_something(sides: Sides):
    sides.end.start_reading(sides.note("readable", lambda: sides.read(4)))
    await turns()
    assert sides.calls == []
    sides.writer.write(b"123456789")
    assert sides.calls == []  # in a turn of its own
    await turns(5)
    assert sides.calls == ["readable"] * 3
    sides.writer.write(b"1")
    sides.end.stop_reading()
    await turns()
    assert len(sides.calls) == 3
    sides.end.start_reading(sides.note("readable", lambda: sides.read(4)))
    await turns()
    assert len(sides.calls) == 4
    sides.end.stop_reading()
    sides.writer.write_eof()
    sides.end.start_reading(sides.note("end", sides.end.stop_reading))
    await turns()
    assert sides.calls[4:] == ["end"]


async def test_one_that_stops_reading_in_its_callback_is_called_no_more(sides: Sides):
    sides.writer.write(b"12345678")
    sides.end.start_reading(sides.note("readable", sides.end.stop_reading))
    await turns()
    assert sides.calls == ["readable"]


# -- the connection writes -----------------------------------------------------------------------


async def test_what_comes_from_the_tunnel_is_copied_for_the_program(sides: Sides):
    assert sides.write(b"hello") == 5
    assert sides.end.sendmsg([memoryview(b" ag"), memoryview(b"ain")]) == 6
    assert await sides.reader.read(100) == b"hello again"
    assert sides.end.unacknowledged() == 0


async def test_of_many_pieces_it_takes_what_it_has_room_for(sides: Sides):
    pieces = [memoryview(bytes(60_000)) for _ in range(11)]
    assert sides.end.sendmsg(pieces) == 540_000
    with pytest.raises(BlockingIOError):
        sides.end.sendmsg(pieces[9:])


async def test_a_program_that_reads_nothing_takes_no_more(sides: Sides):
    written = sides.fill_reader()
    assert 512 * 1024 < written < 600_000
    assert not sides.transport.is_reading()
    sides.end.start_writing(sides.note("writable", sides.end.stop_writing))
    await turns()
    assert sides.calls == []
    received = 0
    while received <= written - 64 * 1024:
        received += len(await sides.reader.read(10_000))
        assert sides.transport.is_reading() is (written - received <= 64 * 1024)
    await turns()
    assert sides.calls == ["writable"]
    assert sides.write(b"again") == 5
    await sides.reader.readexactly(written - received + 5)


async def test_room_is_told_for_as_long_as_there_is_some(sides: Sides):
    def write() -> None:
        if len(sides.calls) == 3:
            sides.end.stop_writing()

    sides.end.start_writing(sides.note("writable", write))
    await turns(6)
    assert sides.calls == ["writable"] * 3


async def test_a_shut_down_is_the_end_of_file_of_the_program(sides: Sides):
    sides.write(b"last words")
    sides.end.shut_down()
    assert await sides.reader.read() == b"last words"
    assert sides.reader.at_eof()
    sides.writer.write(b"still there?")
    assert sides.read() == b"still there?"
    sides.end.close()
    await sides.writer.wait_closed()
    assert sides.writer.is_closing()


# -- the program leaves --------------------------------------------------------------------------


async def test_a_close_is_seen_after_what_was_written(sides: Sides):
    sides.end.start_reading(lambda: None)
    sides.writer.write(b"last words")
    sides.writer.close()
    sides.writer.close()
    assert sides.writer.is_closing()
    assert not sides.transport.is_reading()
    assert sides.end.pending_error() == errno.EPIPE
    closed = asyncio.get_running_loop().create_task(sides.writer.wait_closed())
    await turns()
    assert not closed.done()
    # As a kernel would, until all was read.
    assert sides.write(b"nobody reads this") == 17
    assert sides.read(5) == b"last "
    await turns()
    assert not closed.done()
    assert sides.read() == b"words"
    await closed
    for failing in (
        sides.read,
        lambda: sides.write(b"x"),
        lambda: sides.end.sendmsg([memoryview(b"x")]),
    ):
        with pytest.raises(BrokenPipeError):
            failing()
    sides.end.stop_reading()


async def test_a_close_is_told_to_one_that_reads_and_to_one_that_writes(sides: Sides):
    sides.fill_reader()
    sides.end.start_writing(sides.note("writable", sides.end.stop_writing))
    sides.end.start_reading(sides.note("readable", sides.end.stop_reading))
    sides.writer.close()
    await turns()
    assert sorted(sides.calls) == ["readable", "writable"]
    await sides.writer.wait_closed()


async def test_a_reset_loses_what_was_written(sides: Sides):
    sides.writer.write(b"lost")
    sides.transport.abort()
    assert sides.end.pending_error() == errno.ECONNRESET
    with pytest.raises(ConnectionResetError):
        sides.read()
    with pytest.raises(ConnectionResetError):
        sides.write(b"x")
    await sides.writer.wait_closed()
    sides.writer.write(b"dropped")
    assert sides.transport.get_write_buffer_size() == 0


async def test_a_reset_after_a_close_waits_for_nothing(sides: Sides):
    sides.writer.write(b"lost")
    sides.writer.close()
    sides.transport.abort()
    with pytest.raises(ConnectionResetError):
        sides.read()
    await sides.writer.wait_closed()


async def test_a_program_that_is_there_has_no_error_pending(sides: Sides):
    assert sides.end.pending_error() == 0


# -- the connection leaves -----------------------------------------------------------------------


async def test_drain_waits_between_the_limits_that_a_program_sets(sides: Sides):
    transport = sides.writer.transport
    assert transport.get_write_buffer_limits() == (16_384, 65_536)
    sides.writer.write(bytes(100))
    await sides.writer.drain()
    transport.set_write_buffer_limits(high=80, low=10)
    draining = asyncio.get_running_loop().create_task(sides.writer.drain())
    memory = memoryview(bytearray(100))
    for size in (50, 39):
        assert sides.end.recv_into(memory, size) == size
        await asyncio.sleep(0)
        assert not draining.done()
    assert sides.end.recv_into(memory, 1) == 1
    await draining


@pytest.mark.parametrize(
    ("high", "low", "limits"),
    [(None, None, (16_384, 65_536)), (80, None, (20, 80)), (None, 10, (10, 40)), (0, 0, (0, 0))],
)
async def test_limits_are_those_of_asyncio(
    sides: Sides, high: int | None, low: int | None, limits: tuple[int, int]
):
    sides.writer.transport.set_write_buffer_limits(high, low)
    assert sides.writer.transport.get_write_buffer_limits() == limits
    with pytest.raises(ValueError, match="must be >= low"):
        sides.writer.transport.set_write_buffer_limits(1, 2)


async def test_a_program_learns_why_its_connection_was_reset(sides: Sides):
    sides.end.reset("the application reset the connection")
    for call in (sides.reader.read, sides.writer.drain):
        with pytest.raises(ConnectionResetError) as raised:
            await call()
        assert raised.value.errno == errno.ECONNRESET
        assert raised.value.strerror == (
            f"{os.strerror(errno.ECONNRESET)}: the application reset the connection"
        )


async def test_a_program_learns_that_bytes_were_lost(sides: Sides):
    sides.end.reset()
    sides.end.reset()
    with pytest.raises(ConnectionResetError, match="Connection reset by peer"):
        await sides.reader.read()
    with pytest.raises(ConnectionResetError):
        await sides.writer.drain()
    sides.writer.close()
    assert sides.writer.is_closing()


async def test_a_program_that_has_left_is_told_nothing(sides: Sides):
    sides.writer.close()
    sides.end.shut_down()
    sides.end.close()
    await sides.writer.wait_closed()
    assert await sides.reader.read() == b""


async def test_after_an_orderly_end_the_program_keeps_what_it_has(sides: Sides):
    sides.write(b"last words")
    sides.end.shut_down()
    sides.end.close()
    await turns()
    assert await sides.reader.read() == b"last words"
    sides.writer.write(b"dropped")
    with pytest.raises(ConnectionResetError):
        await sides.writer.drain()


async def test_before_the_end_a_full_reader_takes_all_that_waits(sides: Sides):
    size = sides.fill_reader()
    sides.end.start_writing(sides.note("writable", sides.end.stop_writing))
    await turns()
    assert sides.calls == []
    sides.end.expect_end()
    await turns()
    assert sides.calls == ["writable"]
    for _ in range(3):
        assert sides.write(bytes(60_000)) == 60_000
    sides.end.reset()
    await turns()
    assert await sides.reader.readexactly(size + 180_000) == bytes(size + 180_000)
    with pytest.raises(ConnectionResetError):
        await sides.reader.read()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
async def test_an_end_holds_no_program_that_forgot_it():
    """The reader is the program's: what comes for one that was dropped goes nowhere."""
    end, streams = new_streams(asyncio.get_running_loop())
    assert isinstance(end, StreamEnd)
    del streams
    # Later Pythons close the writer of a program that forgot it, as the system would a socket.
    with suppress(BrokenPipeError):
        assert end.send(memoryview(b"hello")) == 5
    end.close()


# -- through a real service ------------------------------------------------------------------------

SIZE = 8 * 1024 * 1024


@asynccontextmanager
async def in_process_tunnel(
    service: ServiceProcess, **handlers: StreamHandler
) -> AsyncIterator[Ends]:
    """A tunnel whose clients and applications are all within this process."""
    with tunnel_of(service, *handlers) as tunnel:
        near = tunnel.settings(Side.SOURCE, listen=False)
        far = tunnel.settings(Side.DESTINATION, services=handlers)
        async with both_proxies(near, far) as ends:
            assert ends.listening == {}
            assert ends.source.all(Listening) == []
            for end in (ends.source, ends.destination):
                assert end.all(ServicesMapped)[0].services == dict.fromkeys(handlers)
            yield ends


async def test_a_client_and_an_application_within_this_process(service: ServiceProcess):
    async with in_process_tunnel(service, SSH=echo, WEB=echo) as ends:
        for service_id in ("WEB", "SSH"):
            streams = await ends.source.proxy.open_connection(service_id)
            await check_echo(streams, b"hello")
            streams[1].close()
            await streams[1].wait_closed()
        opened = ends.source.all(ConnectionOpened)
        assert opened == [
            ConnectionOpened("WEB", 1, "in process"),
            ConnectionOpened("SSH", 1, "in process"),
        ]
        closed = await ends.destination.seen(ConnectionClosed, 2)
        assert (closed.peer, closed.bytes_in, closed.bytes_out) == ("in process", 5, 5)


async def test_eight_mebibytes_both_ways_under_back_pressure(
    service: ServiceProcess, loop_kind: str
):
    """Nobody holds more than a bounded part of it, and every byte arrives."""
    up, down = noise(SIZE, 1), noise(SIZE, 2)
    hashes: list[bytes] = []
    start = asyncio.Event()

    async def slowly(reader: asyncio.StreamReader) -> bytes:
        """Take as little at a time as the stream lets through, resting now and then."""
        digest, left = hashlib.sha256(), SIZE
        while left:
            data = await reader.read(50_000)
            assert data
            left -= len(data)
            digest.update(data)
            if left % 7 == 0:
                await asyncio.sleep(0.001)
        return digest.digest()

    async def far(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await start.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(send(writer, down))
            taken = group.create_task(slowly(reader))
        hashes.append(taken.result())
        await reader.read()

    async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
        for at in range(0, SIZE, 100_000):
            writer.write(data[at : at + 100_000])
            await writer.drain()

    async with in_process_tunnel(service, SSH=far) as ends:
        reader, writer = await ends.source.proxy.open_connection("SSH")
        sending = asyncio.get_running_loop().create_task(send(writer, up))

        def stuck() -> bool:
            (connection,) = ends.source.proxy.status().connections
            return connection.state is ConnectionState.PAUSED

        # The application takes nothing yet: its client is paused in the end.
        await until(stuck, "back-pressure at the other end")
        assert not sending.done()
        (mine,) = ends.source.proxy.status().connections
        assert mine.bytes_in < SIZE // 2
        start.set()
        assert await slowly(reader) == hashlib.sha256(down).digest()
        await sending
        writer.write_eof()
        await until(lambda: hashes, "the other end")
        assert hashes == [hashlib.sha256(up).digest()]
        writer.close()


async def test_a_half_close_leaves_the_answer_its_way(service: ServiceProcess):
    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(7))
        await writer.drain()

    async with in_process_tunnel(service, SSH=count) as ends:
        reader, writer = await ends.source.proxy.open_connection("SSH")
        writer.write(b"request")
        writer.write_eof()
        assert await reader.read() == b"request"
        assert not writer.is_closing()
        writer.close()
        await writer.wait_closed()


async def test_an_in_process_client_of_an_application_on_a_socket(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel:
        async with application(echo) as app:
            far = tunnel.settings(Side.DESTINATION, services={"SSH": app})
            async with both_proxies(tunnel.settings(Side.SOURCE), far) as ends:
                streams = await ends.source.proxy.open_connection("SSH")
                await check_echo(streams, b"within")
                async with client(ends.listening["SSH"]) as outside:
                    await check_echo(outside, b"outside")
                streams[1].close()


async def test_a_proxy_that_ends_waits_for_nobody_who_has_stopped_reading(service: ServiceProcess):
    """The reader has it all: there is nothing left to wait for."""

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(SIZE))
        await writer.drain()

    async with in_process_tunnel(service, SSH=flood) as ends:
        reader, writer = await ends.source.proxy.open_connection("SSH")

        def stuck() -> bool:
            connections = ends.destination.proxy.status().connections
            return [each.state for each in connections] == [ConnectionState.PAUSED]

        await until(stuck, "back-pressure")
        (mine,) = ends.source.proxy.status().connections
        await ends.source.stop()
        closed = ends.source.all(ConnectionClosed)[0]
        assert closed.bytes_out >= mine.bytes_out
        assert await reader.readexactly(closed.bytes_out) == bytes(closed.bytes_out)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_one_that_is_cancelled_leaves_nothing_behind(service: ServiceProcess):
    """Neither while it waits nor with a connection that is open."""
    async with in_process_tunnel(service, SSH=echo) as ends:
        loop = asyncio.get_running_loop()

        async def use() -> None:
            reader, writer = await ends.source.proxy.open_connection("SSH")
            try:
                await check_echo((reader, writer), b"hello")
                await reader.read()
            finally:
                writer.close()

        using = loop.create_task(use())
        await ends.destination.seen(ConnectionOpened)
        await until(lambda: ends.source.proxy.status().connections[0].bytes_out == 5, "the echo")
        using.cancel()
        await asyncio.wait([using])
        await ends.source.seen(ConnectionClosed)
        await ends.destination.seen(ConnectionClosed)
        ends.source.drop_link()
        await ends.source.seen(Reconnecting)
        waiting = loop.create_task(ends.source.proxy.open_connection("SSH"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        await ends.source.ready(links=2)
        for end in (ends.source, ends.destination):
            assert end.proxy.status().connections == ()
        assert len(ends.source.all(ConnectionOpened)) == 1


async def test_a_client_that_comes_before_the_link_waits_for_it(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel:
        proxy = LocalProxy(tunnel.settings(Side.SOURCE, listen=False))
        far = tunnel.settings(Side.DESTINATION, services={"SSH": echo})
        async with running_proxy(far) as destination:
            await destination.ready()
            loop = asyncio.get_running_loop()
            opening = loop.create_task(proxy.open_connection("SSH"))
            await asyncio.sleep(0)
            running = loop.create_task(proxy.run())
            streams = await opening
            await check_echo(streams, b"hello")
            proxy.stop()
            await running
            with pytest.raises(ConnectionResetError):
                await streams[0].read()
            streams[1].close()
        with pytest.raises(OpenFailed, match="the tunnel has ended"):
            await proxy.open_connection("SSH")
        with pytest.raises(LocalProtocolError, match="only a source"):
            await destination.proxy.open_connection("SSH")


async def test_a_limit_is_told_and_so_is_an_unknown_service(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel:
        near = tunnel.settings(Side.SOURCE, listen=False, max_connections=1)
        far = tunnel.settings(Side.DESTINATION, services={"": echo})
        async with both_proxies(near, far) as ends:
            _, writer = await ends.source.proxy.open_connection("SSH")
            with pytest.raises(OpenFailed, match="limit of 1 connections"):
                await ends.source.proxy.open_connection("SSH")
            with pytest.raises(OpenFailed, match="no service 'VNC'"):
                await ends.source.proxy.open_connection("VNC")
            writer.close()


async def test_handlers_that_do_not_end_are_cancelled_with_the_proxy(service: ServiceProcess):
    ended: list[str] = []

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(5))
        try:
            await asyncio.sleep(3600.0)
        finally:
            ended.append("cancelled")

    async with in_process_tunnel(service, SSH=hold) as ends:
        reader, writer = await ends.source.proxy.open_connection("SSH")
        await check_echo((reader, writer), b"hello")
        await ends.destination.stop()
        assert ended == ["cancelled"]
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_clients_of_an_old_peer_take_turns(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel:
        near = tunnel.settings(Side.SOURCE, listen=False, peer_version=PeerVersion.V2)
        far = tunnel.settings(Side.DESTINATION, services={"SSH": echo})
        async with both_proxies(near, far) as ends:
            opening = [
                asyncio.get_running_loop().create_task(ends.source.proxy.open_connection("SSH"))
                for _ in range(3)
            ]
            for number, each in enumerate(opening):
                streams = await each
                await check_echo(streams, b"hello")
                assert len(ends.source.all(ConnectionOpened)) == number + 1
                streams[1].close()


async def test_records_of_a_tunnel_show_no_token_to_any_handler(service: ServiceProcess):
    """The whole life of both ends, at the lowest level, before the eyes of a foreign handler."""
    records: list[logging.LogRecord] = []

    class Foreign(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    async def fail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise ValueError(f"{tokens[0]} {tokens[2]}")

    logger = logging.getLogger("tailrace.localproxy")
    handler = Foreign()
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        with tunnel_of(service, "SSH") as tunnel:
            near = tunnel.settings(Side.SOURCE, listen=False)
            far = tunnel.settings(Side.DESTINATION, services={"SSH": fail})
            async with both_proxies(near, far) as ends:
                proxies = (ends.source.proxy, ends.destination.proxy)
                tokens = [tunnel.tokens[Side.DESTINATION].reveal()]
                tokens += [proxy.client_token.reveal() for proxy in proxies]
                reader, writer = await ends.source.proxy.open_connection("SSH")
                with pytest.raises(ConnectionResetError):
                    await reader.read()
                writer.close()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    text = "\n".join(logging.Formatter().format(record) + repr(vars(record)) for record in records)
    assert "ValueError: <redacted> <redacted>" in text
    for token in (*tokens, tunnel.tokens[Side.SOURCE].reveal()):
        assert token not in text
    described = {(vars(r)["side"], vars(r)["endpoint"], vars(r)["services"]) for r in records}
    assert (Side.DESTINATION, tunnel.endpoints.data_endpoint, ("SSH",)) in described


# -- the reader beside asyncio's -------------------------------------------------------------------

SEPARATOR = b"\r\n"
LIMIT = 64 * 1024
TEXT = bytes(set(range(256)) - set(SEPARATOR)) * 400
SIZES = st.one_of(st.integers(1, 40), st.integers(1, 100_000))


def text(size: int) -> bytes:
    """Return bytes without separator, other ones for each size."""
    start = size % 254
    return TEXT[start : start + size]


@settings(max_examples=60)
@given(
    pieces=st.lists(st.tuples(SIZES, st.integers(0, 30)), max_size=12),
    reads=st.lists(
        st.one_of(
            st.tuples(st.just("read"), SIZES),
            st.tuples(st.just("readexactly"), SIZES),
            st.tuples(st.sampled_from(["readline", "readuntil", "turn"]), st.just(0)),
        ),
        max_size=30,
    ),
)
def test_it_reads_what_asyncio_reads(pieces: list[tuple[int, int]], reads: list[tuple[str, int]]):
    """But for ``read``, which may return less."""
    data = bytearray(b"".join(text(size) + SEPARATOR * ends for size, ends in pieces))

    async def compare() -> None:
        sides = Sides()
        theirs = asyncio.StreamReader()

        async def feed() -> None:
            for size, ends in pieces:
                end = size + len(SEPARATOR) * ends
                theirs.feed_data(bytes(data[:end]))
                sides.end.expect_end()
                sides.write(bytes(data[:end]))
                del data[:end]
                await asyncio.sleep(0)
            theirs.feed_eof()
            sides.end.shut_down()

        feeding = asyncio.get_running_loop().create_task(feed())
        for name, size in (*reads, ("read", -1)):
            if name == "turn":
                await asyncio.sleep(0)
            elif size > 0 and name == "read":
                part = await sides.reader.read(size)
                assert 0 <= len(part) <= size
                assert part == (await theirs.readexactly(len(part)))
                assert part or theirs.at_eof()
            else:
                arguments = {"readuntil": [SEPARATOR], "readline": []}.get(name, [size])
                ours, reference = [
                    await outcome(getattr(reader, name)(*arguments))
                    for reader in (sides.reader, theirs)
                ]
                assert ours == reference
            assert sides.reader.at_eof() is theirs.at_eof()
        await feeding
        sides.writer.close()

    asyncio.run(compare())


async def outcome(reading: Coroutine[Any, Any, bytes]) -> object:
    """Return what a read returns, or what it raises."""
    try:
        return await reading
    except asyncio.IncompleteReadError as error:
        return type(error), error.partial, error.expected
    except (ValueError, asyncio.LimitOverrunError) as error:
        return type(error), str(error)


async def test_large_pieces_are_read_without_a_copy(sides: Sides):
    piece = bytes(60_000)
    sides.end.send(memoryview(piece))
    sides.end.send(memoryview(piece)[1:])
    assert await sides.reader.read(100_000) is piece
    assert await sides.reader.read(100_000) == piece[1:]


@pytest.mark.parametrize("size", [10, 100_000])
async def test_what_the_program_changes_after_writing_is_not_sent(sides: Sides, size: int):
    data = bytearray(b"a" * size)
    sides.writer.write(data)
    sides.writer.write(memoryview(data).cast("H"))
    data[:] = bytes(size)
    sent = b""
    while len(sent) < 2 * size:
        sent += sides.read()
    assert sent == b"a" * 2 * size
    with pytest.raises(TypeError):
        sides.writer.write(5)


async def test_two_may_not_wait_and_the_first_goes_on(sides: Sides):
    first = asyncio.get_running_loop().create_task(sides.reader.readline())
    await turns()
    for reading in (sides.reader.readexactly(1), sides.reader.read(1)):
        with pytest.raises(RuntimeError, match="another coroutine is already waiting"):
            await reading
    sides.write(b"hello\n")
    assert await first == b"hello\n"


async def test_a_method_that_needs_much_holds_up_nothing(sides: Sides):
    """It gets more than a reader may hold, as asyncio's does."""
    size = 2 * 1024 * 1024
    reading = asyncio.get_running_loop().create_task(sides.reader.readexactly(size))
    written = 0
    while written < size:
        await turns()
        with suppress(BlockingIOError):
            written += sides.write(bytes(60_000))
    assert await reading == bytes(size)
    assert len(await sides.reader.read(60_000)) == written - size


# -- a reset behind bytes --------------------------------------------------------------------------


def cut(sides: Sides, data: bytes) -> asyncio.StreamReader:
    """Give the program some bytes, and then a reset before it has read any."""
    sides.write(data)
    sides.end.reset()
    return sides.reader


async def test_what_came_before_a_reset_is_read_first(sides: Sides):
    reader = cut(sides, b"last words\nhalf a li")
    await turns()
    assert not reader.at_eof()
    assert await reader.readexactly(4) == b"last"
    assert await reader.readline() == b" words\n"
    assert await reader.read(6) == b"half a"
    assert await reader.read(100) == b" li"
    assert await reader.read(0) == b""
    assert not reader.at_eof()
    for _ in range(2):
        with pytest.raises(ConnectionResetError, match="Connection reset by peer"):
            await reader.read(100)
    assert isinstance(reader.exception(), ConnectionResetError)


@pytest.mark.parametrize("early", [True, False], ids=["before", "after"])
async def test_what_needs_more_than_has_come_fails(sides: Sides, early: bool):
    """Never a shorter answer, as at an end of file."""
    reads: list[Callable[[asyncio.StreamReader], Coroutine[Any, Any, bytes]]] = [
        lambda reader: reader.read(),
        lambda reader: reader.readline(),
        lambda reader: reader.readuntil(b";"),
        lambda reader: reader.readexactly(100),
    ]
    for read in reads:
        each = Sides()
        if early:
            reading = asyncio.get_running_loop().create_task(read(each.reader))
            await turns()
            cut(each, b"half")
        else:
            reading = asyncio.get_running_loop().create_task(read(cut(each, b"half")))
            await turns()
        with pytest.raises(ConnectionResetError):
            await reading
        each.writer.close()


async def test_an_end_of_file_cuts_what_is_read_as_asyncio_does(sides: Sides):
    sides.write(b"one\nhalf")
    sides.end.shut_down()
    assert not sides.reader.at_eof()
    assert await sides.reader.readuntil() == b"one\n"
    with pytest.raises(asyncio.IncompleteReadError):
        await sides.reader.readuntil()
    with pytest.raises(asyncio.IncompleteReadError):
        await sides.reader.readexactly(1)
    assert sides.reader.exception() is None
    assert sides.reader.at_eof()
