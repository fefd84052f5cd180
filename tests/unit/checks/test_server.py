"""The way to a server, each step with what may be wrong there."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import trustme

from support.network.applications import application
from support.network.certificates import Certificates
from support.network.ports import free_port, needs_ipv6
from support.network.scripted_service import Peer, ScriptedService
from support.network.sockets import black_hole, hang_up
from support.network.web_proxies import RunningWebProxy, http_greeting, proxy_server
from tailrace.checks import server as server_checks
from tailrace.checks.findings import CheckResult, Finding, Verdict
from tailrace.checks.runner import run_checks
from tailrace.checks.server import Server, http_check, path_checks, server_at
from tailrace.common.addresses import TCPAddress
from tailrace.errors import ConnectFailed
from tailrace.link.endpoint import NetworkEndpoint, TLSOptions
from tailrace.link.proxy.settings import WebProxy
from tailrace.link.tcp import SocketAddress
from tailrace.link.tls import transport

RESPONSE = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n"


@asynccontextmanager
async def server(
    tls: ssl.SSLContext | None, response: bytes = RESPONSE + b"\r\n"
) -> AsyncIterator[int]:
    """A port that answers the first request it gets."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1000):
            writer.write(response)
        await hang_up(writer)

    async with application(serve, TCPAddress("127.0.0.1", 0), tls) as at:
        assert isinstance(at, TCPAddress)
        yield at.port


def settings(
    certificates: Certificates | None, port: int, web_proxy: WebProxy | None = None
) -> Server:
    tls = TLSOptions(authorities=None if certificates is None else certificates.ca_file)
    return Server(
        "broker",
        NetworkEndpoint(host="localhost", port=port, tls=tls),
        is_encrypted=certificates is not None,
        web_proxy=web_proxy,
        address_option="--endpoint",
        trust_option="--ca FILE",
    )


async def checked(at: Server) -> dict[str, CheckResult]:
    return {each.name: each async for each in run_checks(path_checks(at))}


