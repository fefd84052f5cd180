"""A connection: over TCP, TLS and web proxies, to a real broker and to one that plays tricks."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from support.network.certificates import Certificates
from support.network.ports import free_port
from support.network.scripted_broker import (
    BrokerPeer,
    message,
    packet,
    scripted_broker,
)
from support.network.web_proxies import http_greeting, proxy_server
from support.plugins.clock import ClockLoop
from support.processes.mosquitto import broker, needs_mosquitto
from support.waiting import HANG
from tailrace.common.secret import Secret
from tailrace.errors import CertificateRejected, ConfigurationError, ConnectFailed
from tailrace.link.endpoint import TLSOptions
from tailrace.mqtt import connection as module
from tailrace.mqtt.codec import MAX_PAYLOAD, Publish
from tailrace.mqtt.connection import Connection, open_connection
from tailrace.mqtt.errors import BrokerError, BrokerFault
from tailrace.mqtt.session import Accepted, Dropped, Event, Received, SessionSettings, Subscribed
from tailrace.mqtt.settings import BrokerSettings

SETTINGS = SessionSettings("dev", "t")


class Ended(Exception):
    """The test has seen enough."""


@asynccontextmanager
async def connected(
    settings: BrokerSettings, session: SessionSettings = SETTINGS, **options: Any
) -> AsyncIterator[Connection]:
    async with asyncio.timeout(HANG):
        connection = await open_connection(settings, session, **options)
        try:
            yield connection
        finally:
            await connection.close()


def until(wanted: int, events: list[Event]) -> Callable[[Event], Awaitable[None]]:
    """Collect events, and raise Ended at the last one that is wanted."""

    async def handle(event: Event) -> None:
        events.append(event)
        if len(events) == wanted:
            raise Ended

    return handle


async def fails(connection: Connection, events: list[Event] | None = None) -> BrokerError:
    found = [] if events is None else events
    with pytest.raises(BrokerError) as caught:
        await connection.run(until(-1, found))
    return caught.value


def local(port: int, **options: Any) -> BrokerSettings:
    return BrokerSettings("127.0.0.1", port, **options)


class TestScript:
    async def test_a_subscriber(self, loop_kind: str) -> None:
        said = []

        async def script(peer: BrokerPeer) -> None:
            said.append(await peer.begin())
            for number in range(100):
                peer.send(message("t", b"%d" % number, qos=1, packet_id=number + 1))
            for number in range(100):
                assert await peer.read() == (0x40, (number + 1).to_bytes(2, "big"))
            peer.send(message("t", b"last"))
            assert await peer.to_end() == packet(0xE0)

        events: list[Event] = []
        async with scripted_broker(script) as running:
            settings = local(running.port, user="u", password=Secret("p"))
            async with connected(settings) as connection:
                with pytest.raises(Ended):
                    await connection.run(until(103, events))
        assert events[:2] == [Accepted(False), Subscribed(1)]
        assert [event.message.payload for event in events[2:] if isinstance(event, Received)] == [
            *(b"%d" % number for number in range(100)),
            b"last",
        ]
        (client,) = said
        assert (client.client_id, client.keep_alive, client.clean_session) == ("dev", 45, True)
        assert (client.user, client.password) == ("u", "p")

    async def test_nothing_is_read_while_a_message_is_stored(self, loop_kind: str) -> None:
        """TCP slows the broker down; memory stays flat."""
        stuck = asyncio.Event()

        async def script(peer: BrokerPeer) -> None:
            await peer.begin()
            peer.writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536
            )
            flood = message("t", bytes(MAX_PAYLOAD)) * 8
            while True:
                peer.send(flood)
                try:
                    async with asyncio.timeout(0.3):
                        await peer.writer.drain()
                except TimeoutError:
                    stuck.set()
                    await peer.to_end()
                    return

        async def handle(event: Event) -> None:
            if isinstance(event, Received):
                await stuck.wait()
                raise Ended

        async with scripted_broker(script) as running:
            async with connected(local(running.port)) as connection:
                with pytest.raises(Ended):
                    await connection.run(handle)
                assert len(connection._session._reader._buffer) < 1_000_000

    async def test_what_is_not_stored_is_not_acknowledged(self) -> None:
        async def script(peer: BrokerPeer) -> None:
            await peer.begin()
            peer.send(message("t", b"x", qos=1))
            assert await peer.to_end() == packet(0xE0)

        events: list[Event] = []
        async with scripted_broker(script) as running:
            async with connected(local(running.port)) as connection:
                with pytest.raises(Ended):
                    await connection.run(until(3, events))
        assert events[2:] == [Received(Publish("t", b"x", 1, 1))]

    async def test_too_large_is_dropped_and_the_session_goes_on(self) -> None:
        """Vector 20."""

        async def script(peer: BrokerPeer) -> None:
            await peer.begin()
            peer.send(message("t", bytes(1_000_000), qos=1, packet_id=5) + message("t", b"next"))
            assert await peer.read() == (0x40, b"\0\5")
            await peer.to_end()

        events: list[Event] = []
        async with scripted_broker(script) as running:
            async with connected(local(running.port)) as connection:
                with pytest.raises(Ended):
                    await connection.run(until(4, events))
        assert isinstance(events[2], Dropped)
        assert events[2].message.size == 1_000_000
        assert events[3] == Received(Publish("t", b"next"))

    @pytest.mark.parametrize("data", [message(b"\xff\xfe", b"!"), b"\x00\x00", packet(0xD0)])
    async def test_what_breaks_the_rules_ends_the_connection_once(
        self, data: bytes, loop_kind: str
    ) -> None:
        """Rule 8: paho would read the same packet for ever."""

        async def script(peer: BrokerPeer) -> None:
            await peer.begin()
            peer.send(data + data)
            await peer.to_end()

        async with scripted_broker(script) as running:
            async with connected(local(running.port)) as connection:
                error = await fails(connection)
        assert error.fault is BrokerFault.VIOLATION
        assert running.connections == 1

    @pytest.mark.parametrize(
        ("steps", "fault"),
        [
            (0, BrokerFault.CLOSED_EARLY),
            (1, BrokerFault.SUBSCRIPTION_REFUSED),
            (2, BrokerFault.LOST),
        ],
    )
    @pytest.mark.parametrize("resets", [False, True])
    async def test_the_broker_hangs_up(
        self, steps: int, fault: BrokerFault, resets: bool, loop_kind: str
    ) -> None:
        """Rule 11, and AWS' way of refusing a subscription."""

        async def script(peer: BrokerPeer) -> None:
            if steps == 0:
                await peer.expect(0x10)
            else:
                await peer.connect()
            if steps == 1:
                await peer.expect(0x82)
            elif steps == 2:
                await peer.subscribe()
            if resets:
                linger = struct.pack("ii", 1, 0)
                sock = peer.writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

        async with scripted_broker(script) as running:
            async with connected(local(running.port)) as connection:
                error = await fails(connection)
        assert error.fault is fault
        assert str(error).startswith(("the connection was closed", "the connection was lost (Conn"))

    async def test_what_came_before_the_end_is_handled(self) -> None:
        async def script(peer: BrokerPeer) -> None:
            await peer.begin()
            peer.send(message("t", b"1") + message("t", b"2"))

        events: list[Event] = []
        async with scripted_broker(script) as running:
            async with connected(local(running.port)) as connection:
                assert (await fails(connection, events)).fault is BrokerFault.LOST
        assert [e.message.payload for e in events if isinstance(e, Received)] == [b"1", b"2"]

    async def test_other_tasks_get_their_turn(self) -> None:
        async def script(peer: BrokerPeer) -> None:
            await peer.begin()
            peer.send(message("t") * 150)
            await peer.to_end()

        turns = 0

        async def spin() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        received, most, before = 0, 0, 0

        async def handle(event: Event) -> None:
            nonlocal received, most, before
            received += isinstance(event, Received)
            if turns == before:
                most += 1
            else:
                before, most = turns, 0
            assert most <= 64
            if received == 150:
                raise Ended

        async with scripted_broker(script) as running:
            async with connected(local(running.port)) as connection:
                spinner = asyncio.get_running_loop().create_task(spin())
                with pytest.raises(Ended):
                    await connection.run(handle)
                spinner.cancel()

    async def test_a_broker_that_sends_and_does_not_read(self) -> None:
        """What the client writes are answers; not reading the questions bounds them."""
        stuck = asyncio.Event()

        async def script(peer: BrokerPeer) -> None:
            await peer.begin()
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            while not stuck.is_set():
                peer.send(packet(0x62, b"\0\1") * 16_000)
                try:
                    async with asyncio.timeout(0.3):
                        await peer.writer.drain()
                except TimeoutError:
                    stuck.set()

        async with scripted_broker(script) as running:
            async with connected(local(running.port)) as connection:
                running_task = asyncio.get_running_loop().create_task(connection.run(until(-1, [])))
                await stuck.wait()
                assert connection._transport.get_write_buffer_size() < 2_000_000
                running_task.cancel()
                await asyncio.wait([running_task])

    async def test_closing_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_CLOSE_TIMEOUT", 0.05)
        released = asyncio.Event()

        async def script(peer: BrokerPeer) -> None:
            await peer.begin()
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await released.wait()

        async with scripted_broker(script) as running:
            connection = await open_connection(local(running.port), SETTINGS)
            with pytest.raises(Ended):
                await connection.run(until(2, []))
            connection._transport.write(bytes(20_000_000))
            await connection.close()
            released.set()

    async def test_the_way_to_the_broker(self) -> None:
        with pytest.raises(BrokerError, match="cannot connect to 127") as caught:
            await open_connection(local(free_port()), SETTINGS)
        assert caught.value.fault is BrokerFault.UNREACHABLE
        assert isinstance(caught.value.__cause__, ConnectFailed)

    async def test_tcp_gives_up_on_a_dead_peer(self) -> None:
        async def script(peer: BrokerPeer) -> None:
            await peer.to_end()

        async with scripted_broker(script) as running:
            async with connected(local(running.port)) as connection:
                sock = connection._transport.get_extra_info("socket")
                level = socket.IPPROTO_TCP
                assert sock.getsockopt(level, socket.TCP_USER_TIMEOUT) == 67_500

    @pytest.mark.parametrize("scheme", ["http", "https"])
    async def test_through_a_web_proxy(
        self, scheme: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
        tls = certificates.server_context()

        async def script(peer: BrokerPeer) -> None:
            await peer.begin()
            await peer.to_end()

        events: list[Event] = []
        async with (
            scripted_broker(script, certificates.server_context()) as running,
            proxy_server(http_greeting, tls=tls if scheme == "https" else None) as proxy,
        ):
            settings = BrokerSettings("localhost", running.port, TLSOptions())
            way = proxy.settings(scheme, "localhost")
            async with connected(settings, web_proxy=way) as connection:
                with pytest.raises(Ended):
                    await connection.run(until(2, events))
            assert f"CONNECT localhost:{running.port} " in proxy.requests[0]


class TestTls:
    async def test_name_and_protocol_are_sent(
        self, certificates: Certificates, loop_kind: str
    ) -> None:
        """AWS IoT Core tells accounts apart by name, and services on port 443 by protocol."""
        names = []
        tls = certificates.server_context()
        tls.set_alpn_protocols(["x-amzn-mqtt-ca"])
        tls.sni_callback = lambda _, name, __: names.append(name)

        async def script(peer: BrokerPeer) -> None:
            await peer.begin()
            chosen = peer.writer.get_extra_info("ssl_object").selected_alpn_protocol()
            peer.send(message("t", str(chosen).encode()))
            await peer.to_end()

        options = TLSOptions(authorities=certificates.ca_file, alpn=("x-amzn-mqtt-ca",))
        events: list[Event] = []
        async with scripted_broker(script, tls) as running:
            async with connected(BrokerSettings("localhost", running.port, options)) as connection:
                with pytest.raises(Ended):
                    await connection.run(until(3, events))
        assert names == ["localhost"]
        assert events[2] == Received(Publish("t", b"x-amzn-mqtt-ca"))

    async def test_a_stranger_is_not_trusted(self, certificates: Certificates) -> None:
        async def script(peer: BrokerPeer) -> None:
            await peer.to_end()

        async with scripted_broker(script, certificates.server_context()) as running:
            with pytest.raises(BrokerError, match="does not verify") as caught:
                await open_connection(
                    BrokerSettings("localhost", running.port, TLSOptions()), SETTINGS
                )
        assert isinstance(caught.value.__cause__, CertificateRejected)

    async def test_certificates_are_read_for_each_connection(self, tmp_path: Path) -> None:
        options = TLSOptions(authorities=tmp_path / "gone.pem")
        with pytest.raises(ConfigurationError, match=r"gone\.pem"):
            await open_connection(BrokerSettings("localhost", 1, options), SETTINGS)


@needs_mosquitto
class TestMosquitto:
    async def test_client_certificates(self, tmp_path: Path, loop_kind: str) -> None:
        ca = trustme.CA()
        ca.cert_pem.write_to_path(tmp_path / "ca.pem")
        server, client = ca.issue_cert("localhost"), ca.issue_cert("dev.example", common_name="dev")
        server.cert_chain_pems[0].write_to_path(tmp_path / "broker.pem")
        server.private_key_pem.write_to_path(tmp_path / "broker.key")
        client.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
        options = [
            "allow_anonymous false",
            "require_certificate true",
            "use_identity_as_username true",
            f"cafile {tmp_path / 'ca.pem'}",
            f"certfile {tmp_path / 'broker.pem'}",
            f"keyfile {tmp_path / 'broker.key'}",
        ]
        tls = TLSOptions(authorities=tmp_path / "ca.pem", certificate=tmp_path / "client.pem")
        with broker(tmp_path, options) as running:
            events: list[Event] = []
            async with connected(BrokerSettings("localhost", running.port, tls)) as connection:
                with pytest.raises(Ended):
                    await connection.run(until(2, events))
            assert events == [Accepted(False), Subscribed(1)]
            # With TLS 1.3 a client hears that it lacks one only after its handshake.
            stranger = BrokerSettings("localhost", running.port, replace(tls, certificate=None))
            async with connected(stranger) as connection:
                error = await fails(connection)
            assert error.fault is BrokerFault.CLOSED_EARLY
            assert "certificate required" in str(error)

    async def test_wrong_password(self, tmp_path: Path) -> None:
        passwords = tmp_path / "passwords"
        passwords.write_text("")
        passwords.chmod(0o600)
        with broker(tmp_path, ["allow_anonymous false", f"password_file {passwords}"]) as running:
            settings = local(running.port, user="u", password=Secret("wrong"))
            async with connected(settings) as connection:
                error = await fails(connection)
        assert error.fault is BrokerFault.REFUSED
        assert "wrong" not in str(error)


class SilentTransport(asyncio.Transport):
    """Takes what is written; nothing ever comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def test_a_flood_of_messages_is_slowed_down() -> None:
    async def live() -> float:
        loop = asyncio.get_running_loop()
        connection, silent = Connection(SETTINGS), SilentTransport()
        connection.connection_made(silent)
        connection.data_received(packet(0x20, b"\0\0") + packet(0x90, b"\0\1\1"))
        connection.data_received(message("t") * 1200)
        with pytest.raises(Ended):
            await connection.run(until(1202, []))
        return loop.time()

    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        assert runner.run(live()) == pytest.approx(10, abs=0.1)


@pytest.mark.parametrize("speaks", [False, True], ids=["never", "until subscribed"])
def test_a_connection_that_is_half_open(speaks: bool) -> None:
    """Rule 9: dead after one and a half times the keep-alive time, not twice as with paho."""

    async def live() -> tuple[float, BrokerError, list[bytes]]:
        loop = asyncio.get_running_loop()
        connection, silent = Connection(SETTINGS), SilentTransport()
        connection.connection_made(silent)
        if speaks:
            connection.data_received(packet(0x20, b"\0\0") + packet(0x90, b"\0\1\1"))
        error = await fails(connection)
        return loop.time(), error, silent.written

    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        passed, error, written = runner.run(live())
    assert error.fault is BrokerFault.SILENT
    if speaks:
        assert passed == 67.5
        assert written[-1] == packet(0xC0)
    else:
        assert passed == 10
        assert len(written) == 1
