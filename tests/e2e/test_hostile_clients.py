"""Whatever clients send, the service goes on, and other tunnels do not notice.

Every example ends with a round trip through a tunnel that behaves, and with a look
at what was logged: an exception that nobody expected is a failure.
"""

import asyncio
import contextlib
import logging
import os
import random
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.network.frames import BINARY, frame
from support.service import MessageClient, api, config, dial, running, trust
from support.waiting import HANG
from tailrace.service.config import DataSettings
from tailrace.service.limits import Limits
from tailrace.service.tunneling_service import TunnelingService
from tailrace.wire import (
    MAX_FRAME,
    MAX_PAYLOAD,
    SUBPROTOCOL_V3,
    Message,
    MessageType,
    encode_delimited,
)

START = MessageType.STREAM_START
DATA = MessageType.DATA

# Every example is a TLS connection or two; HYPOTHESIS_PROFILE=deep for more of them.
FUZZ = settings(
    max_examples=settings.default.max_examples // 3,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
CLIENT = "2da438cf-9a30-4148-b236-c338182f243c"


@dataclass
class Stage:
    """A service, a tunnel that behaves, and one for the villain."""

    service: TunnelingService
    source: MessageClient
    destination: MessageClient
    prey: dict[str, str]
    faults: list[Any]
    tls: ssl.SSLContext

    async def check(self) -> None:
        """The good tunnel still works, and nobody was surprised."""
        token = os.urandom(8)
        await self.source.send(data(token))
        answer = await asyncio.wait_for(self.destination.recv(), HANG)
        assert answer.payload == token
        await self.destination.send(data(token[::-1]))
        answer = await asyncio.wait_for(self.source.recv(), HANG)
        assert answer.payload == token[::-1]
        assert self.faults == []

    async def connect(self, *, tls: bool = True) -> "Wire":
        host, _, port = self.service.endpoints.data_endpoint.rpartition(":")
        options: dict[str, Any] = {}
        if tls:
            options = {"ssl": self.tls, "server_hostname": host}
        return Wire(*await asyncio.open_connection(host, int(port), **options))

    def upgrade(self, side: str = "source") -> bytes:
        return (
            f"GET /tunnel?local-proxy-mode={side} HTTP/1.1\r\nHost: localhost\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: 9/h0zvwMEXrg06G+RjnmcA==\r\n"
            f"access-token: {self.prey[side]}\r\nclient-token: {CLIENT}\r\n"
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL_V3}\r\n\r\n"
        ).encode()

    async def upgraded(self, side: str = "source") -> "Wire":
        wire = await self.connect()
        wire.writer.write(self.upgrade(side))
        head = await asyncio.wait_for(wire.reader.readuntil(b"\r\n\r\n"), HANG)
        assert head.startswith(b"HTTP/1.1 101 ")
        return wire


