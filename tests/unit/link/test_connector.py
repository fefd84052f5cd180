"""Opening a link: every answer and every silence there can be, over real TLS."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from support.network.certificates import Certificates
from support.network.frames import BINARY, close_frame, frame
from support.network.recorder import Recorder
from support.network.scripted_service import (
    ACCESS_TOKEN,
    CLIENT_TOKEN,
    Peer,
    Request,
    ScriptedService,
    refuse,
    serve,
    until_closed,
)
from support.network.sockets import black_hole
from tailrace.cli.exit_codes import ExitCode, exit_code_of
from tailrace.errors import (
    AccessRefused,
    CertificateFault,
    CertificateRejected,
    ConfigurationError,
    ConnectFailed,
    HandshakeFailed,
    NameResolutionFailed,
    NotTunnelingService,
    ServiceUnavailable,
    TLSFailed,
)
from tailrace.link import CloseCode, ClosedBy, LinkClosed, TLSOptions, connect
from tailrace.link.connector import BACKENDS
from tailrace.link.proxy.settings import WebProxy
from tailrace.wire import FLOW, NO_CAPABILITIES, SUBPROTOCOL_V2, SUBPROTOCOL_V3, Side

SHORT = 0.3
"""Seconds of patience where the other side says nothing at all."""


@pytest.fixture(autouse=True)
def no_secrets_in_logs(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever happens, at the most talkative level of all: no token is logged."""
    caplog.set_level(1)
    yield
    for record in caplog.get_records("call"):
        assert ACCESS_TOKEN not in record.getMessage()
        assert CLIENT_TOKEN not in record.getMessage()


async def test_an_open_link_says_what_it_is(certificates: Certificates, backend: str) -> None:
    with ScriptedService(certificates, serve(until_closed)) as service:
        recorder = Recorder()
        link = await connect(service.endpoint(), recorder, backend)
        assert link.info.subprotocol == SUBPROTOCOL_V3
        assert link.info.channel_id == "channel-7"
        assert link.info.capabilities == NO_CAPABILITIES
        assert link.info.backend == backend
        link.close(CloseCode.OK, "done")
        assert await recorder.end() == LinkClosed(ClosedBy.US, 1000, "done")


@pytest.mark.parametrize("field", ["X-Tailrace-Flow: 1", "X-Tailrace-Capabilities: flow"])
async def test_a_service_may_say_that_it_passes_on_flow_messages(
    certificates: Certificates, backend: str, field: str
) -> None:
    def script(peer: Peer) -> None:
        peer.upgrade(more=f"{field}\r\n")
        until_closed(peer)

    with ScriptedService(certificates, script) as service:
        recorder = Recorder()
        link = await connect(service.endpoint(), recorder, backend)
        assert link.info.capabilities == FLOW
        link.close(CloseCode.OK, "")
        await recorder.end()


async def test_both_back_ends_ask_in_the_same_words(certificates: Certificates) -> None:
    requests: list[Request] = []

    def script(peer: Peer) -> None:
        requests.append(peer.upgrade())
        until_closed(peer)

    with ScriptedService(certificates, script) as service:
        for backend in BACKENDS:
            recorder = Recorder()
            link = await connect(service.endpoint(side=Side.DESTINATION), recorder, backend)
            link.close(CloseCode.OK, "")
            await recorder.end()
    first, second = ([h for h in r.headers if h[0] != "Sec-WebSocket-Key"] for r in requests)
    assert first == second
    assert requests[0].line == "GET /tunnel?local-proxy-mode=destination HTTP/1.1"
    assert requests[0]["Host"] == f"localhost:{service.port}"
    assert requests[0]["access-token"] == ACCESS_TOKEN
    assert requests[0]["client-token"] == CLIENT_TOKEN
    assert requests[0]["Sec-WebSocket-Protocol"] == SUBPROTOCOL_V3
    assert requests[0]["Sec-WebSocket-Key"] != requests[1]["Sec-WebSocket-Key"]
    assert "Sec-WebSocket-Extensions" not in dict(requests[0].headers)