@pytest.fixture(params=["aiofastnet", "the loop's transports"])
def transports(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "aiofastnet":
        monkeypatch.setattr(transport, "fast_transports", lambda: None)


@pytest.mark.usefixtures("transports")
async def test_a_server_with_tls(certificates: Certificates) -> None:
    async with server(certificates.server_context()) as port:
        found = await checked(settings(certificates, port))
    assert [(name, each.finding.verdict) for name, each in found.items()] == [
        ("broker web proxy", Verdict.SKIPPED),
        ("broker name", Verdict.OK),
        ("broker TCP", Verdict.OK),
        ("broker TLS", Verdict.OK),
    ]
    assert found["broker name"].finding.figure.startswith("localhost is ")
    assert found["broker TCP"].finding.figure.startswith("connected to 127.0.0.1 port ")
    assert found["broker TLS"].finding.figure.startswith("TLSv1.3, TLS_")
    assert "good until 3000-01-01" in found["broker TLS"].finding.figure


async def test_a_server_without_tls() -> None:
    async with server(None) as port:
        found = await checked(settings(None, port))
    assert [each.finding.verdict.value for each in found.values()] == ["skipped", "ok", "ok"]


async def test_an_address_needs_no_name() -> None:
    at = Server("broker", NetworkEndpoint(host="127.0.0.1", port=1), is_encrypted=False)
    assert (await checked(at))["broker name"].finding.figure == "127.0.0.1 is an address"


async def test_a_name_that_is_not_known() -> None:
    at = Server("broker", NetworkEndpoint(host="nowhere.invalid"), address_option="--endpoint")
    found = await checked(at)
    finding = found["broker name"].finding
    assert finding.verdict is Verdict.FAILED
    assert finding.figure.startswith("cannot resolve nowhere.invalid: ")
    assert finding.fix.startswith("check --endpoint and the name server")
    assert found["broker TLS"].finding.figure == "not without: broker TCP"


async def test_a_port_that_is_closed(certificates: Certificates) -> None:
    port = free_port()
    found = await checked(settings(certificates, port))
    finding = found["broker TCP"].finding
    assert finding.verdict is Verdict.FAILED
    assert "Connection refused" in finding.figure
    assert finding.fix.endswith(f"lets this machine out to port {port}")


async def several(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, *others: SocketAddress
) -> Finding:
    """Check a server that is alive at one of several addresses."""
    async with server(certificates.server_context()) as port:
        found = [SocketAddress(socket.AF_INET, ("127.0.0.1", port)), *others]

        async def resolve(*_: object) -> list[SocketAddress]:
            return found

        monkeypatch.setattr(server_checks, "resolve", resolve)
        return (await checked(settings(certificates, port)))["broker TCP"].finding


async def test_an_address_that_refuses_costs_nothing(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = SocketAddress(socket.AF_INET, ("127.0.0.2", free_port()))
    finding = await several(certificates, monkeypatch, refused)
    assert finding.verdict is Verdict.OK
    assert finding.figure.endswith("; 127.0.0.2: Connection refused")


async def test_every_address_is_tried(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with server(None) as port:
        other = SocketAddress(socket.AF_INET, ("127.0.0.2", port))
        with socket.create_server(("127.0.0.2", port)):
            finding = await several(certificates, monkeypatch, other)
    assert finding.verdict is Verdict.OK
    assert "; 127.0.0.2 (" in finding.figure


async def test_an_address_that_is_silent(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_checks, "_PATIENCE", 0.05)
    with black_hole("127.0.0.2") as port:
        silent = SocketAddress(socket.AF_INET, ("127.0.0.2", port))
        finding = await several(certificates, monkeypatch, silent)
    assert finding.verdict is Verdict.WARNING
    assert "; 127.0.0.2: no answer within " in finding.figure
    assert finding.fix.startswith("let this machine out to these addresses")


@needs_ipv6
async def test_ipv6_that_leads_nowhere(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_checks, "_PATIENCE", 0.05)
    with black_hole("::1") as port:
        silent = SocketAddress(socket.AF_INET6, ("::1", port, 0, 0))
        finding = await several(certificates, monkeypatch, silent)
    assert finding.verdict is Verdict.WARNING
    assert finding.fix.startswith("IPv6 leads nowhere from here")


async def test_a_server_that_is_silent(certificates: Certificates) -> None:
    with black_hole() as port:
        endpoint = NetworkEndpoint(host="127.0.0.1", port=port, connect_timeout=0.05)
        found = await checked(Server("broker", endpoint))
    finding = found["broker TCP"].finding
    assert finding.verdict is Verdict.FAILED
    assert "no answer within 0.05 s" in finding.figure
    assert isinstance(finding.cause, ConnectFailed)


async def test_a_name_server_that_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_checks, "_SLOW", -1.0)
    at = Server("broker", NetworkEndpoint(host="localhost", port=1), is_encrypted=False)
    finding = (await checked(at))["broker name"].finding
    assert finding.verdict is Verdict.WARNING
    assert finding.fix.startswith("the name server is slow")


async def test_tls_that_does_not_come_through(certificates: Certificates) -> None:
    with ScriptedService(certificates, Peer.stay_silent, plain=True) as service:
        endpoint = NetworkEndpoint(host="localhost", port=service.port, connect_timeout=0.1)
        found = await checked(Server("broker", endpoint))
    assert found["broker TLS"].finding.fix.endswith("drops large packets: a lower MTU shows")


@pytest.mark.parametrize("domain", ["us-east-1.amazonaws.com", "eusc-de-east-1.amazonaws.eu"])
@pytest.mark.parametrize("is_of_aws", [False, True])
async def test_tls_that_is_inspected(
    certificates: Certificates, is_of_aws: bool, domain: str, tmp_path: Path
) -> None:
    """A host of AWS has no certificate of just any authority, also where that is trusted."""
    host = f"data.tunneling.iot.{domain}"
    authority = trustme.CA(organization_name="Amazon") if is_of_aws else certificates.ca
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(trusted))
    async with server(certificates.server_context(authority.issue_cert(host))) as port:

        async def greet(
            proxy: RunningWebProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> tuple[str, int]:
            await http_greeting(proxy, reader, writer)
            return "127.0.0.1", port

        async with proxy_server(greet) as proxy:
            environment = {"https_proxy": f"http://127.0.0.1:{proxy.port}"}
            at = server_at("service", host, 443, environment, ca=trusted)
            found = await checked(at)
    finding = found["service TLS"].finding
    assert finding.verdict is (Verdict.OK if is_of_aws else Verdict.WARNING)
    assert finding.fix.startswith("TLS is inspected on the way") is not is_of_aws


async def test_a_certificate_of_a_stranger(certificates: Certificates) -> None:
    async with server(certificates.server_context(certificates.stranger)) as port:
        found = await checked(settings(certificates, port))
    finding = found["broker TLS"].finding
    assert finding.verdict is Verdict.FAILED
    assert "Somebody else" in finding.figure
    assert finding.fix.startswith("trust the authority that issued it: --ca FILE")


async def test_a_certificate_of_another_host(certificates: Certificates) -> None:
    async with server(certificates.server_context(certificates.wrong_host)) as port:
        found = await checked(settings(certificates, port))
    assert found["broker TLS"].finding.fix == "use the name that the certificate has: --endpoint"


@pytest.mark.parametrize("is_set", [False, True])
async def test_a_certificate_that_is_out_of_date(
    certificates: Certificates, is_set: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = datetime.now(UTC) - timedelta(days=1)
    old = certificates.ca.issue_cert("localhost", not_after=over)
    async with server(certificates.server_context(old)) as port:
        if not is_set:
            monkeypatch.setattr(time, "time", lambda: 0.0)
        found = await checked(settings(certificates, port))
    fix = found["broker TLS"].finding.fix
    assert fix.startswith("renew the certificate" if is_set else "set the clock")


@pytest.mark.usefixtures("transports")
async def test_a_certificate_that_expires_soon(certificates: Certificates) -> None:
    soon = datetime.now(UTC) + timedelta(days=3)
    cert = certificates.ca.issue_cert("localhost", not_after=soon)
    async with server(certificates.server_context(cert)) as port:
        found = await checked(settings(certificates, port))
    finding = found["broker TLS"].finding
    assert finding.verdict is Verdict.WARNING
    assert finding.figure.endswith(f"good until {soon:%Y-%m-%d}")


async def test_a_port_without_tls(certificates: Certificates) -> None:
    async with server(None) as port:
        found = await checked(settings(certificates, port))
    finding = found["broker TLS"].finding
    assert "is this a TLS port?" in finding.figure
    assert finding.fix.startswith("check --endpoint")


async def test_through_a_web_proxy(certificates: Certificates) -> None:
    async with server(certificates.server_context()) as port, proxy_server() as proxy:
        found = await checked(settings(certificates, port, proxy.settings("http")))
        assert list(found) == ["broker web proxy", "broker TLS"]
        assert {each.finding.verdict for each in found.values()} == {Verdict.OK}
        figure = found["broker web proxy"].finding.figure
        assert figure.startswith(f"http://127.0.0.1:{proxy.port} connects to localhost:{port} (")


async def test_a_web_proxy_that_is_away(certificates: Certificates) -> None:
    proxy = WebProxy("http", "127.0.0.1", free_port())
    found = await checked(settings(certificates, 1, proxy))
    finding = found["broker web proxy"].finding
    assert finding.verdict is Verdict.FAILED
    assert finding.fix == "check https_proxy"


async def test_a_web_proxy_that_refuses(certificates: Certificates) -> None:
    async with server(None, b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n") as port:
        proxy = WebProxy("http", "127.0.0.1", port)
        found = await checked(settings(certificates, 1, proxy))
    finding = found["broker web proxy"].finding
    assert "403" in finding.figure
    assert finding.fix.startswith("let the proxy connect there")


async def answer(certificates: Certificates, response: bytes) -> CheckResult:
    async with server(certificates.server_context(), response) as port:
        check = http_check("answer", settings(certificates, port), "/", ())
        (found,) = [each async for each in run_checks([check])]
    return found


async def test_any_answer_will_do(certificates: Certificates) -> None:
    finding = (await answer(certificates, RESPONSE + b"\r\n")).finding
    assert finding.verdict is Verdict.OK
    assert finding.figure.startswith("HTTP 400 Bad Request (")
    assert finding.figure.endswith("no token was used")


@pytest.mark.parametrize(("minutes", "way"), [(-60, "ahead of"), (60, "behind")])
async def test_a_clock_that_differs(certificates: Certificates, minutes: int, way: str) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=minutes), usegmt=True)
    response = RESPONSE + f"Date: {date}\r\n\r\n".encode()
    finding = (await answer(certificates, response)).finding
    assert finding.verdict is Verdict.WARNING
    assert finding.figure.endswith(f"the clock of this machine is 60 min {way} the server's")


async def test_a_clock_that_is_right(certificates: Certificates) -> None:
    date = format_datetime(datetime.now(UTC), usegmt=True)
    response = RESPONSE + f"Date: {date}\r\n\r\n".encode()
    assert (await answer(certificates, response)).finding.verdict is Verdict.OK


@pytest.mark.parametrize(("response", "text"), [(b"SSH-2.0-x\r\n", "HTTP"), (b"", "closed")])
async def test_no_answer(certificates: Certificates, response: bytes, text: str) -> None:
    finding = (await answer(certificates, response)).finding
    assert finding.verdict is Verdict.FAILED
    assert text in finding.figure
