"""The source: clients come, talk, go; what the service sends it."""

from __future__ import annotations

import asyncio
import random

from conformance.lab import Lab
from conformance.laboratory import scenario
from conformance.messages import (
    CONNECTION_RESET,
    CONNECTION_START,
    DATA,
    MAX_PAYLOAD,
    STREAM_RESET,
    STREAM_START,
    data,
    message,
)
from conformance.rigs import QUICK, Source, source
from conformance.sockets import Socket
from support.network.frames import PING
from support.network.ports import free_port

START_1 = "000c080210012a04535348313801"
START_2 = "000c080610012a04535348313802"
HELLO_2 = "001308011001220568656c6c6f2a04535348313802"
RESET_2 = "000c080710012a04535348313802"
STREAM_RESET_1 = "000a080310012a0453534831"
MOST = 16_000_000
LAST = b"and these are the last bytes"


@scenario("S13")
async def test_s13_first_and_second_accept(lab: Lab) -> None:
    rig = await source(lab)
    await lab.client(rig.ports["SSH1"])
    await rig.link.expect(START_1)
    await lab.client(rig.ports["SSH1"])
    await rig.link.expect(START_2)
    assert [frame.payload.hex() for frame in rig.link.frames] == [START_1, START_2]


@scenario("S14")
async def test_s14_data_of_the_second_connection(lab: Lab) -> None:
    rig = await source(lab)
    await rig.connect()
    client, _ = await rig.connect()
    await client.send(b"hello")
    await rig.link.expect(HELLO_2)


@scenario("S15")
async def test_s15_200000_bytes(lab: Lab) -> None:
    rig = await source(lab)
    client, start = await rig.connect()
    sent = random.Random(15).randbytes(200_000)
    lab.background(client.send(sent))
    received = b""
    while len(received) < len(sent):
        part = await rig.link.next()
        assert part[:4] == (DATA, *start[1:4])
        assert 0 < len(part.payload) <= MAX_PAYLOAD
        received += part.payload
    assert received == sent, "other bytes than were sent"


@scenario("S16")
async def test_s16_client_closes(lab: Lab) -> None:
    rig = await source(lab)
    first, start = await rig.connect()
    second, _ = await rig.connect()
    sent = random.Random(16).randbytes(100_000)
    await second.send(sent)
    second.close()
    received = b""
    while (part := await rig.link.next()).kind == DATA:
        assert part.connection == 2
        received += part.payload
    assert received == sent, f"{len(received)} of {len(sent)} bytes before the reset"
    assert part.raw.hex() == RESET_2
    await rig.check(first, start)


@scenario("S17", "R2026-03")
async def test_s17_r2026_03_connection_reset_received(lab: Lab) -> None:
    rig = await source(lab)
    first, start = await rig.connect()
    second, _ = await rig.connect(buffer=4096)
    sent = random.Random(17).randbytes(150_000)
    await rig.link.send(*data(sent, 1, "SSH1", 2), RESET_2)
    await asyncio.sleep(0.2)
    await second.expect_eof(sent)
    await rig.check(first, start)


@scenario("S18")
async def test_s18_stream_reset_received(lab: Lab) -> None:
    rig = await source(lab, "SSH1", "HTTP1")
    other, other_start = await rig.connect("HTTP1")
    clients = [(await rig.connect())[0] for _ in range(2)]
    for connection in (1, 2):
        await rig.link.send(*data(b"last", 1, "SSH1", connection))
    await rig.link.send(STREAM_RESET_1)
    for client in clients:
        await client.expect_cut(b"last", told=lab.target.is_ours)
    await rig.check(other, other_start)
    _, start = await rig.connect()
    assert start.raw.hex() == "000c080210022a04535348313803"