async def test_no_client_token_no_header(certificates: Certificates, backend: str) -> None:
    seen: list[Request] = []

    def script(peer: Peer) -> None:
        seen.append(peer.upgrade())
        until_closed(peer)

    with ScriptedService(certificates, script) as service:
        recorder = Recorder()
        link = await connect(service.endpoint(client_token=None), recorder, backend)
        link.close(CloseCode.OK, "")
        await recorder.end()
    assert "client-token" not in dict(seen[0].headers)


async def test_the_answer_byte_by_byte(certificates: Certificates, backend: str) -> None:
    def script(peer: Peer) -> None:
        peer.send(peer.read_request().answer() + frame(BINARY, b"hello"), piece=1)
        until_closed(peer)

    with ScriptedService(certificates, script) as service:
        recorder = Recorder()
        link = await connect(service.endpoint(), recorder, backend)
        await recorder.until(lambda: recorder.stream == b"hello")
        link.close(CloseCode.OK, "")
        await recorder.end()


@pytest.mark.parametrize(
    "changes",
    [
        {"connection": "keep-alive, Upgrade"},
        {"connection": "UPGRADE", "upgrade": "WebSocket"},
        {"more": "HTTP/1.1: odd\r\nTransfer-Encoding: identity\r\nContent-Length: 0\r\n"},
        {"more": ""},
    ],
)
async def test_an_acceptance_in_other_words(
    certificates: Certificates, backend: str, changes: dict[str, Any]
) -> None:
    def script(peer: Peer) -> None:
        peer.upgrade(frame(BINARY, b"hello"), **changes)
        until_closed(peer)

    with ScriptedService(certificates, script) as service:
        recorder = Recorder()
        link = await connect(service.endpoint(), recorder, backend)
        await recorder.until(lambda: recorder.stream == b"hello")
        link.close(CloseCode.OK, "")
        await recorder.end()


@pytest.mark.parametrize("size", [0, 5, 131_076, 600_000])
async def test_frames_behind_the_answer_wait_for_the_caller(
    certificates: Certificates, backend: str, size: int
) -> None:
    first = frame(BINARY, bytes(size)) + frame(BINARY, b"last")

    def script(peer: Peer) -> None:
        peer.upgrade(first)
        until_closed(peer)

    with ScriptedService(certificates, script) as service:
        recorder = Recorder()
        link = await connect(service.endpoint(), recorder, backend)
        assert recorder.frames == []
        link.send(b"may be sent already")
        await recorder.until(lambda: len(recorder.frames) == 2)
        assert recorder.frames == [bytes(size), b"last"]
        link.close(CloseCode.OK, "")
        await recorder.end()


async def test_even_the_end_waits_for_the_caller(certificates: Certificates, backend: str) -> None:
    def script(peer: Peer) -> None:
        peer.upgrade(frame(BINARY, b"hello") + close_frame(1000, "tunnel closed"))

    with ScriptedService(certificates, script) as service:
        recorder = Recorder()
        await connect(service.endpoint(), recorder, backend)
        assert recorder.frames == []
        assert not recorder.closed.done()
        assert await recorder.end() == LinkClosed(ClosedBy.PEER, 1000, "tunnel closed")
        assert recorder.frames == [b"hello"]


@pytest.mark.parametrize("rude", [False, True])
async def test_a_connection_that_ends_behind_the_answer(
    certificates: Certificates, backend: str, rude: bool
) -> None:
    def script(peer: Peer) -> None:
        peer.upgrade(frame(BINARY, b"hello"))
        if rude:
            peer.reset()

    with ScriptedService(certificates, script) as service:
        recorder = Recorder()
        try:
            await connect(service.endpoint(), recorder, backend)
        except HandshakeFailed:
            assert rude, "only a reset may overtake the answer"
            return
        closed = await recorder.end()
        assert (closed.by, closed.code) == (ClosedBy.NETWORK, 1006)


