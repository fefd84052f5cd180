"""TLS transports of both kinds."""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
import tempfile
from typing import Any, cast

import pytest

from support.network.certificates import Certificates
from support.network.scripted_service import Peer, ScriptedService
from tailrace.errors import TLSFailed
from tailrace.link.endpoint import ServiceEndpoint
from tailrace.link.exchange import Exchange
from tailrace.link.tcp import open_socket
from tailrace.link.tls import transport as module
from tailrace.link.tls.aiofastnet_compat import FilelessContext
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


async def test_no_file_is_written(
    certificates: Certificates, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be no place for one, and nobody reads it."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    with ScriptedService(certificates, Peer.read_to_end) as service:
        exchange = Exchange()
        transport = await shake_hands(service, exchange)
        transport.abort()
        await gone(exchange)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "whatever"), "No space left on device"),
        (RuntimeError("something odd"), "something odd"),
        (MemoryError(), "MemoryError"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_goes_wrong_behind_the_handshake_ends_the_try(
    certificates: Certificates,
    loop_kind: str,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    said: str,
) -> None:
    """aiofastnet swallows it, and would leave its caller waiting."""

    def fail(context: ssl.SSLContext) -> int:
        raise error

    monkeypatch.setattr(FilelessContext, "verify_mode", property(fail))
    with ScriptedService(certificates, Peer.read_to_end) as service:
        with pytest.raises(TLSFailed) as caught:
            await shake_hands(service, Exchange())
        assert str(caught.value).endswith(f"failed: {said}")


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