@scenario("S19")
async def test_s19_messages_for_nothing_current(lab: Lab) -> None:
    rig = await source(lab)
    client, start = await rig.connect()
    await rig.link.send(
        message(STREAM_RESET, 9, "SSH1"),
        message(STREAM_RESET, 0, "SSH1"),
        *data(b"wrong stream", 9, "SSH1", 1),
        *data(b"wrong connection", 1, "SSH1", 77),
        *data(b"wrong service", 1, "VNC", 1),
        message(CONNECTION_RESET, 1, "SSH1", 77),
    )
    await rig.check(client, start)
    assert rig.stage.connections == 1


@scenario("S20")
async def test_s20_connection_reset_of_another_stream(lab: Lab) -> None:
    rig = await source(lab)
    client, start = await rig.connect()
    await rig.link.send(message(CONNECTION_RESET, 9, "SSH1", 1))
    await rig.check(client, start)


@scenario("S21")
async def test_s21_session_reset(lab: Lab) -> None:
    rig = await source(lab, "SSH1", "HTTP1")
    clients = [(await rig.connect(service))[0] for service in ("SSH1", "HTTP1")]
    await rig.link.send("00020804")
    for client in clients:
        await client.expect_end()
    for service in ("SSH1", "HTTP1"):
        client, start = await rig.connect(service)
        assert start[:2] == (STREAM_START, 2)
        await rig.check(client, start)
    assert rig.stage.connections == 1


@scenario("S36", patience=25)
async def test_s36_v1_peer(lab: Lab) -> None:
    stage = lab.stage()
    port = free_port()
    lab.proxy(
        *("-e", stage.endpoint, "-b", "127.0.0.1", "-s", str(port), "-y", "V1"),
        ours=("--linger", "0.3"),
    )
    link = await stage.tunnel()
    client = await lab.client(port)
    await link.expect("000408021001")
    await client.send(b"hello")
    await link.expect("000b08011001220568656c6c6f")
    await link.send("000b08011001220568656c6c6f")
    await client.expect(b"hello")
    client.close()
    await link.expect("000408031001")
    await lab.client(port)
    await link.expect("000408021002")


@scenario("S36")
async def test_s36_v2_peer(lab: Lab) -> None:
    rig = await source(lab, more=("-y", "V2"))
    client = await lab.client(rig.ports["SSH1"])
    await rig.link.expect("000a080210012a0453534831")
    await client.send(b"hello")
    await rig.link.expect("001108011001220568656c6c6f2a0453534831")
    await rig.link.send("001108011001220568656c6c6f2a0453534831")
    await client.expect(b"hello")
    client.close()
    await rig.link.expect("000a080310012a0453534831")


@scenario("S37")
async def test_s37_second_client_of_a_v2_peer(lab: Lab) -> None:
    """Refused or waiting; and served once the first has gone."""
    rig = await source(lab, more=("-y", "V2"))
    first, start = await rig.connect()
    second = await lab.client(rig.ports["SSH1"])
    await second.send(b"second")
    for _ in range(3):
        await rig.check(first, start)
    first.close()
    await rig.link.find(STREAM_RESET)
    if lab.target.is_ours:
        assert (await rig.link.find(STREAM_START)).stream == 2
        assert (await rig.link.find(DATA)).payload == b"second"
    else:
        await rig.connect()


@scenario("S38")
async def test_s38_starts_at_a_source(lab: Lab) -> None:
    rig = await source(lab)
    await rig.connect()
    for kind in (STREAM_START, CONNECTION_START):
        await rig.link.send(message(kind, 7, "SSH1", 5))
        await rig.recover()
        client, start = await rig.connect()
        await rig.check(client, start)


@scenario("S39")
async def test_s39_130_connections(lab: Lab) -> None:
    """Those beyond a limit are refused without harm; ours has none."""
    rig = await source(lab)
    first, start = await rig.connect()
    served = 1
    for _ in range(129):
        client = await lab.client(rig.ports["SSH1"])
        served += await _is_served(rig, client)
    assert served == 130 or not lab.target.is_ours
    await rig.check(first, start)