REFUSALS = [
    ("400 Bad Request", b"Invalid access token: previously used", "", AccessRefused),
    ("403 Forbidden", b"", "X-Status-Reason: Tunnel is closed\r\n", AccessRefused),
    ("404 Not Found", b"x" * 9000, "", AccessRefused),
    ("200 OK", b"<html>", "", NotTunnelingService),
    ("302 Found", b"", "Location: https://localhost/\r\n", NotTunnelingService),
    ("429 Too Many Requests", b"slower", "Retry-After: 1\r\n", ServiceUnavailable),
    ("500 Internal Server Error", b"oops", "", ServiceUnavailable),
    ("503 Service Unavailable", b"", "", ServiceUnavailable),
]


@pytest.mark.parametrize("piece", [0, 1])
@pytest.mark.parametrize(("status", "body", "more", "kind"), REFUSALS)
async def test_refusals(
    certificates: Certificates,
    backend: str,
    status: str,
    body: bytes,
    more: str,
    kind: type[HandshakeFailed],
    piece: int,
) -> None:
    with ScriptedService(certificates, refuse(status, body, more, piece)) as service:
        recorder = Recorder()
        with pytest.raises(kind) as caught:
            await connect(service.endpoint(), recorder, backend)
    assert type(caught.value) is kind
    assert caught.value.retryable is (kind is ServiceUnavailable)
    text = "Tunnel is closed" if more.startswith("X-Status") else body.decode()[:4096]
    assert str(caught.value).endswith(f'HTTP/1.1 {status}: "{text}"')
    assert not recorder.closed.done()


async def test_a_refusal_that_ends_with_the_connection(
    certificates: Certificates, backend: str
) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 403 Forbidden\r\n\r\nwrong region")

    with (
        ScriptedService(certificates, script) as service,
        pytest.raises(AccessRefused) as caught,
    ):
        await connect(service.endpoint(), Recorder(), backend)
    assert caught.value.body == "wrong region"


async def test_a_refusal_whose_end_does_not_come(certificates: Certificates, backend: str) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 403 Forbidden\r\n\r\nwrong region")
        peer.stay_silent()

    with (
        ScriptedService(certificates, script) as service,
        pytest.raises(AccessRefused) as caught,
    ):
        await connect(service.endpoint(connect_timeout=SHORT), Recorder(), backend)
    assert caught.value.body == "wrong region"


async def test_a_refusal_that_quotes_the_token(certificates: Certificates, backend: str) -> None:
    body = f"unknown token {ACCESS_TOKEN} of {CLIENT_TOKEN}".encode()
    with (
        ScriptedService(certificates, refuse("403 Forbidden", body)) as service,
        pytest.raises(AccessRefused) as caught,
    ):
        await connect(service.endpoint(), Recorder(), backend)
    assert caught.value.body == "unknown token <redacted> of <redacted>"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"subprotocol": None}, "names no subprotocol"),
        ({"subprotocol": SUBPROTOCOL_V2}, "names the subprotocol"),
        ({"accept": "wrong"}, "Sec-WebSocket-Accept"),
        ({"upgrade": "h2c"}, "header Upgrade"),
        ({"connection": "close"}, "header Connection"),
        ({"more": "Sec-WebSocket-Extensions: permessage-deflate\r\n"}, "extension"),
    ],
)
async def test_an_acceptance_that_is_none(
    certificates: Certificates, backend: str, changes: dict[str, Any], said: str
) -> None:
    def script(peer: Peer) -> None:
        peer.upgrade(**changes)
        peer.read_to_end()

    with (
        ScriptedService(certificates, script) as service,
        pytest.raises(HandshakeFailed, match=said) as caught,
    ):
        await connect(service.endpoint(), Recorder(), backend)
    assert type(caught.value) is HandshakeFailed
    assert exit_code_of(caught.value) is ExitCode.NETWORK


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "the connection was closed$"),
        (b"HTTP/1.1 101 Swi", "in the middle of its answer"),
        (b"220 smtp.example ESMTP\r\n", "not HTTP"),
    ],
)
async def test_a_connection_that_ends_instead_of_an_answer(
    certificates: Certificates, backend: str, answer: bytes, said: str
) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(answer)

    with (
        ScriptedService(certificates, script) as service,
        pytest.raises(HandshakeFailed, match=said) as caught,
    ):
        await connect(service.endpoint(), Recorder(), backend)
    assert type(caught.value) is HandshakeFailed
    assert f"localhost:{service.port}" in str(caught.value)


