"""The first protocol of a connection: the response in pieces, and what comes after it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from support.network.certificates import Certificates
from support.network.scripted_service import Peer, ScriptedService
from support.plugins.clock import ClockLoop
from tailrace.common.secret import Secret
from tailrace.errors import AccessRefused, HandshakeFailed
from tailrace.link.endpoint import ServiceEndpoint
from tailrace.link.exchange import Exchange, Handover, run_exchange
from tailrace.link.http.upgrade import UpgradeAccepted, UpgradeParser
from tailrace.link.tcp import open_socket
from tailrace.link.tls import transport as transport_module
from tailrace.link.tls.context import build_trust
from tailrace.link.tls.transport import start_tls
from tailrace.wire import Side

ENDPOINT = ServiceEndpoint(host="localhost", port=1, side=Side.SOURCE, access_token=Secret("token"))
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
ACCEPTANCE = (
    b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
    b"Sec-WebSocket-Protocol: aws.iot.securetunneling-3.0\r\n\r\n"
)
PATIENCE = 20.0


class FakeTransport:
    """As much of a transport as an exchange needs; a real one cannot be told when to report."""

    def __init__(self, exchange: Exchange) -> None:
        self.written: list[bytes] = []
        self.protocol: asyncio.BaseProtocol = exchange
        self.aborted = False
        exchange.connection_made(cast(asyncio.Transport, self))

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def abort(self) -> None:
        if not self.aborted:
            self.aborted = True
            protocol = cast(asyncio.Protocol, self.protocol)
            asyncio.get_running_loop().call_soon(protocol.connection_lost, None)


def connected() -> tuple[Exchange, FakeTransport]:
    exchange = Exchange()
    return exchange, FakeTransport(exchange)


def ask(exchange: Exchange, request: bytes = b"GET") -> asyncio.Task[UpgradeAccepted]:
    return asyncio.get_running_loop().create_task(
        exchange.run(request, UpgradeParser(ENDPOINT, KEY), PATIENCE)
    )


@pytest.mark.parametrize("pieces", [1, 7, 1000])
async def test_an_accepted_response_in_pieces(pieces: int) -> None:
    exchange, transport = connected()
    asking = ask(exchange)
    await asyncio.sleep(0)
    assert transport.written == [b"GET"]
    data = ACCEPTANCE + b"frame"
    for start in range(0, len(data), pieces):
        exchange.data_received(data[start : start + pieces])
        if start % 2:
            await asyncio.sleep(0)
    assert (await asking).subprotocol == ENDPOINT.subprotocol
    exchange.data_received(b", and more")
    protocol = asyncio.Protocol()
    assert exchange.hand_over(protocol) == Handover(b"frame, and more", False, False, None)
    assert transport.protocol is protocol
    assert not transport.aborted


async def test_a_request_that_was_sent_already_is_not_sent_again() -> None:
    exchange, transport = connected()
    asking = ask(exchange, b"")
    exchange.data_received(ACCEPTANCE)
    await asking
    assert transport.written == []


async def test_the_marks_of_the_write_buffer_are_handed_over() -> None:
    exchange, _ = connected()
    exchange.pause_writing()
    assert exchange.hand_over(asyncio.Protocol()).writing_paused
    exchange.resume_writing()
    assert not exchange.hand_over(asyncio.Protocol()).writing_paused


@pytest.mark.parametrize("error", [None, ConnectionResetError()])
async def test_an_end_behind_the_response_is_handed_over(error: Exception | None) -> None:
    exchange, transport = connected()
    asking = ask(exchange)
    exchange.data_received(ACCEPTANCE + b"frame")
    exchange.connection_lost(error)
    await asking
    assert exchange.hand_over(asyncio.Protocol()) == Handover(b"frame", False, True, error)
    assert transport.protocol is exchange


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (b"", None, "the connection was closed$"),
        (b"HTTP", None, r"the connection was closed \(in the middle of its answer\)$"),
        (b"", ConnectionResetError(), "the connection was lost: Connection reset by peer$"),
        (b"", RuntimeError("TLS gave up"), "the connection was lost: TLS gave up$"),
    ],
)
async def test_an_end_instead_of_a_response(
    data: bytes, error: Exception | None, said: str
) -> None:
    exchange, _ = connected()
    asking = ask(exchange)
    if data:
        exchange.data_received(data)
    exchange.connection_lost(error)
    with pytest.raises(HandshakeFailed, match=said):
        await asking


async def test_a_refused_connection_is_gone_when_that_is_raised() -> None:
    exchange, transport = connected()
    asking = ask(exchange)
    exchange.data_received(REFUSAL)
    with pytest.raises(AccessRefused):
        await asking
    assert transport.aborted
    assert exchange._lost


@pytest.mark.parametrize("data", [REFUSAL + b"more", ACCEPTANCE + b"more"])
async def test_what_comes_after_a_cancellation_changes_nothing(data: bytes) -> None:
    exchange, transport = connected()
    asking = ask(exchange)
    await asyncio.sleep(0)
    # All in one turn of the loop: the caller gives up, the response comes, the end comes.
    asking.cancel()
    exchange.data_received(data)
    exchange.connection_lost(ConnectionResetError())
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert transport.aborted


def test_patience_ends_after_the_timeout() -> None:
    async def run() -> float:
        loop = asyncio.get_running_loop()
        exchange, _ = connected()
        loop.call_later(5.0, exchange.data_received, b"HTTP/1.1 ")
        with pytest.raises(HandshakeFailed, match=r"no answer within 20 s \(in the middle"):
            await ask(exchange)
        return loop.time()

    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        assert runner.run(run()) == PATIENCE


async def test_an_exchange_over_plain_functions() -> None:
    sent: list[bytes] = []
    pieces = [ACCEPTANCE[:30], ACCEPTANCE[30:], b"not read"]

    async def send(data: bytes) -> None:
        sent.append(data)

    async def receive() -> bytes:
        return pieces.pop(0)

    parser = UpgradeParser(ENDPOINT, KEY)
    accepted = await run_exchange(send, receive, b"GET", parser, PATIENCE)
    assert accepted == UpgradeAccepted(ENDPOINT.subprotocol, "", b"")
    assert sent == [b"GET"]
    assert pieces == [b"not read"]


# -- over real TLS ---------------------------------------------------------------------------


@pytest.fixture(params=["aiofastnet", "loop"])
def shake_hands(
    request: pytest.FixtureRequest, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> Callable[[ScriptedService], Any]:
    """Connect an exchange over the transports of either kind."""
    if request.param == "loop":
        monkeypatch.setattr(transport_module, "fast_transports", lambda: None)

    async def shake(service: ScriptedService) -> Exchange:
        endpoint = service.endpoint()
        exchange = Exchange()
        sock = await open_socket("localhost", service.port, PATIENCE)
        await start_tls(sock, endpoint, build_trust(endpoint.tls), exchange)
        return exchange

    return shake


async def test_bytes_before_the_request_are_judged_then(
    certificates: Certificates, shake_hands: Callable[[ScriptedService], Any]
) -> None:
    def script(peer: Peer) -> None:
        peer.send(REFUSAL)
        peer.read_to_end()

    with ScriptedService(certificates, script) as service:
        exchange = await shake_hands(service)
        while not exchange._received:
            await exchange._next()
        with pytest.raises(AccessRefused, match="403 Forbidden"):
            await ask(exchange)
        assert exchange._lost


async def test_an_end_before_the_request(
    certificates: Certificates, shake_hands: Callable[[ScriptedService], Any]
) -> None:
    with ScriptedService(certificates, lambda peer: None) as service:
        exchange = await shake_hands(service)
        while not exchange._lost:
            await exchange._next()
        with pytest.raises(HandshakeFailed, match=r"the connection was (closed|lost)"):
            await ask(exchange)
