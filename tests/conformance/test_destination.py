"""The destination: applications reached, refused, slow and gone."""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
from pathlib import Path

import pytest

from conformance.lab import Lab
from conformance.laboratory import scenario
from conformance.messages import (
    CONNECTION_RESET,
    CONNECTION_START,
    DATA,
    STREAM_RESET,
    STREAM_START,
    data,
    message,
)
from conformance.rigs import QUICK, Destination, destination
from conformance.sockets import Socket

TCP_TABLE = Path("/proc/net/tcp")
RETRIES = QUICK | {"tcp.connection_retry_count": 5, "tcp.connection_retry_delay_ms": 100}
MANY_RETRIES = RETRIES | {"tcp.connection_retry_count": 100}


@scenario("S27")
async def test_s27_server_first(lab: Lab) -> None:
    rig = await destination(lab)
    await rig.link.send("000c080210012a04535348313801")
    app = await rig.applications["SSH1"].accept()
    await app.send(b"hello")
    await rig.link.expect("001308011001220568656c6c6f2a04535348313801")
    await rig.check(app)


@scenario("S28")
async def test_s28_second_connection(lab: Lab) -> None:
    rig = await destination(lab)
    first = await rig.open()
    second = await rig.open(connection=2)
    await rig.check(second, connection=2)
    await rig.check(first)
    second.close()
    reset = await rig.link.find(CONNECTION_RESET)
    assert reset.raw.hex() == "000c080710012a04535348313802"
    await rig.check(first)


@scenario("S29")
async def test_s29_refused_stream_start(lab: Lab) -> None:
    rig = await destination(lab, settings=RETRIES)
    rig.applications["SSH1"].stop_listening()
    await rig.link.send(message(STREAM_START, 1, "SSH1", 1))
    reset = await rig.link.find(STREAM_RESET, CONNECTION_RESET)
    assert reset[:3] == (STREAM_RESET, 1, "SSH1"), f"{reset} instead of STREAM_RESET"


@scenario("S29")
async def test_s29_refused_connection_start(lab: Lab) -> None:
    rig = await destination(lab, settings=RETRIES)
    await _refuse_second(rig)


@scenario("B7", patience=20)
async def test_b7_refused_connection_start_without_settings(lab: Lab) -> None:
    rig = await destination(lab, settings={})
    await _refuse_second(rig)


async def _refuse_second(rig: Destination) -> None:
    first = await rig.open()
    rig.applications["SSH1"].stop_listening()
    await rig.link.send(message(CONNECTION_START, 1, "SSH1", 2))
    reset = await rig.link.find(STREAM_RESET, CONNECTION_RESET)
    assert reset[:4] == (CONNECTION_RESET, 1, "SSH1", 2), f"{reset} instead of CONNECTION_RESET"
    await rig.check(first)


@scenario("B15", patience=25)
async def test_b15_refused_application_is_explained(lab: Lab) -> None:
    rig = await destination(lab, settings=QUICK | {"tcp.connection_retry_count": 1})
    rig.applications["SSH1"].stop_listening()
    await rig.link.send(message(STREAM_START, 1, "SSH1", 1))
    await rig.link.find(STREAM_RESET)
    line, *_ = [x for x in rig.proxy.log.splitlines() if "Could not connect to destination" in x]
    assert "Connection refused" in line, f"the log says {line.rpartition('--')[2].strip()!r}"


@scenario("S30")
async def test_s30_data_during_retries_of_the_first(lab: Lab) -> None:
    rig = await destination(lab, settings=MANY_RETRIES)
    rig.applications["SSH1"].stop_listening()
    await rig.link.send(message(STREAM_START, 1, "SSH1", 1), *data(b"early", 1, "SSH1", 1))
    await asyncio.sleep(0.5)
    app = await lab.application(rig.applications["SSH1"].port).accept()
    await rig.link.send(*data(b" bird", 1, "SSH1", 1))
    await app.expect(b"early bird")


@scenario("S30")
async def test_s30_data_during_retries_of_the_second(lab: Lab) -> None:
    rig = await destination(lab, settings=MANY_RETRIES)
    await rig.open()
    rig.applications["SSH1"].stop_listening()
    await rig.link.send(message(CONNECTION_START, 1, "SSH1", 2), *data(b"early", 1, "SSH1", 2))
    await asyncio.sleep(0.5)
    app = await lab.application(rig.applications["SSH1"].port).accept()
    await rig.link.send(*data(b" bird", 1, "SSH1", 2))
    await app.expect(b"early bird")


@scenario("S31")
async def test_s31_new_stream_while_one_is_active(lab: Lab) -> None:
    rig = await destination(lab)
    old = await rig.open()
    await rig.link.send(*data(b"last", 1, "SSH1", 1))
    await rig.link.send(message(STREAM_START, 2, "SSH1", 2))
    new = await rig.applications["SSH1"].accept()
    await old.expect_end(b"last")
    await rig.check(new, stream=2, connection=2)


