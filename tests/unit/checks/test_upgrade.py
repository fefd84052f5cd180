"""What answers to an upgrade is a tunneling service or not, and no token is spent to know."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from support.network.certificates import Certificates
from support.network.scripted_service import Peer, Script, ScriptedService, refuse
from support.service import config, running
from tailrace.checks import upgrade
from tailrace.checks.findings import Finding, Verdict
from tailrace.checks.runner import Check, run_checks
from tailrace.checks.server import Server, server_at
from tailrace.checks.upgrade import packets_check, upgrade_check
from tailrace.errors import (
    ConnectFailed,
    HandshakeAltered,
    HandshakeFailed,
    NotTunnelingService,
    RemoteProtocolError,
    ServiceUnavailable,
    TailraceError,
)

TOKEN_TEXT = b"Invalid access-token"
PORTAL = "Location: http://login.example/?you\r\n"


async def result_of(check: Check) -> Finding:
    (found,) = [each async for each in run_checks([check])]
    return found.finding


def at(certificates: Certificates, service: ScriptedService, timeout: float = 10.0) -> Server:
    return server_at(
        "service",
        "localhost",
        service.port,
        {},
        ca=certificates.ca_file,
        timeout=timeout,
        address_option="-e",
    )


async def upgraded(certificates: Certificates, script: Script, **changes: Any) -> Finding:
    with ScriptedService(certificates, script) as service:
        return await result_of(upgrade_check(at(certificates, service, **changes), ()))


async def test_a_real_service(tmp_path: Path) -> None:
    async with running(config(tmp_path)) as service:
        host, _, port = service.endpoints.data_endpoint.rpartition(":")
        server = server_at(
            "service", host.strip("[]"), int(port), {}, ca=Path(service.endpoints.ca_file)
        )
        for check in (upgrade_check(server, ()), packets_check(server, ())):
            assert (await result_of(check)).verdict is Verdict.OK


async def test_what_a_service_says_to_a_token_that_is_none(certificates: Certificates) -> None:
    requests = []

    def script(peer: Peer) -> None:
        request = peer.read_request()
        requests.append(request)
        peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 20\r\n\r\n" + TOKEN_TEXT)

    finding = await upgraded(certificates, script)
    assert finding.verdict is Verdict.OK
    assert finding.figure == (
        'answered 403 "Invalid access-token" to a token that was made up; no token was spent'
    )
    assert requests[0].line == "GET /tunnel?local-proxy-mode=source HTTP/1.1"
    assert requests[0]["access-token"] == "tailrace-doctor-asks-without-a-token"


async def test_a_channel_id_tells_a_service_as_well(certificates: Certificates) -> None:
    script = refuse("400 Bad Request", b"no", "channel-id: 7\r\n")
    assert (await upgraded(certificates, script)).verdict is Verdict.OK


async def test_a_clock_that_differs(certificates: Certificates) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    script = refuse("403 Forbidden", TOKEN_TEXT, f"Date: {date}\r\n")
    finding = await upgraded(certificates, script)
    assert finding.verdict is Verdict.WARNING
    assert finding.figure.endswith("the clock of this machine is 60 min behind the server's")


@pytest.mark.parametrize(
    ("script", "kind", "fix"),
    [
        (refuse("302 Found", more=PORTAL), NotTunnelingService, "log in to the network"),
        (refuse("200 OK", b"<html>Welcome"), NotTunnelingService, "log in to the network"),
        (refuse("301 Moved"), NotTunnelingService, "check -e: it has to be the data endpoint"),
        (
            refuse("404 Not Found", b'{"__type": "UnknownOperationException"}'),
            NotTunnelingService,
            "check -e: it has to be the data endpoint",
        ),
        (refuse("404 Not Found", b"no such page"), NotTunnelingService, "check that -e is"),
        (refuse("426 Upgrade Required"), HandshakeAltered, "a proxy in between has to pass"),
        (refuse("503 Service Unavailable"), ServiceUnavailable, "the service is there"),
        (lambda peer: peer.send(b"SSH-2.0-x\r\n"), HandshakeFailed, "check -e, and what stands"),
    ],
)
async def test_what_else_may_answer(
    certificates: Certificates, script: Script, kind: type[TailraceError], fix: str
) -> None:
    finding = await upgraded(certificates, script)
    assert finding.verdict is Verdict.FAILED
    assert type(finding.cause) is kind
    assert finding.fix.startswith(fix)


async def test_a_refusal_that_names_no_token(certificates: Certificates) -> None:
    finding = await upgraded(certificates, refuse("403 Forbidden", b"go away"))
    assert finding.verdict is Verdict.WARNING
    assert finding.figure == 'something answered 403 "go away", and nothing about a token'


async def test_who_takes_any_token_is_no_service(certificates: Certificates) -> None:
    def script(peer: Peer) -> None:
        peer.upgrade()
        peer.read_to_end()

    finding = await upgraded(certificates, script)
    assert isinstance(finding.cause, RemoteProtocolError)
    assert finding.figure.endswith("accepted a token that was made up")


async def test_no_answer(certificates: Certificates) -> None:
    finding = await upgraded(certificates, Peer.stay_silent, timeout=0.2)
    assert isinstance(finding.cause, HandshakeFailed)
    assert "no answer within 0.2 s" in finding.figure


async def test_a_server_that_has_gone_meanwhile(certificates: Certificates) -> None:
    service = ScriptedService(certificates, Peer.stay_silent)
    with service:
        pass
    finding = await result_of(upgrade_check(at(certificates, service), ()))
    assert isinstance(finding.cause, ConnectFailed)


async def test_large_packets_that_are_lost(certificates: Certificates) -> None:
    with ScriptedService(certificates, Peer.stay_silent) as service:
        finding = await result_of(packets_check(at(certificates, service, 0.2), ()))
    assert finding.verdict is Verdict.FAILED
    assert finding.figure.startswith("31")
    assert finding.fix.startswith("large packets get lost: lower the MTU")


def test_what_a_path_takes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with socket.create_connection(listening.getsockname()) as sock:
            assert upgrade._path_mtu(sock) > 1000
    left, right = socket.socketpair()
    with left, right:
        assert upgrade._path_mtu(left) == 0
    assert upgrade._path_mtu(None) == 0
