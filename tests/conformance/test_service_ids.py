"""Service ids: told, mapped, told again; ports and when they are listened on."""

from __future__ import annotations

import asyncio
import socket

from conformance.lab import Lab
from conformance.laboratory import scenario
from conformance.messages import CONNECTION_START, STREAM_START, service_ids
from conformance.rigs import QUICK, destination, source
from conformance.sockets import Socket
from support.network.ports import free_port
from tailrace.cli.exit_codes import ExitCode

SSH1 = "00080805320453534831"
NONE = "00020805"
BIND_ERROR = "Could not bind to address"


@scenario("S9")
async def test_s9_serves_clients_once_the_ids_have_come(lab: Lab) -> None:
    """A client that comes before is refused, or waits; nothing is sent for it."""
    stage = lab.stage()
    port = free_port()
    proxy = lab.proxy("-e", stage.endpoint, "-b", "127.0.0.1", "-s", f"SSH1={port}")
    link = await stage.link()
    await proxy.said("Successfully established websocket connection")
    early = await _try_connect(lab, port)
    await link.settled()
    assert not link.frames, "a message before the service ids"
    await link.send(SSH1)
    if early is None:
        await lab.client(port)
    await link.expect("000c080210012a04535348313801")


async def _try_connect(lab: Lab, port: int) -> Socket | None:
    """Return a client of a port, if it is listened on now."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return None
    return await lab.client(port)


@scenario("S10")
async def test_s10_no_ids_for_a_map_with_ids(lab: Lab) -> None:
    stage = lab.stage()
    proxy = lab.proxy("-e", stage.endpoint, "-s", f"SSH1={free_port()}", settings=QUICK)
    link = await stage.link()
    await link.send(NONE)
    code = await proxy.ended()
    assert code == (ExitCode.PROTOCOL if lab.target.is_ours else 1)
    assert "[fatal]" in proxy.log
    assert stage.connections == 1


@scenario("S10")
async def test_s10_no_ids_for_a_port(lab: Lab) -> None:
    stage = lab.stage()
    port = free_port()
    lab.proxy("-e", stage.endpoint, "-b", "127.0.0.1", "-s", str(port))
    link = await stage.link()
    await link.send(NONE)
    await lab.client(port)
    await link.expect("0006080210013801")


@scenario("S11")
async def test_s11_one_id_for_a_port(lab: Lab) -> None:
    stage = lab.stage()
    port = free_port()
    lab.proxy("-e", stage.endpoint, "-b", "127.0.0.1", "-s", str(port))
    link = await stage.link()
    await link.send(SSH1)
    await lab.client(port)
    await link.expect("000c080210012a04535348313801")


@scenario("S12")
async def test_s12_ids_byte_by_byte(lab: Lab) -> None:
    stage = lab.stage()
    port = free_port()
    lab.proxy("-e", stage.endpoint, "-b", "127.0.0.1", "-s", f"SSH1={port}")
    link = await stage.link()
    await link.send_bytewise(SSH1)
    await lab.client(port)
    await link.expect("000c080210012a04535348313801")


@scenario("S51")
async def test_s51_same_ids_again(lab: Lab) -> None:
    rig = await source(lab)
    client, start = await rig.connect()
    await rig.link.send(SSH1)
    await rig.check(client, start)
    await rig.connect()
    assert rig.stage.connections == 1


@scenario("S51")
async def test_s51_other_ids(lab: Lab) -> None:
    """An error: said, and either a new link or the end with a non-zero status."""
    rig = await source(lab)
    client, _ = await rig.connect()
    rig.proxy.may_end = True
    await rig.link.send(service_ids("SSH1", "VNC"))
    await client.expect_end()
    await rig.link.over()
    if lab.target.is_ours:
        assert rig.link.close_code == 1002
        rig.link = await rig.stage.tunnel("SSH1")
        await rig.connect()
    else:
        assert await rig.proxy.ended() != 0
    assert "[error]" in rig.proxy.log or "[fatal]" in rig.proxy.log


@scenario("S52")
async def test_s52_map_with_a_host(lab: Lab) -> None:
    """Accepted or refused at the start, never at the first accept."""
    stage = lab.stage()
    port = free_port()
    proxy = lab.proxy("-e", stage.endpoint, "-s", f"SSH1=127.0.0.1:{port}")
    proxy.may_end = not lab.target.is_ours
    called = asyncio.get_running_loop().create_task(stage.tunnel("SSH1"))
    ended = asyncio.get_running_loop().create_task(_status(proxy))
    try:
        await asyncio.wait([called, ended], return_when=asyncio.FIRST_COMPLETED)
        if not called.done():
            assert ended.result() == ExitCode.USAGE
            return
    finally:
        ended.cancel()
        await asyncio.gather(ended, return_exceptions=True)
    link = await called
    proxy.may_end = False
    await lab.client(port)
    await link.expect("000c080210012a04535348313801")


async def _status(proxy) -> int:
    while proxy.running:
        await asyncio.sleep(0.05)
    return proxy.wait()


@scenario("S53")
async def test_s53_ports_of_a_config_dir(lab: Lab) -> None:
    """Each order of the ids on a link of its own; the reference depends on it."""
    names = ("ALPHA", "BRAVO", "CHARLIE")
    ports = {name: free_port() for name in names}
    config = lab.directory / "config"
    (config / "more").mkdir(parents=True)
    (config / "one.ini").write_text(f"; ours\nALPHA = {ports['ALPHA']}\n")
    rest = "".join(f"{name}={ports[name]}\n" for name in names[1:])
    (config / "more" / "two").write_text(rest)
    orders = [("ALPHA", "BRAVO", "CHARLIE"), ("CHARLIE", "BRAVO", "ALPHA"), names[1:] + names[:1]]
    for order in orders:
        stage = lab.stage()
        arguments = ("-e", stage.endpoint, "-b", "127.0.0.1", "-m", "src")
        proxy = lab.proxy(*arguments, "--config-dir", str(config), settings=QUICK)
        link = await stage.tunnel(*order)
        await proxy.said(f"Listening for new connection on port {ports[order[0]]}")
        for name in order:
            await lab.client(ports[name])
            started = await link.find(STREAM_START, CONNECTION_START)
            assert started.service == name
        proxy.kill()
        proxy.may_end = True


@scenario("S54", "R26")
async def test_s54_r26_port_taken(lab: Lab) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        stage = lab.stage()
        settings = {"tcp.connection_retry_count": 2, "tcp.connection_retry_delay_ms": 50}
        arguments = ("-e", stage.endpoint, "-b", "127.0.0.1", "-s", f"SSH1={port}")
        proxy = lab.proxy(*arguments, settings=settings)

        async def serve() -> None:
            await stage.tunnel("SSH1")

        lab.background(serve())
        code = await proxy.ended()
        assert code == (ExitCode.LISTEN if lab.target.is_ours else 1)
        assert f"{BIND_ERROR}: 127.0.0.1:{port}" in proxy.log


@scenario("B11")
async def test_b11_port_taken_is_noticed_first(lab: Lab) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        stage = lab.stage()
        arguments = ("-e", stage.endpoint, "-b", "127.0.0.1", "-s", f"SSH1={port}")
        proxy = lab.proxy(*arguments)

        async def serve() -> None:
            await stage.tunnel("SSH1")

        lab.background(serve())
        assert await proxy.ended() != 0
        assert stage.connections == 0, "the token is used up before the port is known to be taken"


@scenario("B16")
async def test_b16_service_id_with_a_colon(lab: Lab) -> None:
    stage = lab.stage()
    port = free_port()
    lab.proxy("-e", stage.endpoint, "-b", "127.0.0.1", "-s", f"a:b={port}")
    link = await stage.tunnel("a:b")
    await lab.client(port)
    assert (await link.find(STREAM_START)).service == "a:b"


@scenario("S25")
async def test_s25_ids_and_start_in_one_frame(lab: Lab) -> None:
    stage = lab.stage()
    app = lab.application()
    lab.proxy("-e", stage.endpoint, "-d", f"SSH1=127.0.0.1:{app.port}")
    link = await stage.link()
    await link.send_together(SSH1, "000c080210012a04535348313801")
    accepted = await app.accept()
    await accepted.send(b"hello")
    await link.expect("001308011001220568656c6c6f2a04535348313801")


@scenario("S26")
async def test_s26_start_and_data_in_one_frame(lab: Lab) -> None:
    rig = await destination(lab)
    await rig.link.send_together(
        "000c080210012a04535348313801", "001308011001220568656c6c6f2a04535348313801"
    )
    app = await rig.applications["SSH1"].accept()
    await app.expect(b"hello")


@scenario("B6")
async def test_b6_all_in_one_frame(lab: Lab) -> None:
    stage = lab.stage()
    app = lab.application()
    lab.proxy("-e", stage.endpoint, "-d", f"SSH1=127.0.0.1:{app.port}")
    link = await stage.link()
    await link.send_together(
        SSH1,
        "000c080210012a04535348313801",
        "001308011001220568656c6c6f2a04535348313801",
        "000c080610012a04535348313802",
        "001308011001220568656c6c6f2a04535348313802",
    )
    for _ in range(2):
        await (await app.accept()).expect(b"hello")