async def _is_served(rig: Source, client: Socket) -> bool:
    """Tell whether a client is announced to the service, and not closed."""
    loop = asyncio.get_running_loop()
    announced = loop.create_task(rig.link.find(CONNECTION_START))
    closed = loop.create_task(client.rest())
    try:
        await asyncio.wait([announced, closed], return_when=asyncio.FIRST_COMPLETED)
        if announced.done():
            announced.result()
        return announced.done()
    finally:
        for task in (announced, closed):
            task.cancel()
        await asyncio.gather(announced, closed, return_exceptions=True)


@scenario("B20")
async def test_b20_60_at_once(lab: Lab) -> None:
    """Again and again: the listener's queue may be too short only now and then."""
    rig = await source(lab)
    for wave in range(3):
        clients = await asyncio.gather(*(lab.client(rig.ports["SSH1"]) for _ in range(60)))
        starts = [await rig.link.find(STREAM_START, CONNECTION_START) for _ in clients]
        for start in starts:
            text = b"%03d" % start.connection
            await rig.link.send(*data(text, start.stream, "SSH1", start.connection))
        seen = {int(await client.receive(3)) for client in clients}
        assert seen == {start.connection for start in starts}, "a client got what was for another"
        assert seen == set(range(60 * wave + 1, 60 * wave + 61))
        for start in starts:
            await rig.link.send(message(CONNECTION_RESET, start.stream, "SSH1", start.connection))
        for client in clients:
            await client.expect_end()
            client.close()


@scenario("S39")
async def test_s39_limit_of_two(lab: Lab) -> None:
    rig = await source(lab, settings={"tcp.max_active_connections": 2})
    first, start = await rig.connect()
    await rig.connect()
    third = await lab.client(rig.ports["SSH1"])
    await third.expect_end()
    await rig.check(first, start)
    assert not rig.link.pending(), "the refused client was announced"


@scenario("S41", patience=60)
async def test_s41_stalled_service(lab: Lab) -> None:
    """The client is blocked after a bounded number of bytes, and none of them is lost."""
    rig = await source(lab)
    client, _ = await rig.connect()
    rig.link.hold()
    most = (1000 if lab.full else 250) * 1024 * 1024
    before = rig.proxy.memory
    taken = await client.fill(most, calm=1.5)
    grown = (rig.proxy.memory - before) // 1024**2
    assert taken < most, f"{taken // 1024**2} MB were taken, the process grew by {grown} MB"
    assert grown < 32, f"the process grew by {grown} MB"
    rig.link.go_on()
    passed = 0
    while passed < taken:
        part = await rig.link.next()
        assert part.payload.count(0) == len(part.payload), "other bytes than were sent"
        passed += len(part.payload)
        rig.link.frames.clear()
    assert passed == taken


@scenario("B2", patience=40)
async def test_b2_client_that_stops_reading(lab: Lab) -> None:
    rig = await source(lab, ours=("--stall-timeout", "1"))
    await rig.connect(buffer=4096)
    second, start = await rig.connect()
    before = rig.proxy.memory
    for part in data(bytes(12_000_000), 1, "SSH1", 1):
        await rig.link.send(part)
    await rig.check(second, start)
    grown = (rig.proxy.memory - before) // 1024**2
    assert grown < 64, f"the process grew by {grown} MB"


@scenario("S44", "B12")
async def test_s44_b12_half_closed_client_gets_its_answer(lab: Lab) -> None:
    rig = await source(lab, ours=("--linger", "20"))
    client, start = await rig.connect()
    await client.send(b"request")
    client.half_close()
    assert (await rig.link.find(DATA)).payload == b"request"
    await asyncio.sleep(0.3)
    answer = random.Random(44).randbytes(100_000)
    await rig.link.send(*data(answer, 1, "SSH1", start.connection))
    await rig.link.send(message(CONNECTION_RESET, 1, "SSH1", start.connection))
    await client.expect_eof(answer)


@scenario("R145")
async def test_r145_opens_and_closes(lab: Lab) -> None:
    rig = await source(lab)
    client, _ = await rig.connect()
    client.close()
    await rig.link.find(CONNECTION_RESET)
    client, start = await rig.connect()
    await rig.check(client, start)


