"""TLS transports of both kinds, and the tap that reads the upgrade's answer."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any, cast

import pytest

from support.ws import Certificates, Peer, ScriptedService
from tailrace.common.secret import Secret
from tailrace.errors import AccessRefused, HandshakeFailed
from tailrace.link.endpoint import ServiceEndpoint
from tailrace.link.http.upgrade import UpgradeParser
from tailrace.link.tcp import open_socket
from tailrace.link.tls import transport as module
from tailrace.link.tls.context import build_trust
from tailrace.link.tls.transport import (
    HIGH_WATER,
    LOW_WATER,
    UpgradeTap,
    close_transport,
    fast_transports,
    remote_address,
    start_tls,
)
from tailrace.wire import Side

TARGET = ServiceEndpoint(host="localhost", port=1, side=Side.SOURCE, access_token=Secret("token"))
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


@pytest.fixture(params=["aiofastnet", "loop"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name whose transports are used."""
    if request.param == "loop":
        monkeypatch.setattr(module, "fast_transports", lambda: None)
    name: str = request.param
    return name


async def shake_hands(service: ScriptedService, tap: UpgradeTap) -> asyncio.Transport:
    endpoint = service.endpoint()
    return await start_tls(await open_socket(endpoint), endpoint, build_trust(endpoint.tls), tap)


async def gone(tap: UpgradeTap) -> None:
    while not tap.lost:
        await asyncio.sleep(0.01)


async def test_the_transport_that_is_used(certificates: Certificates, kind: str) -> None:
    with ScriptedService(certificates, Peer.read_to_end) as service:
        tap = UpgradeTap()
        transport = await shake_hands(service, tap)
        assert type(transport).__module__.startswith("aiofastnet") is (kind == "aiofastnet")
        assert remote_address(transport) == f"127.0.0.1:{service.port}"
        limits = cast(Any, transport).get_write_buffer_limits()
        assert limits == (LOW_WATER, HIGH_WATER)
        transport.abort()
        await gone(tap)


async def test_a_transport_told_twice_to_close_can_still_be_aborted(
    certificates: Certificates, kind: str
) -> None:
    """This side would wait for the answer to its goodbye; nobody reads there."""

    def script(peer: Peer) -> None:
        peer.released.wait(60)

    with ScriptedService(certificates, script) as service:
        tap = UpgradeTap()
        transport = await shake_hands(service, tap)
        close_transport(transport)
        close_transport(transport)
        assert transport.is_closing()
        transport.abort()
        await gone(tap)
        service._peers[0].released.set()


def test_without_aiofastnet_the_loops_own_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fast_transports() is not None
    monkeypatch.setitem(sys.modules, "aiofastnet", None)
    assert fast_transports() is None


async def test_an_exception_in_a_protocol_reaches_the_loops_handler(
    certificates: Certificates,
) -> None:
    class Stumbling(UpgradeTap):
        def data_received(self, data: bytes) -> None:
            raise ZeroDivisionError

    def script(peer: Peer) -> None:
        peer.read(2)
        peer.send(b"something")
        peer.read_to_end()

    reported: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    with ScriptedService(certificates, script) as service:
        tap = Stumbling()
        transport = await shake_hands(service, tap)
        transport.write(b"go")
        await gone(tap)
    assert isinstance(reported[0]["exception"], ZeroDivisionError)


async def test_bytes_before_the_question_are_judged_then(
    certificates: Certificates, kind: str
) -> None:
    def script(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        peer.read_to_end()

    with ScriptedService(certificates, script) as service:
        tap = UpgradeTap()
        await shake_hands(service, tap)
        while not tap.leftover:
            await asyncio.sleep(0.01)
        with pytest.raises(AccessRefused, match="400 Bad Request"):
            await tap.upgrade(UpgradeParser(TARGET, KEY), 20.0)
        assert tap.lost


async def test_an_end_before_the_question(certificates: Certificates, kind: str) -> None:
    with ScriptedService(certificates, lambda peer: None) as service:
        tap = UpgradeTap()
        await shake_hands(service, tap)
        await gone(tap)
        with pytest.raises(HandshakeFailed, match=r"the connection was (closed|lost)"):
            await tap.upgrade(UpgradeParser(TARGET, KEY), 20.0)


class Dead:
    """As much of a transport as a tap needs; the loop's own cannot be told when to report."""

    def __init__(self, tap: UpgradeTap) -> None:
        self.tap = tap

    def abort(self) -> None:
        if not self.tap.lost:
            self.tap.connection_lost(None)


def tapped() -> UpgradeTap:
    tap = UpgradeTap()
    tap.connection_made(cast(asyncio.Transport, Dead(tap)))
    return tap


async def test_what_comes_while_nobody_is_waiting_any_longer() -> None:
    tap = tapped()
    asking = asyncio.get_running_loop().create_task(tap.upgrade(UpgradeParser(TARGET, KEY), 20.0))
    await asyncio.sleep(0)
    # All in one turn of the loop: the caller gives up, the answer comes, the end comes.
    asking.cancel()
    tap.data_received(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    tap.data_received(b"more")
    tap.connection_lost(ConnectionResetError())
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert tap.leftover == b"more"


async def test_an_acceptance_that_comes_too_late() -> None:
    tap = tapped()
    asking = asyncio.get_running_loop().create_task(tap.upgrade(UpgradeParser(TARGET, KEY), 20.0))
    await asyncio.sleep(0)
    asking.cancel()
    tap.data_received(
        b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        b"Sec-WebSocket-Protocol: aws.iot.securetunneling-3.0\r\n\r\nframe"
    )
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert tap.leftover == b"frame"


async def test_the_tap_remembers_the_write_buffers_marks() -> None:
    tap = tapped()
    assert not tap.writing_paused
    tap.pause_writing()
    assert tap.writing_paused
    tap.resume_writing()
    assert not tap.writing_paused


async def test_a_tap_without_a_transport_can_be_given_up() -> None:
    tap = UpgradeTap()
    asking = asyncio.get_running_loop().create_task(tap.upgrade(UpgradeParser(TARGET, KEY), 20.0))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


@pytest.mark.parametrize(
    ("peer", "text"),
    [
        (("127.0.0.1", 443), "127.0.0.1:443"),
        (("::1", 443, 0, 0), "[::1]:443"),
        (None, ""),
    ],
)
def test_remote_addresses(peer: tuple[Any, ...] | None, text: str) -> None:
    class Transport(asyncio.Transport):
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return peer if name == "peername" else default

    assert remote_address(Transport()) == text


async def test_a_failure_that_is_nobodys_fault_leaves_nothing(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedService(certificates, Peer.stay_silent, plain=True) as service:
        endpoint = service.endpoint()
        sock = await open_socket(endpoint)
        trust = build_trust(endpoint.tls)
        # TLS refuses the name before it sends a byte.
        monkeypatch.setattr(ServiceEndpoint, "server_name", property(lambda self: ".example"))
        with pytest.raises(ValueError, match="server_hostname"):
            await start_tls(sock, endpoint, trust, UpgradeTap())
        await asyncio.sleep(0)
        assert sock.fileno() == -1


async def test_ipv6(certificates: Certificates, kind: str) -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with listener:
        endpoint = ServiceEndpoint(
            host="::1",
            port=listener.getsockname()[1],
            side=Side.SOURCE,
            access_token=Secret("token"),
        )
        with await open_socket(endpoint) as sock:
            assert sock.family is socket.AF_INET6