@dataclass
class Wire:
    """A connection on which a test says what it likes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, content: bytes) -> None:
        """Send bytes, as long as somebody listens."""
        with contextlib.suppress(ConnectionError):
            self.writer.write(content)
            await asyncio.wait_for(self.writer.drain(), HANG)

    def hang_up(self) -> None:
        self.writer.transport.abort()


def data(payload: bytes, connection: int = 1) -> Message:
    return Message(DATA, 1, "", connection, payload)


class Collector(logging.Handler):
    """Keeps what the loggers call an error."""

    def __init__(self, faults: list[Any]) -> None:
        super().__init__(logging.WARNING)
        self._faults = faults

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info or record.levelno >= logging.ERROR:
            self._faults.append(record.getMessage())


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    faults: list[Any] = []
    collector = Collector(faults)
    logging.getLogger().addHandler(collector)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    quick = DataSettings(close_timeout=1.0, sweep_interval=0.1)
    limits = Limits(handshake_seconds=2.0, connection_rate=0, request_rate=0)
    async with running(config(tmp_path / "state", data=quick, limits=limits)) as service:
        client = api(service.endpoints)
        good = await asyncio.to_thread(client.open_tunnel)
        prey = await asyncio.to_thread(client.open_tunnel, destinationConfig={"services": ["S"]})
        client.close()
        endpoints = service.endpoints
        async with (
            dial(endpoints, "source", good["sourceAccessToken"]) as source,
            dial(endpoints, "destination", good["destinationAccessToken"]) as destination,
        ):
            await source.send(Message(START, 1, "", 1))
            assert (await destination.recv()).type == START
            tokens = {side: prey[f"{side}AccessToken"] for side in ("source", "destination")}
            yield Stage(service, source, destination, tokens, faults, trust(endpoints))
    logging.getLogger().removeHandler(collector)


@FUZZ
@given(st.binary(max_size=300))
async def test_what_is_not_even_tls(stage: Stage, content: bytes) -> None:
    wire = await stage.connect(tls=False)
    await wire.say(content)
    await stage.check()
    wire.hang_up()


LINES = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.sampled_from(
            [
                b"GET /tunnel?local-proxy-mode=source HTTP/1.1",
                b"Host: localhost",
                b"Upgrade: websocket",
                b"Connection: Upgrade",
                b"Sec-WebSocket-Key: 9/h0zvwMEXrg06G+RjnmcA==",
                b"Sec-WebSocket-Version: 13",
                b"access-token: \xff",
                b"Cookie: awsiot-tunnel-token=;awsiot-tunnel-token",
                b"Content-Length: 99999999999999999999",
                b"Transfer-Encoding: chunked",
                b"",
            ]
        ),
    ),
    max_size=12,
)


@FUZZ
@given(LINES)
async def test_upgrade_requests_of_any_kind(stage: Stage, lines: list[bytes]) -> None:
    wire = await stage.connect()
    await wire.say(b"\r\n".join(lines) + b"\r\n\r\n")
    await stage.check()
    wire.hang_up()


@FUZZ
@given(st.integers(0), st.integers(1, 255), st.sampled_from(["flip", "cut", "insert"]))
async def test_upgrade_requests_that_were_right_once(
    stage: Stage, at: int, mask: int, how: str
) -> None:
    request = bytearray(stage.upgrade())
    at %= len(request)
    if how == "flip":
        request[at] ^= mask
    elif how == "cut":
        del request[at : at + mask]
    else:
        request[at:at] = bytes((mask,)) * mask
    wire = await stage.connect()
    await wire.say(bytes(request))
    await stage.check()
    wire.hang_up()


FRAMES = st.lists(
    st.tuples(
        st.integers(0, 127),
        st.binary(max_size=200),
        st.booleans(),
        st.sampled_from([True] * 9 + [False]),
    ),
    min_size=1,
    max_size=6,
)


@FUZZ
@given(st.sampled_from(["source", "destination"]), FRAMES, st.binary(max_size=30))
async def test_frames_of_any_kind(
    stage: Stage, side: str, frames: list[tuple[int, bytes, bool, bool]], tail: bytes
) -> None:
    wire = await stage.upgraded(side)
    for opcode, payload, fin, mask in frames:
        await wire.say(frame(opcode, payload, fin, masked=mask))
    await wire.say(tail)
    await stage.check()
    wire.hang_up()


MESSAGES = st.builds(
    Message,
    type=st.integers(0, 12),
    stream_id=st.integers(-3, 3),
    service_id=st.sampled_from(["", "S", "S", "T", "\u540d"]),
    connection_id=st.integers(0, 3),
    payload=st.binary(max_size=40),
    ignorable=st.booleans(),
    available_service_ids=st.just(()),
)


@FUZZ
@given(
    st.lists(st.tuples(st.sampled_from(["source", "destination"]), MESSAGES), max_size=12),
    st.integers(1, 50),
)
async def test_messages_of_any_kind_from_both_sides(
    stage: Stage, said: list[tuple[str, Message]], piece: int
) -> None:
    """Well-formed messages that make no sense, cut into frames anywhere."""
    wires = {side: await stage.upgraded(side) for side in ("source", "destination")}
    for side, message in said:
        sent = encode_delimited(message)
        for at in range(0, len(sent), piece):
            await wires[side].say(frame(BINARY, sent[at : at + piece], masked=True))
    await stage.check()
    for wire in wires.values():
        wire.hang_up()


@FUZZ
@given(LINES, st.binary(max_size=100))
async def test_api_requests_of_any_kind(stage: Stage, lines: list[bytes], body: bytes) -> None:
    host, _, port = stage.service.endpoints.api_endpoint[8:].rpartition(":")
    wire = Wire(
        *await asyncio.open_connection(host, int(port), ssl=stage.tls, server_hostname=host)
    )
    await wire.say(b"POST / HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + body)
    await stage.check()
    wire.hang_up()


async def test_a_connection_that_says_nothing_costs_others_nothing(stage: Stage) -> None:
    wires = [await stage.connect(tls=False) for _ in range(100)]
    await stage.check()
    for wire in wires:
        wire.hang_up()


async def test_strangers_take_no_place_from_anybody(tmp_path: Path) -> None:
    """Silent ones hold all places of both ports; who has a key or a token gets in all the same."""
    limits = Limits(connections=5, address_connections=0, connection_rate=0)
    async with running(config(tmp_path / "state", limits=limits)) as service:
        endpoints = service.endpoints
        addresses = (endpoints.api_endpoint.removeprefix("https://"), endpoints.data_endpoint)
        strangers = []
        for address in addresses:
            host, _, port = address.rpartition(":")
            strangers += [await asyncio.open_connection(host, int(port)) for _ in range(20)]
        client = api(endpoints)
        opened = await asyncio.to_thread(client.open_tunnel)
        async with (
            dial(endpoints, "source", opened["sourceAccessToken"]) as source,
            dial(endpoints, "destination", opened["destinationAccessToken"]) as destination,
        ):
            await source.send(Message(START, 1, "", 1), data(b"there"))
            assert (await destination.recv()).type == START
            assert (await destination.recv()).payload == b"there"
            await asyncio.to_thread(client.list_tunnels)
        client.close()
        for _, writer in strangers:
            writer.transport.abort()


async def test_garbage_at_full_speed(stage: Stage) -> None:
    """Links that are broken off and come back, all the while."""
    chance = random.Random(5)
    over = False

    async def villain(side: str) -> None:
        # Not cancelled: wait_for of Python 3.11 loses that when it comes with its result.
        while not over:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                wire = await stage.upgraded(side)
                await wire.say(frame(BINARY, chance.randbytes(60_000), masked=True))
                wire.hang_up()

    loop = asyncio.get_running_loop()
    villains = [loop.create_task(villain(side)) for side in ("source", "destination")]
    for _ in range(200):
        await stage.check()
    over = True
    await asyncio.gather(*villains)


async def test_a_flood_gives_way(stage: Stage) -> None:
    """However much one tunnel moves, another one's message does not wait for much of it.

    Counted in bytes of the flood that arrive during a round trip, not in time: a relay
    that served one link until it had nothing more would let all of them pass first.
    """
    endpoints, total = stage.service.endpoints, 0
    headers = {"client_token": CLIENT, "expect_ids": ["S"]}
    async with (
        dial(endpoints, "source", stage.prey["source"], **headers) as source,
        dial(endpoints, "destination", stage.prey["destination"], **headers) as destination,
    ):
        await source.send(Message(START, 1, "S", 1))
        payload = bytes(MAX_PAYLOAD)

        async def flood() -> None:
            while True:
                await source.send(Message(DATA, 1, "S", 1, payload))

        async def swallow() -> None:
            nonlocal total
            while True:
                frame = await destination.socket.recv()
                total += len(frame)

        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(flood()), loop.create_task(swallow())]
        while total < 10_000_000:
            await asyncio.sleep(0.01)
        passed = []
        for _ in range(100):
            before = total
            await stage.check()
            passed.append(total - before)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        source.socket.transport.abort()
        destination.socket.transport.abort()
    assert sorted(passed)[50] < 4 * 1024 * 1024


async def test_frames_as_large_as_they_may_be(stage: Stage) -> None:
    """131,076 bytes: twice the largest message with its length prefix."""
    source = stage.source
    messages = b"".join(encode_delimited(data(bytes((n,)) * MAX_PAYLOAD)) for n in (1, 2))
    rest = MAX_FRAME - len(messages)
    filler = data(b"")
    overhead = len(encode_delimited(data(bytes(200)))) - 200
    last = encode_delimited(data(bytes(rest - overhead)))
    frame = messages + last
    assert len(frame) == MAX_FRAME, (len(frame), filler)
    await source.socket.send(frame)
    payloads = [(await stage.destination.recv()).payload for _ in range(3)]
    assert [len(payload) for payload in payloads] == [MAX_PAYLOAD, MAX_PAYLOAD, rest - overhead]
    await stage.check()