@scenario("S32")
async def test_s32_connection_id_in_use(lab: Lab) -> None:
    rig = await destination(lab)
    await rig.open()
    await rig.link.send("000c080610012a04535348313801")
    await rig.link.expect("000c080710012a04535348313801")
    app = await rig.open(connection=2)
    await rig.check(app, connection=2)


@scenario("S33")
async def test_s33_no_connection_id(lab: Lab) -> None:
    rig = await destination(lab)
    await rig.link.send("000a080210012a0453534831")
    app = await rig.applications["SSH1"].accept()
    await app.send(b"hello")
    await rig.link.expect("001108011001220568656c6c6f2a0453534831")
    await rig.link.send("001108011001220568656c6c6f2a0453534831")
    await app.expect(b"hello")
    app.close()
    await rig.link.expect("000a080310012a0453534831")


@scenario("S34", "R150")
async def test_s34_r150_v1(lab: Lab) -> None:
    stage = lab.stage()
    application = lab.application()
    lab.proxy("-e", stage.endpoint, "-d", str(application.port))
    link = await stage.tunnel()
    for stream in (1, 2):
        await link.send(message(STREAM_START, stream))
        app = await application.accept()
        await app.send(b"hello")
        await link.expect(message(DATA, stream, payload=b"hello"))
        await link.send(message(DATA, stream, payload=b"hello"))
        await app.expect(b"hello")
        app.close()
        await link.expect(message(STREAM_RESET, stream))
    assert message(STREAM_START, 1).hex() == "000408021001"
    assert stage.connections == 1


@scenario("S35")
async def test_s35_v1_messages_on_a_named_tunnel(lab: Lab) -> None:
    rig = await destination(lab)
    await rig.link.send("000408021001")
    app = await rig.applications["SSH1"].accept()
    await app.send(b"hello")
    await rig.link.expect("000b08011001220568656c6c6f")
    await rig.link.send("000b08011001220568656c6c6f")
    await app.expect(b"hello")
    app.close()
    await rig.link.expect("000408031001")


@scenario("S40", "B2", patience=40)
async def test_s40_b2_slow_application(lab: Lab) -> None:
    rig = await destination(lab, ours=("--stall-timeout", "1"), buffer=4096)
    await rig.open()
    second = await rig.open(connection=2)
    before = rig.proxy.memory
    for part in data(bytes(12_000_000), 1, "SSH1", 1):
        await rig.link.send(part)
    await rig.check(second, connection=2)
    grown = (rig.proxy.memory - before) // 1024**2
    assert grown < 64, f"the process grew by {grown} MB"
    assert rig.stage.connections == 1


@scenario("S42", "R2026-03")
async def test_s42_r2026_03_reset_behind_300_kb(lab: Lab) -> None:
    rig = await destination(lab, buffer=4096)
    app = await rig.open()
    sent = random.Random(42).randbytes(300_000)
    await rig.link.send(*data(sent, 1, "SSH1", 1), message(CONNECTION_RESET, 1, "SSH1", 1))
    await asyncio.sleep(0.5)
    await app.expect_eof(sent)


@scenario("S42", "R2026-03", patience=60)
async def test_s42_r2026_03_reset_while_the_proxy_holds_bytes_back(lab: Lab) -> None:
    """The kernel takes the first megabytes; what it does not take is the proxy's to keep."""
    rig = await destination(lab, buffer=4096)
    app = await rig.open()
    if sys.platform != "linux":
        pytest.skip("this system does not tell what waits in its socket buffers")
    sent = b""
    while not await _holds_back(app, len(sent), 30_000):
        assert len(sent) < 16_000_000, "the kernel takes everything"
        part = random.Random(len(sent)).randbytes(60_000)
        sent += part
        await rig.link.send(*data(part, 1, "SSH1", 1))
    await rig.link.send(message(CONNECTION_RESET, 1, "SSH1", 1))
    await asyncio.sleep(0.2)
    app.widen(1024 * 1024)
    await app.expect_eof(sent)


async def _holds_back(app: Socket, sent: int, size: int) -> bool:
    """Tell whether so many bytes do not get as far as the socket of an application."""
    for _ in range(20):
        if sent - _in_kernel(app) < size:
            return False
        await asyncio.sleep(0.02)
    return True


def _in_kernel(app: Socket) -> int:
    """Return how many bytes on their way to an application wait in socket buffers."""
    far, near = app.peer[1], app.port
    waiting = 0
    for line in TCP_TABLE.read_text().splitlines()[1:]:
        _, local, remote, _, queues = line.split()[:5]
        ports = int(local[-4:], 16), int(remote[-4:], 16)
        sending, received = (int(each, 16) for each in queues.split(":"))
        if ports == (far, near):
            waiting += sending
        elif ports == (near, far):
            waiting += received
    return waiting