async def test_a_reset_instead_of_an_answer(certificates: Certificates, backend: str) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.reset()

    with (
        ScriptedService(certificates, script) as service,
        pytest.raises(HandshakeFailed, match="lost: Connection reset by peer"),
    ):
        await connect(service.endpoint(), Recorder(), backend)


async def test_a_connection_that_ends_right_after_tls(
    certificates: Certificates, backend: str
) -> None:
    with (
        ScriptedService(certificates, lambda peer: None) as service,
        pytest.raises(HandshakeFailed, match=r"the connection was (closed|lost)"),
    ):
        await connect(service.endpoint(), Recorder(), backend)


async def test_no_answer_to_the_upgrade(certificates: Certificates, backend: str) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.stay_silent()

    with (
        ScriptedService(certificates, script) as service,
        pytest.raises(HandshakeFailed, match=rf"WebSocket upgrade .* within {SHORT} s"),
    ):
        await connect(service.endpoint(connect_timeout=SHORT), Recorder(), backend)


async def test_no_answer_to_tls(certificates: Certificates, backend: str) -> None:
    with (
        ScriptedService(certificates, Peer.stay_silent, plain=True) as service,
        pytest.raises(TLSFailed, match=rf"TLS .* within {SHORT} s") as caught,
    ):
        await connect(service.endpoint(connect_timeout=SHORT), Recorder(), backend)
    assert caught.value.retryable
    assert caught.value.setting == "connect_timeout"


async def test_no_answer_to_tcp(certificates: Certificates) -> None:
    with (
        black_hole() as port,
        ScriptedService(certificates, Peer.stay_silent) as service,
        pytest.raises(ConnectFailed, match=rf"cannot connect .* within {SHORT} s"),
    ):
        endpoint = service.endpoint(host="127.0.0.1", port=port, connect_timeout=SHORT)
        await connect(endpoint, Recorder())