@scenario("R106", patience=100)
async def test_r106_short_requests(lab: Lab) -> None:
    """Each client sends as soon as it is connected, gets its own answer, and goes."""
    rig = await source(lab)
    count = 200

    async def ask(number: int) -> None:
        client = await lab.client(rig.ports["SSH1"])
        await client.send(b"request %03d" % number)
        await client.expect(b"answer to %03d" % number)
        client.close()

    async def answer() -> None:
        asked: dict[int, bytes] = {}
        while len(asked) < count:
            part = await rig.link.find(DATA)
            asked[part.connection] = asked.get(part.connection, b"") + part.payload
            if len(asked[part.connection]) == len(b"request 000"):
                text = b"answer to " + asked[part.connection][-3:]
                await rig.link.send(*data(text, part.stream, "SSH1", part.connection))

    lab.background(answer())
    # Few at a time: how many may queue is another question (B20).
    for wave in [range(at, at + 4) for at in range(0, count, 4)]:
        await asyncio.gather(*(ask(number) for number in wave))


@scenario("R468d11e")
async def test_r468d11e_connections_that_end_at_once(lab: Lab) -> None:
    rig = await source(lab, settings=QUICK | {"websocket.ping_period_ms": 2000})
    first, start = await rig.connect()
    for number in range(100):
        client = await lab.client(rig.ports["SSH1"])
        await client.send(bytes(1000))
        if number % 2:
            client.reset()
        else:
            client.close()
    await rig.check(first, start)
    assert rig.stage.connections == 1


@scenario("R88")
async def test_r88_data_and_pings_over_a_slow_link(lab: Lab) -> None:
    """The stage checks every frame; what arrives is what two clients sent."""
    slowly = 16_000_000 if lab.full else 1_000_000
    rig = await source(lab, settings=QUICK | {"websocket.ping_period_ms": 1000}, buffer=32_768)
    clients = [await rig.connect() for _ in range(2)]
    pings = len(rig.link.pings)
    rig.link.pace = 0.01

    async def be_alive() -> None:
        while True:
            await rig.link.send_frame(PING, b"alive")
            await asyncio.sleep(0.1)

    lab.background(be_alive())
    sent = {start.connection: bytearray() for _, start in clients}

    async def press(client: Socket, connection: int) -> None:
        chance = random.Random(connection)
        while len(rig.link.pings) < pings + 2 and len(sent[connection]) < MOST:
            part = chance.randbytes(100_000)
            sent[connection] += part
            await client.send(part)
        sent[connection] += LAST
        await client.send(LAST)

    received = {connection: bytearray() for connection in sent}
    for client, start in clients:
        lab.background(press(client, start.connection))
    while not all(content.endswith(LAST) for content in received.values()):
        part = await rig.link.find(DATA)
        received[part.connection] += part.payload
        # By then dozens of pings have come from ours; other commands send few.
        if lab.target.is_ours and sum(map(len, received.values())) > slowly:
            rig.link.pace = 0.0
    assert received == sent, "other bytes than were sent"
    assert len(rig.link.pings) > pings, "no ping meanwhile"


@scenario("R567080b", patience=60)
async def test_r567080b_connections_come_and_go(lab: Lab) -> None:
    rig = await source(lab)

    async def close_all() -> None:
        while True:
            start = await rig.link.find(STREAM_START, CONNECTION_START)
            await rig.link.send(message(CONNECTION_RESET, start.stream, "SSH1", start.connection))
            rig.link.frames.clear()

    lab.background(close_all())

    async def cycles(count: int) -> None:
        for _ in range(count):
            client = await lab.client(rig.ports["SSH1"])
            await client.expect_end()
            client.close()

    rounds = 10_000 if lab.full else 400
    await cycles(200)
    memory, descriptors = rig.proxy.memory, rig.proxy.descriptors
    await cycles(rounds)
    grown = (rig.proxy.memory - memory) // 1024
    assert grown < 2048, f"{rounds} connections have left {grown} KiB behind"
    assert rig.proxy.descriptors <= descriptors + 5