@scenario("S43")
async def test_s43_two_resets_at_once(lab: Lab) -> None:
    rig = await destination(lab)
    survivor = await rig.open()
    for connection in range(2, 102):
        app = await rig.open(connection=connection)
        await rig.link.send(*data(bytes(5000), 1, "SSH1", connection))
        reset = message(CONNECTION_RESET, 1, "SSH1", connection)
        if connection % 2:
            await rig.link.send(reset)
            app.reset()
        else:
            app.reset()
            await rig.link.send(reset)
    await rig.check(survivor)


@scenario("S45", "B1")
async def test_s45_b1_application_that_answers_nothing(lab: Lab) -> None:
    stage = lab.stage()
    hole = lab.black_hole()
    application = lab.application()
    lab.proxy(
        *("-e", stage.endpoint),
        *("-d", f"DEAD=127.0.0.1:{hole},SSH1=127.0.0.1:{application.port}"),
        settings={"websocket.ping_period_ms": 1000},
    )
    link = await stage.tunnel("DEAD", "SSH1")
    await link.send(message(STREAM_START, 1, "DEAD", 1), message(STREAM_START, 1, "SSH1", 1))
    app = await application.accept()
    for _ in range(3):
        await link.send(*data(b"down", 1, "SSH1", 1))
        await app.expect(b"down")
        await app.send(b"up")
        assert (await link.find(DATA)).payload == b"up"
    pings = len(link.pings)
    await link.until(lambda: len(link.pings) > pings + 2, "three pings")


@scenario("B8")
async def test_b8_unknown_service(lab: Lab) -> None:
    """The stream is refused; the session and its connections stay."""
    rig = await destination(lab)
    app = await rig.open()
    await rig.link.send(message(STREAM_START, 1, "VNC", 1))
    reset = await rig.link.find(STREAM_RESET)
    assert reset[1:3] == (1, "VNC")
    await rig.check(app)
    assert rig.stage.connections == 1


@scenario("B14")
async def test_b14_closed_while_an_application_is_retried(lab: Lab) -> None:
    """Retries would go on for much longer than anybody here is patient."""
    settings = {"tcp.connection_retry_count": 100, "tcp.connection_retry_delay_ms": 2500}
    rig = await destination(lab, settings=settings)
    rig.applications["SSH1"].stop_listening()
    await rig.link.send(message(STREAM_START, 1, "SSH1", 1))
    await asyncio.sleep(0.2)
    await rig.link.close(1000, "closed")
    assert await rig.proxy.ended() == 0


@scenario("R104")
async def test_r104_bind_address(lab: Lab) -> None:
    # Only Linux gives a host the whole of 127.0.0.0/8.
    address = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
    rig = await destination(lab, more=("-b", address))
    apps = [await rig.open(), await rig.open(connection=2)]
    seen = {app.peer[0] for app in apps}
    assert seen == {address}, f"connections come from {', '.join(seen)}"
    assert len({app.peer[1] for app in apps}) == 2
    await rig.check(apps[1], connection=2)


@scenario("R161")
async def test_r161_connection_start_first(lab: Lab) -> None:
    """As after a restart of the destination: the source goes on with the stream it had."""
    rig = await destination(lab)
    apps = [await rig.open(stream=3, connection=c, kind=CONNECTION_START) for c in (5, 6)]
    for connection, app in enumerate(apps, 5):
        await rig.check(app, stream=3, connection=connection)
    await rig.link.send(message(STREAM_RESET, 3, "SSH1", 6))
    for app in apps:
        await app.expect_end()
    await rig.check(await rig.open(stream=4), stream=4)


@scenario("Rbfd503e")
async def test_rbfd503e_no_byte_goes_astray(lab: Lab) -> None:
    """Three services with four connections each, both directions at once, slow readers."""
    services = ("DATA1", "DATA2", "DATA3")
    rig = await destination(lab, *services, buffer=8192)
    size = 200_000
    down = {
        (service, connection): random.Random(f"{service} {connection}").randbytes(size)
        for service in services
        for connection in range(1, 5)
    }
    up = {key: content[::-1] for key, content in down.items()}
    apps = {key: await rig.open(key[0], connection=key[1]) for key in down}
    for key, app in apps.items():
        lab.background(app.send(up[key]))

    async def send_down() -> None:
        for at in range(0, size, 9000):
            for (service, connection), content in down.items():
                await rig.link.send(*data(content[at : at + 9000], 1, service, connection))

    async def read_slowly(app: Socket) -> str:
        digest = hashlib.sha256()
        for at in range(0, size, 5000):
            digest.update(await app.receive(min(5000, size - at)))
            await asyncio.sleep(0.002)
        return digest.hexdigest()

    async def collect_up() -> None:
        received = dict.fromkeys(up, b"")
        while sum(map(len, received.values())) < size * len(up):
            part = await rig.link.find(DATA)
            received[part.service, part.connection] += part.payload
        assert received == up, "bytes reached another connection"

    digests = await asyncio.gather(
        *(read_slowly(app) for app in apps.values()), send_down(), collect_up()
    )
    for content, digest in zip(down.values(), digests, strict=False):
        assert digest == hashlib.sha256(content).hexdigest(), "bytes reached another application"
