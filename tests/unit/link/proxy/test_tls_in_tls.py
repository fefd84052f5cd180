"""The bridge: every byte in order, nothing piles up, and both sides end together."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from support.network.certificates import Certificates
from support.network.scripted_service import Peer, Script, ScriptedService
from support.waiting import HANG, until
from tailrace.link.exchange import Exchange
from tailrace.link.proxy import tls_in_tls as bridge_module
from tailrace.link.proxy.tls_in_tls import Bridge
from tailrace.link.tcp import open_socket
from tailrace.link.tls import transport as transport_module
from tailrace.link.tls.context import build_trust
from tailrace.link.tls.transport import start_tls

MANY = 8 * 1024 * 1024
"""Bytes that no buffer on the way takes in whole."""

BOUND = 12 * 1024 * 1024
"""Bytes that may wait in the bridge: the marks, and what comes before reading has stopped.

libuv reads up to 32 times before anybody else has a turn, uvloop 256 KiB each time.
"""

NOISE = random.Random(9).randbytes(MANY)


@pytest.fixture(params=["fast", "loop"], autouse=True)
def transports(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run over aiofastnet's TLS and over the loop's own."""
    if request.param == "loop":
        monkeypatch.setattr(transport_module, "fast_transports", lambda: None)


@asynccontextmanager
async def connected(certificates: Certificates, script: Script) -> AsyncIterator[Exchange]:
    """A TLS connection to a script; the loop goes on until the script has seen its end."""
    with ScriptedService(certificates, script) as service:
        endpoint = service.endpoint()
        exchange = Exchange()
        sock = await open_socket("localhost", service.port, HANG)
        transport = await start_tls(sock, endpoint, build_trust(endpoint.tls), exchange)
        try:
            yield exchange
        finally:
            for peer in service._peers:
                peer.released.set()
            transport.abort()
            await until(lambda: not any(each.is_alive() for each in service._threads[1:]))


@asynccontextmanager
async def bridged(
    certificates: Certificates, script: Script
) -> AsyncIterator[tuple[socket.socket, Bridge]]:
    """A bridge to a script; both its sides are gone in the end."""
    async with connected(certificates, script) as exchange:
        bridge = Bridge(exchange)
        with await bridge.open() as sock:
            yield sock, bridge
        await gone(bridge)


async def gone(bridge: Bridge) -> None:
    await until(lambda: bridge._far._is_gone and bridge._near._is_gone)


async def receive(sock: socket.socket, size: int) -> bytes:
    """Read that many bytes, or up to the end."""
    loop = asyncio.get_running_loop()
    data = bytearray()
    async with asyncio.timeout(HANG):
        while len(data) < size:
            piece = await loop.sock_recv(sock, min(65536, size - len(data)))
            if not piece:
                break
            data += piece
    return bytes(data)


async def send(sock: socket.socket, data: bytes) -> None:
    async with asyncio.timeout(HANG):
        await asyncio.get_running_loop().sock_sendall(sock, data)


def fill(sock: socket.socket) -> int:
    """Write what fits at this moment; return how much of the noise has gone."""
    sent = 0
    while True:
        try:
            sent += sock.send(NOISE[sent : sent + 65536])
        except BlockingIOError:
            return sent


async def fill_up(sock: socket.socket, bridge: Bridge) -> int:
    """Write the noise until nothing moves any more, as the other side does not read."""
    sent = 0
    async with asyncio.timeout(HANG):
        while True:
            try:
                sent += sock.send(NOISE[sent : sent + 65536])
            except BlockingIOError:
                if not bridge._near._reading:
                    return sent
                await asyncio.sleep(0.005)


def buffered(bridge: Bridge) -> int:
    """Return the bytes that wait in the bridge itself."""
    return sum(side.transport.get_write_buffer_size() for side in (bridge._far, bridge._near))


async def test_bytes_both_ways(certificates: Certificates) -> None:
    def script(peer: Peer) -> None:
        assert peer.read(5) == b"hello"
        peer.send(b"world", piece=1)
        peer.read_to_end()

    async with bridged(certificates, script) as (sock, _):
        assert not sock.getblocking()
        await send(sock, b"hello")
        assert await receive(sock, 5) == b"world"


async def test_many_bytes_both_ways_at_once(certificates: Certificates) -> None:
    # TLS sockets of the ssl module take one call at a time: so one way after the other here,
    # but what comes back does so while more goes out.
    def script(peer: Peer) -> None:
        for start in range(0, MANY, 65536):
            peer.send(peer.read(len(NOISE[start : start + 65536])))
        peer.read_to_end()

    async with bridged(certificates, script) as (sock, _), asyncio.TaskGroup() as group:
        group.create_task(send(sock, NOISE))
        back = await receive(sock, MANY)
        assert hashlib.sha256(back).digest() == hashlib.sha256(NOISE).digest()


async def test_what_came_before_the_bridge(certificates: Certificates) -> None:
    def script(peer: Peer) -> None:
        peer.send(b"early")
        peer.read_to_end()

    async with connected(certificates, script) as exchange:
        await until(lambda: exchange._received == b"early")
        bridge = Bridge(exchange)
        with await bridge.open() as sock:
            assert await receive(sock, 5) == b"early"
        await gone(bridge)


@pytest.mark.parametrize("rude", [False, True])
async def test_an_end_before_the_bridge(certificates: Certificates, rude: bool) -> None:
    def script(peer: Peer) -> None:
        peer.send(b"early")
        peer.read(1)
        if rude:
            peer.reset()

    async with connected(certificates, script) as exchange:
        await until(lambda: exchange._received == b"early")
        exchange.transport.write(b"x")
        await until(lambda: exchange._lost)
        bridge = Bridge(exchange)
        with await bridge.open() as sock:
            assert await receive(sock, 100) == b"early"
            await gone(bridge)


