"""Getting connected: the upgrade request, refusals, TLS, timeouts, web proxies."""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
import time
import uuid
import warnings

from conformance.lab import ACCESS_TOKEN, Lab
from conformance.laboratory import scenario
from conformance.stage import Link, Stage
from support.network.ports import free_port
from tailrace.cli.exit_codes import ExitCode

CLIENT_TOKEN = "0f4c9a52-6c1e-4d8b-9a55-3a7d5e1b2c3d"
REFUSED = "Proxy server rejected web socket upgrade request: (HTTP/1.1"
USED = "Invalid access token: The access token was previously used and can not be used again."
SLOW_RETRY = {"websocket.retry_delay_ms": 300}
QUICK = {"websocket.retry_delay_ms": 100}


@scenario("S1")
async def test_s1_upgrade_request_of_a_destination(lab: Lab) -> None:
    stage = lab.stage()
    lab.proxy("-e", stage.endpoint, "-d", "SSH1=9", "-i", CLIENT_TOKEN)
    request = (await stage.asked()).request
    assert request.line == "GET /tunnel?local-proxy-mode=destination HTTP/1.1"
    assert request["Upgrade"].lower() == "websocket"
    assert request["Connection"].lower() == "upgrade"
    assert request["Sec-WebSocket-Version"] == "13"
    assert len(base64.b64decode(request["Sec-WebSocket-Key"])) == 16
    assert request["Sec-WebSocket-Protocol"] == "aws.iot.securetunneling-3.0"
    # RFC 9110 section 7.2 wants a port that is not the default; the C++ proxy never sends one.
    host = stage.endpoint if lab.target.is_ours else "127.0.0.1"
    assert request["Host"] == host, "the Host field has another port"
    assert request["access-token"] == ACCESS_TOKEN
    assert request["client-token"] == CLIENT_TOKEN
    names = [name.lower() for name, _ in request.headers]
    assert "sec-websocket-extensions" not in names
    assert len(set(names)) == len(names), "a header field comes twice"


@scenario("S1")
async def test_s1_upgrade_request_of_a_source_without_client_token(lab: Lab) -> None:
    stage = lab.stage()
    lab.proxy("-e", stage.endpoint, "-s", f"SSH1={free_port()}")
    request = (await stage.asked()).request
    assert request.line == "GET /tunnel?local-proxy-mode=source HTTP/1.1"
    given = [value for name, value in request.headers if name.lower() == "client-token"]
    if lab.target.is_ours:
        assert uuid.UUID(*given).version == 4
    else:
        assert all(re.fullmatch("[a-zA-Z0-9-]{32,128}", value) for value in given)


@scenario("S2")
async def test_s2_no_subprotocol_in_the_answer(lab: Lab) -> None:
    stage = lab.stage()
    port = free_port()
    proxy = lab.proxy("-e", stage.endpoint, "-s", f"SSH1={port}", settings=SLOW_RETRY)
    tries, link = await _refuse_for_a_while(stage, 2.0, lambda link: link.accept(subprotocol=None))
    assert tries <= 10, f"{tries} connections in two seconds"
    await link.accept()
    await proxy.said("Successfully established websocket connection")
    assert "[error]" in proxy.log


async def _refuse_for_a_while(stage: Stage, seconds: float, refusal) -> tuple[int, Link]:
    """Refuse all who ask in that time; return how many, and the next one."""
    tries = 0
    begun = 0.0
    while True:
        link = await stage.asked()
        begun = begun or time.monotonic()
        if time.monotonic() - begun > seconds:
            return tries, link
        tries += 1
        await refusal(link)


@scenario("S3")
async def test_s3_refusals_are_final(lab: Lab) -> None:
    answers = ["400 Bad Request", "403 Forbidden", "404 Not Found"]
    stages = {answer: lab.stage() for answer in answers}
    proxies = {
        answer: lab.proxy("-e", stage.endpoint, "-s", str(free_port()), settings=QUICK)
        for answer, stage in stages.items()
    }
    for proxy in proxies.values():
        proxy.may_end = True  # while the script still waits for another one
    for answer in answers:
        await (await stages[answer].asked()).refuse(answer, "these are not the tokens")
    for answer, proxy in proxies.items():
        code = await proxy.ended()
        assert f'{REFUSED} {answer}) "these are not the tokens"' in proxy.log
        assert stages[answer].connections == 1
        if lab.target.is_ours:
            assert code == ExitCode.TOKEN_REFUSED


@scenario("B3")
async def test_b3_refused_token_is_a_failure(lab: Lab) -> None:
    stage = lab.stage()
    proxy = lab.proxy("-e", stage.endpoint, "-d", "SSH1=9", settings=QUICK)
    await (await stage.asked()).refuse("400 Bad Request", USED)
    assert await proxy.ended() != 0, "exit status 0"
    assert stage.connections == 1


@scenario("S4")
async def test_s4_unavailable_twice(lab: Lab) -> None:
    stage = lab.stage()
    proxy = lab.proxy("-e", stage.endpoint, "-s", str(free_port()), settings=QUICK)
    for _ in range(2):
        await (await stage.asked()).refuse("503 Service Unavailable", "later")
    await (await stage.asked()).accept()
    await proxy.said("Successfully established websocket connection")
    assert proxy.lines("503 Service Unavailable") == 2


