"""Getting connected through a web proxy."""

from __future__ import annotations

import asyncio
import base64

from conformance.lab import Lab
from conformance.laboratory import scenario
from conformance.stage import Link, Stage
from support.network.ports import free_port
from tailrace.cli.exit_codes import ExitCode

QUICK = {"websocket.retry_delay_ms": 100}
ENDPOINT = "127.0.0.1:4433"


def _fields(lines: list[str]) -> dict[str, str]:
    pairs = [line.partition(": ") for line in lines[1:]]
    return {name.lower(): value for name, _, value in pairs}


async def _connect(stage: Stage) -> tuple[Link, list[str]]:
    """Return the next connection to a web proxy and the lines of its request."""
    link = await stage.call()
    await link.begin()
    return link, await link.head()


async def _accept_inside(lab: Lab, link: Link) -> None:
    """Be the service at the end of the tunnel that a web proxy has opened."""
    link.take_over(lab.certificates.server_context())
    await link.start_tls()
    await link.read_request()
    await link.accept()


@scenario("S8")
async def test_s8_credentials_and_an_answer_in_two_segments(lab: Lab) -> None:
    stage = lab.stage(plain=True)
    proxy = lab.proxy(
        *("-e", ENDPOINT, "-s", str(free_port())),
        https_proxy=f"http://user:p%40ss+word@127.0.0.1:{stage.port}",
    )
    link, lines = await _connect(stage)
    assert lines[0] == f"CONNECT {ENDPOINT} HTTP/1.1"
    fields = _fields(lines)
    assert fields["host"] == ENDPOINT
    scheme, _, credentials = fields["proxy-authorization"].partition(" ")
    assert scheme.lower() == "basic"
    assert base64.b64decode(credentials) == b"user:p@ss word"
    await link.write(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 here")
    await asyncio.sleep(0.2)
    await link.write(b"\r\n\r\n")
    await _accept_inside(lab, link)
    await proxy.said("Successfully established websocket connection")


@scenario("S8", "B17")
async def test_s8_b17_credentials_refused(lab: Lab) -> None:
    stage = lab.stage(plain=True)
    proxy = lab.proxy(
        *("-e", ENDPOINT, "-s", str(free_port())),
        settings=QUICK,
        https_proxy=f"http://user:wrong@127.0.0.1:{stage.port}",
    )
    link, _ = await _connect(stage)
    await link.refuse("407 Proxy Authentication Required", "no", "Proxy-Authenticate: Basic\r\n")
    await proxy.said("407")
    code = await proxy.ended()
    assert stage.connections == 1, "the same credentials again: the account may get locked"
    assert code == ExitCode.NETWORK if lab.target.is_ours else code


@scenario("B17")
async def test_b17_host_without_credentials(lab: Lab) -> None:
    stage = lab.stage(plain=True)
    lab.proxy(
        *("-e", ENDPOINT, "-s", str(free_port())),
        https_proxy=f"http://127.0.0.1:{stage.port}",
    )
    _, lines = await _connect(stage)
    assert lines[0] == f"CONNECT {ENDPOINT} HTTP/1.1"
    assert _fields(lines).get("host") == ENDPOINT, "no Host field"


@scenario("B17")
async def test_b17_no_proxy(lab: Lab) -> None:
    web_proxy = lab.stage(plain=True)
    stage = lab.stage()
    proxy = lab.proxy(
        *("-e", stage.endpoint, "-s", str(free_port())),
        https_proxy=f"http://127.0.0.1:{web_proxy.port}",
        no_proxy="example.com,127.0.0.1",
    )
    await stage.link()
    await proxy.said("Successfully established websocket connection")
    assert not web_proxy.connections


@scenario("R63b3e65")
async def test_r63b3e65_web_proxy_goes_away_after_connect(lab: Lab) -> None:
    stage = lab.stage(plain=True)
    proxy = lab.proxy(
        *("-e", ENDPOINT, "-s", str(free_port())),
        settings=QUICK,
        https_proxy=f"http://127.0.0.1:{stage.port}",
    )
    for _ in range(2):
        link, _ = await _connect(stage)
        link.drop()
    link, _ = await _connect(stage)
    await link.write(b"HTTP/1.1 200 OK\r\n\r\n")
    await _accept_inside(lab, link)
    await proxy.said("Successfully established websocket connection")
    assert stage.connections == 3
    assert proxy.lines("Successfully established websocket connection") == 1


@scenario("R4376b6d")
async def test_r4376b6d_ipv6_web_proxy(lab: Lab) -> None:
    stage = lab.stage(plain=True, host="::1")
    lab.proxy(
        *("-e", ENDPOINT, "-s", str(free_port())),
        https_proxy=f"http://[::1]:{stage.port}",
    )
    _, lines = await _connect(stage)
    assert lines[0] == f"CONNECT {ENDPOINT} HTTP/1.1"


@scenario("R4376b6d")
async def test_r4376b6d_nul_in_a_proxy_url_and_port_70000(lab: Lab) -> None:
    bad = [
        (("-s", "5555"), "http://us%00er:secret@127.0.0.1:3128"),
        (("-s", "70000"), ""),
        (("-s", "SSH1=70000"), ""),
        (("-s", "5555"), "http://127.0.0.1:70000"),
    ]
    for arguments, url in bad:
        proxy = lab.proxy("-e", ENDPOINT, *arguments, https_proxy=url)
        assert await proxy.ended() == ExitCode.USAGE, f"{arguments} {url}"


@scenario("S55")
async def test_s55_region_in_china(lab: Lab) -> None:
    """A web proxy sees which host is asked for; nothing leaves this machine."""
    stage = lab.stage(plain=True)
    lab.proxy(
        *("-r", "cn-north-1", "-s", str(free_port())),
        settings={"tcp.connection_retry_count": 1},
        https_proxy=f"http://127.0.0.1:{stage.port}",
    )
    _, lines = await _connect(stage)
    host = lines[0].removeprefix("CONNECT ").partition(":")[0]
    assert host == "data.tunneling.iot.cn-north-1.amazonaws.com.cn", f"connects to {host}"
