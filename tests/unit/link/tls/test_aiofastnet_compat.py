"""What aiofastnet's transports see of the event loop."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from support.network.certificates import Certificates
from support.network.scripted_service import Peer, ScriptedService
from tailrace.link.exchange import Exchange
from tailrace.link.tcp import open_socket
from tailrace.link.tls.aiofastnet_compat import LoopView, fast_transports
from tailrace.link.tls.context import build_trust
from tailrace.link.tls.transport import start_tls


def test_without_aiofastnet_the_loops_own_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fast_transports() is not None
    monkeypatch.setitem(sys.modules, "aiofastnet", None)
    assert fast_transports() is None


async def test_an_exception_in_a_protocol_reaches_the_loops_handler(
    certificates: Certificates,
) -> None:
    class Stumbling(Exchange):
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
        exchange = Stumbling()
        endpoint = service.endpoint()
        sock = await open_socket("localhost", service.port, endpoint.connect_timeout)
        transport = await start_tls(sock, endpoint, build_trust(endpoint.tls), exchange)
        transport.write(b"go")
        while not exchange._lost:
            await exchange._next()
    assert isinstance(reported[0]["exception"], ZeroDivisionError)


async def test_nothing_is_reported_or_known_before_a_transport_exists() -> None:
    loop = asyncio.get_running_loop()
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))
    view = LoopView(loop)
    assert view.presented_certificates() == []
    view.call_exception_handler({"message": "during the handshake"})
    view.handshake_done()
    view.call_exception_handler({"message": "after it"})
    assert [context["message"] for context in reported] == ["after it"]