@scenario("B5")
async def test_b5_retry_count_is_honoured_when_unavailable(lab: Lab) -> None:
    stage = lab.stage()
    settings = {"websocket.connect_retry_count": 2, "websocket.retry_delay_ms": 50}
    proxy = lab.proxy("-e", stage.endpoint, "-s", str(free_port()), settings=settings)

    async def refuse_all() -> None:
        while True:
            await (await stage.asked()).refuse("503 Service Unavailable")

    lab.background(refuse_all())
    code = await proxy.ended()
    assert stage.connections in (2, 3), f"{stage.connections} tries"
    assert code == ExitCode.NETWORK if lab.target.is_ours else code


@scenario("B5")
async def test_b5_retry_count_is_honoured_when_nobody_listens(lab: Lab) -> None:
    settings = {"websocket.connect_retry_count": 2, "websocket.retry_delay_ms": 50}
    endpoint = f"127.0.0.1:{free_port()}"
    proxy = lab.proxy("-e", endpoint, "-s", str(free_port()), settings=settings)
    code = await proxy.ended()
    assert code == ExitCode.NETWORK if lab.target.is_ours else code


@scenario("S5")
async def test_s5_closed_before_the_answer(lab: Lab) -> None:
    stage = lab.stage()
    proxy = lab.proxy("-e", stage.endpoint, "-s", str(free_port()), settings=QUICK)
    (await stage.asked()).hang_up()
    (await stage.asked()).drop()
    await stage.link()
    await proxy.said("Successfully established websocket connection")


@scenario("S6")
async def test_s6_wrong_authority(lab: Lab) -> None:
    stage = lab.stage()
    proxy = lab.proxy(
        *("-e", stage.endpoint, "-s", str(free_port())),
        settings=QUICK,
        trusted=_other_authority(lab),
    )
    await _never_asks(lab, stage, proxy)


def _other_authority(lab: Lab):
    import trustme

    file = lab.directory / "other-ca.pem"
    trustme.CA(organization_name="Somebody else").cert_pem.write_to_path(str(file))
    return file


async def _never_asks(lab: Lab, stage: Stage, proxy) -> None:
    """Check that no request comes over TLS that cannot be trusted, at two tries or for good."""
    proxy.may_end = True
    tries = 2

    async def try_all() -> None:
        for _ in range(tries):
            link = await stage.call()
            try:
                await link.begin()
                await link.read_request()
            except (OSError, EOFError):
                await link.aclose()
            else:
                raise AssertionError("an upgrade request over a TLS connection nobody can trust")

    attempt = asyncio.get_running_loop().create_task(try_all())
    ended = asyncio.get_running_loop().create_task(proxy.ended())
    try:
        await asyncio.wait([attempt, ended], return_when=asyncio.FIRST_COMPLETED)
        if attempt.done():
            attempt.result()
        else:
            assert ended.result() == ExitCode.TLS if lab.target.is_ours else ended.result()
    finally:
        attempt.cancel()
        ended.cancel()
        await asyncio.gather(attempt, ended, return_exceptions=True)


@scenario("S6")
async def test_s6_wrong_host_name(lab: Lab) -> None:
    context = lab.certificates.server_context(lab.certificates.wrong_host)
    stage = lab.stage(context=context)
    proxy = lab.proxy("-e", stage.endpoint, "-s", str(free_port()), settings=QUICK)
    await _never_asks(lab, stage, proxy)


@scenario("S6")
async def test_s6_unless_told_not_to_look(lab: Lab) -> None:
    context = lab.certificates.server_context(lab.certificates.wrong_host)
    stage = lab.stage(context=context)
    proxy = lab.proxy(
        *("-e", stage.endpoint, "-s", str(free_port()), "-k"), trusted=_other_authority(lab)
    )
    await stage.link()
    await proxy.said("Successfully established websocket connection")
    assert "[warning]" in proxy.log


@scenario("S6")
async def test_s6_directory_of_authorities(lab: Lab) -> None:
    stage = lab.stage()
    arguments = ("-e", stage.endpoint, "-s", str(free_port()), "-c", str(lab.ca_dir))
    proxy = lab.proxy(*arguments, trusted=_other_authority(lab))
    await stage.link()
    await proxy.said("Successfully established websocket connection")


@scenario("S7", patience=40)
async def test_s7_silent_service(lab: Lab) -> None:
    """Silent before TLS, then before the answer; each time it is left for another try."""
    stage = lab.stage()
    ours = ("--connect-timeout", "1")
    proxy = lab.proxy("-e", stage.endpoint, "-s", str(free_port()), settings=QUICK, ours=ours)
    await stage.call()
    await stage.asked()
    await stage.link()
    await proxy.said("Successfully established websocket connection")


@scenario("R4376b6d")
async def test_r4376b6d_old_tls(lab: Lab) -> None:
    stage = lab.stage(context=_tls_1_1(lab.certificates.server_context()))
    proxy = lab.proxy("-e", stage.endpoint, "-s", str(free_port()), settings=QUICK)
    await _never_asks(lab, stage, proxy)


def _tls_1_1(context: ssl.SSLContext) -> ssl.SSLContext:
    """Make a context as weak as this library can: the other side has to refuse."""
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


@scenario("B19")
async def test_b19_a_cut_link_comes_back_with_the_same_client_token(lab: Lab) -> None:
    stage = lab.stage()
    lab.proxy("-e", stage.endpoint, "-d", "SSH1=9", settings=QUICK)
    tokens = []
    for _ in range(3):
        link = await stage.tunnel("SSH1")
        tokens += [v for name, v in link.request.headers if name.lower() == "client-token"]
        link.drop()
    assert len(tokens) == 3, "no client token"
    assert len(set(tokens)) == 1, "another client token after a cut"
    assert re.fullmatch("[a-zA-Z0-9-]{32,128}", tokens[0])