async def test_a_buffer_that_was_full_before_the_bridge(certificates: Certificates) -> None:
    reading = threading.Event()
    written = 0
    received: list[bytes] = []

    def script(peer: Peer) -> None:
        while not reading.wait(0.01) and not peer.released.is_set():
            pass
        received.append(peer.read(written + 5)[-5:])
        peer.send(b"x")
        peer.read_to_end()

    async with connected(certificates, script) as exchange:
        while not exchange._writing_paused:
            exchange.transport.write(NOISE)
            written += MANY
        bridge = Bridge(exchange)
        with await bridge.open() as sock:
            await until(lambda: not bridge._near._reading)
            await send(sock, b"after")
            reading.set()
            assert await receive(sock, 1) == b"x"
            assert received == [b"after"]
        await gone(bridge)


async def test_a_proxy_that_does_not_read_stops_the_sender(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_module, "_WATCH", 0.01)
    reading = threading.Event()
    digests: list[bytes] = []
    sizes: list[int] = []

    def script(peer: Peer) -> None:
        reading.wait(HANG)
        digests.append(hashlib.sha256(peer.read(sizes[0])).digest())
        peer.send(b"x")
        peer.read_to_end()

    async with bridged(certificates, script) as (sock, bridge):
        sent = await fill_up(sock, bridge)
        assert buffered(bridge) <= BOUND
        await asyncio.sleep(0.05)  # some looks at a socket that is still there
        with pytest.raises(BlockingIOError):
            sock.send(b"more")
        sizes.append(sent)
        reading.set()
        assert await receive(sock, 1) == b"x"
        assert bridge._near._reading
    assert digests == [hashlib.sha256(NOISE[:sent]).digest()]


async def test_a_reader_that_does_not_read_stops_the_proxy(certificates: Certificates) -> None:
    def script(peer: Peer) -> None:
        for _ in range(3):
            peer.send(NOISE)
        peer.read_to_end()

    async with bridged(certificates, script) as (sock, bridge):
        await until(lambda: not bridge._far._reading)
        await asyncio.sleep(0.05)  # in which nothing more may come
        assert buffered(bridge) <= BOUND
        back = await receive(sock, 3 * MANY)
        assert hashlib.sha256(back).digest() == hashlib.sha256(NOISE * 3).digest()
        assert bridge._far._reading


async def test_what_was_sent_before_the_end_arrives(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "SHUTDOWN_TIMEOUT", HANG)
    digests: list[bytes] = []

    def script(peer: Peer) -> None:
        digests.append(hashlib.sha256(peer.read(MANY)).digest())
        assert peer.sock.recv(1) == b"", "an orderly end"

    async with bridged(certificates, script) as (sock, _):
        await send(sock, NOISE)
    assert digests == [hashlib.sha256(NOISE).digest()]


async def test_what_came_before_the_end_is_delivered(
    certificates: Certificates, request: pytest.FixtureRequest
) -> None:
    async with bridged(certificates, lambda peer: peer.send(NOISE)) as (sock, bridge):
        await until(lambda: not bridge._far._reading)
        back = await receive(sock, 2 * MANY)
        if request.node.callspec.id == "uvloop-loop":
            # uvloop's own TLS drops what it holds when the end finds it paused.
            assert NOISE.startswith(back)
        else:
            assert hashlib.sha256(back).digest() == hashlib.sha256(NOISE).digest()


async def test_shutting_down_for_writing_is_closing(certificates: Certificates) -> None:
    ends: list[bytes] = []

    def script(peer: Peer) -> None:
        assert peer.read(3) == b"bye"
        ends.append(peer.sock.recv(1))

    async with bridged(certificates, script) as (sock, _):
        await send(sock, b"bye")
        sock.shutdown(socket.SHUT_WR)
        assert await receive(sock, 1) == b""
    assert ends == [b""]


async def test_a_reset_ends_the_socket(certificates: Certificates) -> None:
    def script(peer: Peer) -> None:
        peer.read(1)
        peer.reset()

    async with bridged(certificates, script) as (sock, _):
        await send(sock, b"x")
        assert await receive(sock, 1) == b""


async def test_a_socket_that_is_closed_while_nobody_reads_it(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that reads nothing keeps the bridge from reading, and so from seeing the end."""
    monkeypatch.setattr(bridge_module, "_WATCH", 0.01)
    monkeypatch.setattr(transport_module, "SHUTDOWN_TIMEOUT", 0.3)
    async with bridged(certificates, Peer.stay_silent) as (sock, bridge):
        await fill_up(sock, bridge)
        sock.close()
        await gone(bridge)


async def test_a_socket_that_is_closed_while_it_holds_up_the_proxy(
    certificates: Certificates,
) -> None:
    def script(peer: Peer) -> None:
        peer.send(NOISE)

    async with bridged(certificates, script) as (sock, bridge):
        await until(lambda: not bridge._far._reading)
        sock.close()
        await gone(bridge)


async def test_a_bridge_that_cannot_be_opened_leaves_nothing(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def attach(sock: socket.socket) -> None:
        raise OSError(24, "Too many open files")

    async with connected(certificates, Peer.read_to_end) as exchange:
        bridge = Bridge(exchange)
        monkeypatch.setattr(bridge._near, "attach", attach)
        with pytest.raises(OSError, match="Too many open files"):
            await bridge.open()
        await until(lambda: exchange._lost)


async def test_the_socket_takes_options_of_tcp(certificates: Certificates) -> None:
    async with bridged(certificates, Peer.read_to_end) as (sock, _):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 8192
