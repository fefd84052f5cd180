"""The link: broken messages, pings, close frames, cuts, signals."""

from __future__ import annotations

import asyncio
import random
import sys
import time

import pytest

from conformance.lab import ACCESS_TOKEN, Lab
from conformance.laboratory import scenario
from conformance.messages import (
    CONNECTION_RESET,
    DATA,
    STREAM_RESET,
    STREAM_START,
    data,
    message,
)
from conformance.rigs import QUICK, source
from support.network.frames import BINARY, CONTINUATION, PING, PONG, TEXT
from support.network.ports import free_port

SSH1 = "00080805320453534831"


@scenario("S22")
async def test_s22_ignorable_type(lab: Lab) -> None:
    rig = await source(lab)
    client, start = await rig.connect()
    await rig.link.send("000408631801")
    await rig.check(client, start)
    await rig.link.send_together("000408631801", *data(b"behind", 1, "SSH1", 1))
    await client.expect(b"behind")
    assert rig.stage.connections == 1


@scenario("S22")
async def test_s22_type_that_is_not_ignorable(lab: Lab) -> None:
    """No crash: the session goes on, or a new link is made."""
    rig = await source(lab)
    await rig.connect()
    await rig.link.send("00020863")
    await rig.recover()
    client, start = await rig.connect()
    await rig.check(client, start)


@scenario("S23")
async def test_s23_length_zero(lab: Lab) -> None:
    rig = await source(lab)
    await rig.connect()
    await rig.link.send("0000")
    await rig.recover()
    client, start = await rig.connect()
    await rig.check(client, start)


@scenario("S23")
async def test_s23_undecodable_message(lab: Lab) -> None:
    rig = await source(lab)
    for body in ("ffffff", "08", "22056162", "2a02fffe"):
        client, _ = await rig.connect()
        size = len(body) // 2
        await rig.link.send(f"{size:04x}{body}")
        await client.expect_end()
        await rig.reconnect()
        client, start = await rig.connect()
        assert start[:4] == (STREAM_START, 1, "SSH1", 1), f"{start} on a new session"
        await rig.check(client, start)
        client.close()
        await rig.link.find(CONNECTION_RESET)


@scenario("S24")
async def test_s24_half_a_message(lab: Lab) -> None:
    rig = await source(lab)
    client, _ = await rig.connect()
    await rig.link.send(message(DATA, 1, "SSH1", 1, bytes(1000))[:500])
    rig.link.drop()
    await client.expect_end()
    await rig.reconnect()
    client, start = await rig.connect()
    assert start[:4] == (STREAM_START, 1, "SSH1", 1), f"{start} on a new session"
    await rig.check(client, start)


@scenario("S56")
async def test_s56_fields_in_any_order(lab: Lab) -> None:
    rig = await source(lab)
    await rig.connect()
    client, _ = await rig.connect()
    await rig.link.send("0013080110013802220568656c6c6f2a0453534831")
    await client.expect(b"hello")


@scenario("S56")
async def test_s56_unknown_fields(lab: Lab) -> None:
    stage = lab.stage()
    port = free_port()
    lab.proxy("-e", stage.endpoint, "-b", "127.0.0.1", "-s", str(port))
    link = await stage.tunnel()
    client = await lab.client(port)
    await link.find(STREAM_START)
    await link.send("000d0801100122017a420268693801")
    await client.expect(b"z")


@scenario("S46", "B9")
async def test_s46_b9_pings_and_pongs(lab: Lab) -> None:
    rig = await source(lab)
    client, start = await rig.connect()
    await rig.link.send_frame(PING, b"hey")
    await rig.link.until(lambda: b"hey" in rig.link.pongs, "the pong")
    for payload in (b"", b"abc", b"12345", bytes(125)):
        await rig.link.send_frame(PONG, payload)
    await rig.check(client, start)
    assert rig.stage.connections == 1


@scenario("S47", "B10")
async def test_s47_b10_pings_and_silence(lab: Lab) -> None:
    """Without pongs but with other bytes the link stays; without any it is left."""
    stage = lab.stage()
    settings = QUICK | {"websocket.ping_period_ms": 700}
    lab.proxy("-e", stage.endpoint, "-d", "SSH1=9", settings=settings)
    link = await stage.link()
    link.answers_pings = False
    await link.send(SSH1)
    await link.until(lambda: bool(link.pings), "a ping right after the connect")
    while len(link.pings) < 6:
        await link.send("000408631801")
        await asyncio.sleep(0.2)
    assert stage.connections == 1, "left because of missing pongs"
    again = await stage.tunnel("SSH1")
    await again.settled()