async def test_a_web_proxy_is_not_passed_over(certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refused = listener.getsockname()[1]
    with ScriptedService(certificates, Peer.stay_silent) as service:
        endpoint = service.endpoint(web_proxy=WebProxy("http", "127.0.0.1", refused))
        with pytest.raises(ConnectFailed, match=f"web proxy http://127.0.0.1:{refused}"):
            await connect(endpoint, Recorder())
        assert service.connections == 0


async def test_nobody_knows_the_name(certificates: Certificates, unknown_host: str) -> None:
    with (
        ScriptedService(certificates, Peer.stay_silent) as service,
        pytest.raises(NameResolutionFailed, match=f"cannot resolve {unknown_host}: Name or"),
    ):
        await connect(service.endpoint(host=unknown_host), Recorder())


@pytest.mark.parametrize("rude", [False, True])
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_no_tls_at_the_other_end(
    certificates: Certificates,
    backend: str,
    answer: bytes,
    rude: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def script(peer: Peer) -> None:
        # All of it: what is left unread would turn the end into a reset.
        peer.sock.recv(65_536)
        peer.send(answer)
        if rude:
            peer.reset()
        elif answer:
            peer.read_to_end()

    with (
        ScriptedService(certificates, script, plain=True) as service,
        pytest.raises(TLSFailed, match=r"TLS handshake with localhost:\d+ failed: ") as caught,
    ):
        await connect(service.endpoint(), Recorder(), backend)
    assert caught.value.retryable
    assert exit_code_of(caught.value) is ExitCode.NETWORK
    # One line for the user, and no traceback of a library besides it.
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_a_strangers_certificate(certificates: Certificates, backend: str) -> None:
    with (
        ScriptedService(certificates, Peer.read_to_end, cert=certificates.stranger) as service,
        pytest.raises(TLSFailed) as caught,
    ):
        await connect(service.endpoint(), Recorder(), backend)
    text = str(caught.value)
    assert f"localhost:{service.port}" in text
    assert "unable to get local issuer certificate" in text
    assert "issued by 'OU=Testing CA" in text
    assert "O=Somebody else" in text
    assert f"certificate path {certificates.ca_file}" in text
    assert not caught.value.retryable
    assert exit_code_of(caught.value) is ExitCode.TLS


async def test_a_certificate_of_another_host(certificates: Certificates, backend: str) -> None:
    with (
        ScriptedService(certificates, Peer.read_to_end, cert=certificates.wrong_host) as service,
        pytest.raises(CertificateRejected, match=r"(?i)hostname mismatch") as caught,
    ):
        await connect(service.endpoint(), Recorder(), backend)
    assert caught.value.fault is CertificateFault.WRONG_NAME


@pytest.mark.parametrize("kind", ["stranger", "wrong_host"])
async def test_without_verification_both_will_do(
    certificates: Certificates, backend: str, kind: str
) -> None:
    cert = getattr(certificates, kind)
    with ScriptedService(certificates, serve(until_closed), cert=cert) as service:
        recorder = Recorder()
        link = await connect(service.endpoint(tls=TLSOptions(verify=False)), recorder, backend)
        link.close(CloseCode.OK, "")
        await recorder.end()


async def test_sni_and_a_rooted_name(
    certificates: Certificates, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo
    # Not every system's resolver knows the rooted form of localhost.
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: look_up(host.rstrip("."), *rest, **more)
    )
    names: list[str] = []
    context = certificates.server_context()
    context.sni_callback = lambda tls, name, _: names.append(name)

    def script(peer: Peer) -> None:
        peer.start_tls(context)
        serve(until_closed)(peer)

    with ScriptedService(certificates, script, plain=True) as service:
        for host in ("localhost", "localhost.", "127.0.0.1"):
            recorder = Recorder()
            link = await connect(service.endpoint(host=host), recorder, backend)
            link.close(CloseCode.OK, "")
            await recorder.end()
    # An address has no name to send (RFC 6066 section 3).
    assert names == ["localhost", "localhost", None]


@pytest.mark.parametrize("step", ["tls", "upgrade"])
async def test_a_cancelled_try_leaves_nothing(
    certificates: Certificates, backend: str, step: str
) -> None:
    with ScriptedService(certificates, Peer.stay_silent, plain=step == "tls") as service:
        attempt = asyncio.get_running_loop().create_task(
            connect(service.endpoint(), Recorder(), backend)
        )
        while not service.connections:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt


async def test_auto_takes_the_best(certificates: Certificates) -> None:
    with ScriptedService(certificates, serve(until_closed)) as service:
        recorder = Recorder()
        link = await connect(service.endpoint(), recorder)
        assert link.info.backend == "picows"
        link.close(CloseCode.OK, "")
        await recorder.end()


@pytest.fixture
def only(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make it look as if only this package (or none) were installed."""
    for name in BACKENDS:
        monkeypatch.delitem(sys.modules, f"tailrace.link.{name}_link", raising=False)
        if name != request.param:
            for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
                monkeypatch.delitem(sys.modules, module)
            monkeypatch.setitem(sys.modules, name, None)
    chosen: str = request.param
    return chosen


@pytest.mark.parametrize("only", ["websockets"], indirect=True)
async def test_auto_without_picows(certificates: Certificates, only: str) -> None:
    with ScriptedService(certificates, serve(until_closed)) as service:
        recorder = Recorder()
        link = await connect(service.endpoint(), recorder, "auto")
        assert link.info.backend == "websockets"
        link.close(CloseCode.OK, "")
        await recorder.end()


@pytest.mark.parametrize(
    ("only", "wanted", "said"),
    [
        ("websockets", "picows", "needs the package picows"),
        ("picows", "websockets", "needs the package websockets"),
        ("none", "auto", "install picows or websockets"),
        ("none", "carrier-pigeon", "'carrier-pigeon' is unknown"),
    ],
    indirect=["only"],
)
async def test_a_missing_package_is_named(
    certificates: Certificates, only: str, wanted: str, said: str
) -> None:
    with ScriptedService(certificates, Peer.stay_silent) as service:
        with pytest.raises(ConfigurationError, match=re.escape(said)):
            await connect(service.endpoint(), Recorder(), wanted)
        assert service.connections == 0
