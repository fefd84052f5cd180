"""TLS transports of both kinds."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from support.network.certificates import Certificates
from support.network.scripted_service import Peer, ScriptedService
from tailrace.link.endpoint import ServiceEndpoint
from tailrace.link.exchange import Exchange
from tailrace.link.tcp import open_socket
from tailrace.link.tls import transport as module
from tailrace.link.tls.context import build_trust
from tailrace.link.tls.transport import HIGH_WATER, LOW_WATER, close_transport, start_tls


@pytest.fixture(params=["aiofastnet", "loop"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name whose transports are used."""
    if request.param == "loop":
        monkeypatch.setattr(module, "fast_transports", lambda: None)
    name: str = request.param
    return name


async def shake_hands(service: ScriptedService, protocol: asyncio.Protocol) -> asyncio.Transport:
    endpoint = service.endpoint()
    sock = await open_socket("localhost", service.port, endpoint.connect_timeout)
    return await start_tls(sock, endpoint, build_trust(endpoint.tls), protocol)


async def gone(exchange: Exchange) -> None:
    while not exchange._lost:
        await exchange._next()


async def test_the_transport_that_is_used(certificates: Certificates, kind: str) -> None:
    with ScriptedService(certificates, Peer.read_to_end) as service:
        exchange = Exchange()
        transport = await shake_hands(service, exchange)
        assert exchange.transport is transport
        assert type(transport).__module__.startswith("aiofastnet") is (kind == "aiofastnet")
        limits = cast(Any, transport).get_write_buffer_limits()
        assert limits == (LOW_WATER, HIGH_WATER)
        transport.abort()
        await gone(exchange)


async def test_a_transport_told_twice_to_close_can_still_be_aborted(
    certificates: Certificates, kind: str
) -> None:
    """This side would wait for the answer to its goodbye; nobody reads there."""

    def script(peer: Peer) -> None:
        peer.released.wait(60)

    with ScriptedService(certificates, script) as service:
        exchange = Exchange()
        transport = await shake_hands(service, exchange)
        close_transport(transport)
        close_transport(transport)
        assert transport.is_closing()
        transport.abort()
        await gone(exchange)
        service._peers[0].released.set()


async def test_a_failure_that_is_nobodys_fault_leaves_nothing(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedService(certificates, Peer.stay_silent, plain=True) as service:
        endpoint = service.endpoint()
        sock = await open_socket("localhost", service.port, endpoint.connect_timeout)
        trust = build_trust(endpoint.tls)
        # TLS refuses the name before it sends a byte.
        monkeypatch.setattr(ServiceEndpoint, "server_name", property(lambda self: ".example"))
        with pytest.raises(ValueError, match="server_hostname"):
            await start_tls(sock, endpoint, trust, Exchange())
        await asyncio.sleep(0)
        assert sock.fileno() == -1