@scenario("S48")
async def test_s48_text_frame(lab: Lab) -> None:
    rig = await source(lab)
    await rig.connect()
    await rig.link.send_frame(TEXT, b"\x00\x02\x08\x63")
    assert await rig.link.over() in (1003, 1002, None)
    await rig.reconnect()
    client, start = await rig.connect()
    await rig.check(client, start)


@scenario("S48")
async def test_s48_oversized_frame(lab: Lab) -> None:
    """131,077 bytes of whole messages: taken, or refused with 1009; no crash."""
    rig = await source(lab)
    client, _ = await rig.connect()
    content = random.Random(48).randbytes(131_024)
    parts = b"".join(data(content, 1, "SSH1", 1))
    assert len(parts) == 131_077
    await rig.link.send_frame(BINARY, parts)
    await rig.recover()
    if rig.stage.connections == 1:
        await client.expect(content)
    client, start = await rig.connect()
    await rig.check(client, start)


@scenario("S48")
async def test_s48_messages_in_fragments(lab: Lab) -> None:
    rig = await source(lab)
    client, start = await rig.connect()
    (raw,) = data(b"in pieces", 1, "SSH1", 1)
    await rig.link.send_frame(BINARY, raw[:5], fin=False)
    await rig.link.send_frame(PING, b"between")
    await rig.link.send_frame(CONTINUATION, raw[5:9], fin=False)
    await rig.link.send_frame(CONTINUATION, raw[9:])
    await client.expect(b"in pieces")
    await rig.check(client, start)


@scenario("S49", "B4")
async def test_s49_b4_closed_while_idle(lab: Lab) -> None:
    rig = await source(lab)
    await rig.link.close(1000, "the tunnel is closed")
    assert await rig.proxy.ended() == 0
    assert rig.stage.connections == 1
    assert "Code: 1000; Reason: the tunnel is closed" in rig.proxy.log


@scenario("S49")
async def test_s49_closed_with_two_services_active(lab: Lab) -> None:
    rig = await source(lab, "SSH1", "HTTP1")
    rig.proxy.may_end = True
    contents = {name: random.Random(name).randbytes(100_000) for name in rig.ports}
    clients = {name: (await rig.connect(name, buffer=4096))[0] for name in rig.ports}
    for name, content in contents.items():
        await rig.link.send(*data(content, 1, name, 1))
    await rig.link.close(1011, "going away")
    for name, client in clients.items():
        await client.expect_cut(contents[name], told=lab.target.is_ours)
    if lab.target.is_ours:
        await rig.stage.link()
        assert rig.proxy.running
    else:
        assert await rig.proxy.ended() == 0


@scenario("S49")
async def test_s49_closed_before_the_service_ids(lab: Lab) -> None:
    stage = lab.stage()
    arguments = ("-e", stage.endpoint, "-b", "127.0.0.1", "-s", f"SSH1={free_port()}")
    proxy = lab.proxy(*arguments, settings=QUICK)
    link = await stage.link()
    await link.close(1000)
    code = await proxy.ended()
    assert code == 0, f"exit status {code} after Close before the service ids"
    assert stage.connections == 1


@scenario("B4")
async def test_b4_other_codes_reconnect(lab: Lab) -> None:
    rig = await source(lab)
    for code in (1001, 1011, 1012):
        client, start = await rig.connect()
        await rig.check(client, start)
        await rig.link.close(code, "come back")
        await client.expect_end()
        await rig.reconnect()
    assert rig.proxy.running


@scenario("S50")
async def test_s50_cut_links(lab: Lab) -> None:
    """Same tokens, same ports though the system picked them, ids from the beginning."""
    stage = lab.stage()
    arguments = ("-e", stage.endpoint, "-b", "127.0.0.1", "-m", "src")
    proxy = lab.proxy(*arguments, settings=QUICK)
    seen = []
    for _ in range(3):
        link = await stage.tunnel("SSH1", "HTTP1")
        await proxy.said("HTTP1 = ")
        ports = {name: await proxy.port(name) for name in ("SSH1", "HTTP1")}
        fields = [(n.lower(), v) for n, v in link.request.headers]
        tokens = [(n, v) for n, v in fields if n in ("access-token", "client-token")]
        client = await lab.client(ports["SSH1"], what="a listener on the port it had first")
        assert (await link.find(STREAM_START))[:4] == (STREAM_START, 1, "SSH1", 1)
        seen.append((ports, tokens))
        link.drop()
        await client.expect_end()
    assert seen[0][1][0] == ("access-token", ACCESS_TOKEN)
    assert seen[1][1] == seen[2][1] == seen[0][1], "other tokens after a cut"
    assert seen[1][0] == seen[2][0] == seen[0][0], "other ports after a cut"


@scenario("B8")
async def test_b8_no_reconnect_without_delay(lab: Lab) -> None:
    """A service that breaks the protocol on every link is not asked over and over."""
    stage = lab.stage()
    settings = {"websocket.retry_delay_ms": 300}
    lab.proxy("-e", stage.endpoint, "-d", "SSH1=9", settings=settings)
    begun = 0.0
    while not begun or time.monotonic() - begun < 2.0:
        link = await stage.tunnel("SSH1")
        begun = begun or time.monotonic()
        await link.send("0003ffffff")
    tries = stage.connections - 1
    assert tries <= 10, f"{tries} connections in two seconds"


@scenario("S61", "B13")
async def test_s61_b13_sigterm(lab: Lab) -> None:
    rig = await source(lab)
    client, start = await rig.connect()
    await client.send(b"last words")
    await rig.link.send(*data(b"last news", 1, "SSH1", 1))
    await client.expect(b"last news")
    assert (await rig.link.find(DATA)).payload == b"last words"
    rig.proxy.terminate()
    code = await rig.proxy.ended()
    assert code == 0, f"exit status {code}"
    await rig.link.over()
    assert rig.link.close_code == 1000
    resets = [m for m in rig.link.pending() if m.kind in (CONNECTION_RESET, STREAM_RESET)]
    assert [reset[1:4] for reset in resets] == [start[1:4]]
    await client.expect_cut(b"", told=lab.target.is_ours)


@scenario("B13")
async def test_b13_second_signal_forces(lab: Lab) -> None:
    """The service takes nothing in and a client reads nothing: an orderly end takes time."""
    rig = await source(lab)
    client, _ = await rig.connect(buffer=4096)
    for part in data(bytes(900_000), 1, "SSH1", 1):
        await rig.link.send(part)
    await rig.link.settled()
    rig.link.hold()
    rig.proxy.terminate()
    await asyncio.sleep(0.3)
    assert rig.proxy.running, "no orderly end"
    rig.proxy.terminate()
    assert await rig.proxy.ended() == 0
    client.close()


@scenario("B21")
async def test_b21_endpoint_with_a_dead_first_address(lab: Lab) -> None:
    prefix, _, alive = await _two_addresses(lab)
    context = lab.certificates.server_context(lab.certificates.ca.issue_cert("two.test"))
    stage = lab.stage(context=context, host=alive, name="two.test")
    proxy = lab.proxy("-e", stage.endpoint, "-d", "SSH1=9", prefix=prefix)
    await stage.link()
    await proxy.said("Successfully established websocket connection")


@scenario("B21")
async def test_b21_application_with_a_dead_first_address(lab: Lab) -> None:
    prefix, _, alive = await _two_addresses(lab)
    stage = lab.stage()
    application = lab.application(host=alive)
    mapping = f"SSH1=two.test:{application.port}"
    lab.proxy("-e", stage.endpoint, "-d", mapping, settings=QUICK, prefix=prefix)
    link = await stage.tunnel("SSH1")
    await link.send(message(STREAM_START, 1, "SSH1", 1))
    app = await application.accept()
    await app.send(b"hello")
    assert (await link.find(DATA)).payload == b"hello"


async def _two_addresses(lab: Lab) -> tuple[tuple[str, ...], str, str]:
    """Return a command prefix under which two.test has two addresses; the first and the second.

    It gives the process a file system view of its own, with another /etc/hosts.
    """
    hosts = lab.directory / "hosts"
    hosts.write_text("127.0.0.1 localhost two.test\n127.0.0.2 two.test\n")
    mount = f"mount --bind {hosts} /etc/hosts"
    prefix = ("unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh")
    ask = "import socket;print(*(a[4][0] for a in socket.getaddrinfo('two.test',1,type=1)))"
    try:
        asked = await asyncio.create_subprocess_exec(
            *prefix,
            *(sys.executable, "-c", ask),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare(1) to give a process another /etc/hosts")
    out, _ = await asked.communicate()
    addresses = out.decode().split()
    if len(addresses) != 2:
        pytest.skip("giving a process another /etc/hosts needs the right to mount")
    return prefix, addresses[0], addresses[1]
