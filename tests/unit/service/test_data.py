"""The data listener over real TLS: handshakes, frames, flow, replacement, shutdown."""

import asyncio
import contextlib
import hashlib
import json
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from support_service import HANG, Peer, api, config, dial, running, trust
from tailrace.secret import Secret
from tailrace.service.config import DataSettings, OperationSettings
from tailrace.service.control import ControlPlane
from tailrace.service.data import DataListener
from tailrace.service.errors import StoreFailed
from tailrace.service.fabric import LocalFabric
from tailrace.service.limits import Limits
from tailrace.service.queries import TunnelQueries
from tailrace.service.server import Service
from tailrace.service.sqlite_store import SqliteStore
from tailrace.service.store import Side
from tailrace.service.tunnels import RandomIds, Tunnels, TunnelSpec
from tailrace.wire import (
    MAX_FRAME,
    MAX_PAYLOAD,
    SUBPROTOCOL_V1,
    SUBPROTOCOL_V2,
    SUBPROTOCOL_V3,
    Message,
    MessageType,
    encode_frame,
)

DATA = MessageType.DATA
START = MessageType.STREAM_START
RESET = MessageType.STREAM_RESET

CLIENT = "2da438cf-9a30-4148-b236-c338182f243c"
USED = "Invalid access token: The access token was previously used and can not be used again."
DIFFERS = (
    "Invalid client token: The provided client token does not match the client token that was "
    "previously set."
)


@pytest.fixture
def use_aiofastnet() -> bool:
    return True


@pytest.fixture
async def service(tmp_path: Path, use_aiofastnet: bool) -> AsyncIterator[Service]:
    data = DataSettings(use_aiofastnet=use_aiofastnet, sweep_interval=0.2, close_timeout=2.0)
    async with running(config(tmp_path / "state", data=data)) as service:
        yield service


@pytest.fixture
async def tunnel(service: Service) -> dict[str, Any]:
    return await open_tunnel(service)


async def open_tunnel(service: Service, *services: str) -> dict[str, Any]:
    request = {"destinationConfig": {"services": list(services)}} if services else {}
    client = api(service.endpoints)
    try:
        return await asyncio.to_thread(client.open_tunnel, **request)
    finally:
        client.close()


def start(stream: int = 1, service: str = "", connection: int = 1) -> Message:
    return Message(START, stream, service, connection)


def data(payload: bytes, stream: int = 1, service: str = "", connection: int = 1) -> Message:
    return Message(DATA, stream, service, connection, payload)


async def refused(service: Service, mode: str, token: str, **options: Any) -> tuple[int, str]:
    """Expect a refusal; return status and body, which X-Status-Reason must repeat."""
    with pytest.raises(InvalidStatus) as caught:
        async with dial(service.endpoints, mode, token, **options):
            pass
    response = caught.value.response
    text = response.body.decode()
    assert response.headers["X-Status-Reason"] == text
    assert response.headers["channel-id"]
    return response.status_code, text


async def raw_answer(service: Service, request: bytes) -> bytes:
    """Send bytes on a fresh TLS connection; return what comes until its end."""
    host, _, port = service.endpoints.data_endpoint.rpartition(":")
    reader, writer = await asyncio.open_connection(
        host, int(port), ssl=trust(service.endpoints), server_hostname=host
    )
    try:
        writer.write(request)
        await writer.drain()
        return await asyncio.wait_for(reader.read(), HANG)
    finally:
        writer.transport.abort()


class TestHandshake:
    async def test_the_answer(self, service: Service, tunnel: dict[str, Any]) -> None:
        async with dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as peer:
            response = peer.socket.response
            assert response is not None
            assert response.headers["Sec-WebSocket-Protocol"] == SUBPROTOCOL_V3
            assert response.headers["channel-id"]

    async def test_a_token_in_a_cookie(self, service: Service, tunnel: dict[str, Any]) -> None:
        cookie = {"Cookie": f"awsiot-tunnel-token={tunnel['sourceAccessToken']}"}
        async with dial(service.endpoints, "source", "", additional_headers=cookie):
            pass

    async def test_used_once_without_client_token(
        self, service: Service, tunnel: dict[str, Any]
    ) -> None:
        token = tunnel["sourceAccessToken"]
        async with dial(service.endpoints, "source", token):
            assert await refused(service, "source", token) == (400, USED)
        assert await refused(service, "source", token, client_token=CLIENT) == (400, USED)

    async def test_used_again_with_the_same_client_token(
        self, service: Service, tunnel: dict[str, Any]
    ) -> None:
        token = tunnel["destinationAccessToken"]
        for _ in range(2):
            async with dial(service.endpoints, "destination", token, client_token=CLIENT):
                pass
        other = "f" * 32
        answer = await refused(service, "destination", token, client_token=other)
        assert answer == (400, DIFFERS)
        assert await refused(service, "destination", token) == (400, USED)

    async def test_unknown_token(self, service: Service) -> None:
        assert await refused(service, "source", "nonsense") == (403, "Invalid access-token")

    async def test_wrong_mode(self, service: Service, tunnel: dict[str, Any]) -> None:
        token = tunnel["sourceAccessToken"]
        status, _ = await refused(service, "destination", token)
        assert status == 400
        assert (await refused(service, "both", token))[0] == 400
        async with dial(service.endpoints, "source", token):
            pass

    async def test_closed_tunnel(self, service: Service, tunnel: dict[str, Any]) -> None:
        client = api(service.endpoints)
        await asyncio.to_thread(client.close_tunnel, tunnelId=tunnel["tunnelId"])
        client.close()
        answer = await refused(service, "source", tunnel["sourceAccessToken"])
        assert answer == (400, "Tunnel is closed")

    async def test_two_tokens(self, service: Service, tunnel: dict[str, Any]) -> None:
        token = tunnel["sourceAccessToken"]
        cookie = {"Cookie": f"awsiot-tunnel-token={token}"}
        for headers in (
            {"access-token": token} | cookie,
            [("access-token", token), ("access-token", token)],
        ):
            status, _ = await refused(service, "source", "", additional_headers=headers)
            assert status == 400

    async def test_wrong_path(self, service: Service, tunnel: dict[str, Any]) -> None:
        uri = f"wss://{service.endpoints.data_endpoint}/x?local-proxy-mode=source"
        with pytest.raises(InvalidStatus) as caught:
            async with connect(uri, ssl=trust(service.endpoints), proxy=None):
                pass
        assert caught.value.response.status_code == 400

    async def test_large_request(self, service: Service, tunnel: dict[str, Any]) -> None:
        headers = {"access-token": tunnel["sourceAccessToken"], "x-padding": "a" * 5000}
        status, _ = await refused(service, "source", "", additional_headers=headers)
        assert status == 431

    async def test_unknown_subprotocol(self, service: Service, tunnel: dict[str, Any]) -> None:
        token = tunnel["sourceAccessToken"]
        status, _ = await refused(service, "source", token, subprotocols=("mqtt",))
        assert status == 400
        async with dial(service.endpoints, "source", token):
            pass

    async def test_what_is_no_upgrade_does_not_use_the_token_up(
        self, service: Service, tunnel: dict[str, Any]
    ) -> None:
        token = tunnel["sourceAccessToken"]
        request = (
            "GET /tunnel?local-proxy-mode=source HTTP/1.1\r\nHost: localhost\r\n"
            f"access-token: {token}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL_V3}\r\n\r\n"
        )
        answer = await raw_answer(service, request.encode())
        assert answer.startswith(b"HTTP/1.1 426 ")
        async with dial(service.endpoints, "source", token):
            pass

    async def test_a_browsers_upgrade(self, service: Service, tunnel: dict[str, Any]) -> None:
        request = (
            "GET /tunnel?local-proxy-mode=source HTTP/1.1\r\nHost: localhost\r\n"
            "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
            "Sec-WebSocket-Key: 9/h0zvwMEXrg06G+RjnmcA==\r\nSec-WebSocket-Version: 13\r\n"
            f"Cookie: awsiot-tunnel-token={tunnel['sourceAccessToken']}\r\n"
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL_V3}\r\n\r\n"
        )
        # Followed by a frame without a mask, so that the connection ends.
        answer = await raw_answer(service, request.encode() + b"\x82\x00")
        assert answer.startswith(b"HTTP/1.1 101 ")

    async def test_garbage_is_answered_and_dropped(self, service: Service) -> None:
        assert (await raw_answer(service, b"\x00garbage\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
        assert await raw_answer(service, b"x" * 20_000) == b""

    async def test_a_silent_client_is_dropped(self, tmp_path: Path) -> None:
        quick = Limits(handshake_seconds=0.2)
        async with running(config(tmp_path / "state", limits=quick)) as service:
            assert await raw_answer(service, b"GET ") == b""
            host, _, port = service.endpoints.data_endpoint.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            assert await asyncio.wait_for(reader.read(), HANG) == b""
            writer.close()

    async def test_old_tls_is_refused(self, service: Service) -> None:
        context = trust(service.endpoints)
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        host, _, port = service.endpoints.data_endpoint.rpartition(":")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection(host, int(port), ssl=context, server_hostname=host)


class TestFailingStore:
    async def test_no_admission_without_the_store(
        self, service: Service, tunnel: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise StoreFailed("disk gone")

        token = tunnel["sourceAccessToken"]
        with monkeypatch.context() as patch:
            patch.setattr(SqliteStore, "token", fail)
            status, text = await refused(service, "source", token)
            assert status == 503
            assert "disk" not in text
        with monkeypatch.context() as patch:
            patch.setattr(SqliteStore, "set_connection", fail)
            async with dial(service.endpoints, "source", token):
                pass
        record = service.queries.describe(tunnel["tunnelId"])
        assert record.source.status == "DISCONNECTED"


class TestGreeting:
    @pytest.mark.parametrize("services", [(), ("SSH",), ("b", "a", "x:1")])
    async def test_service_ids_come_first_and_alone(
        self, service: Service, services: tuple[str, ...]
    ) -> None:
        tunnel = await open_tunnel(service, *services)
        for subprotocol, mode, key in (
            (SUBPROTOCOL_V3, "source", "sourceAccessToken"),
            (SUBPROTOCOL_V2, "destination", "destinationAccessToken"),
        ):
            async with dial(
                service.endpoints, mode, tunnel[key], subprotocols=[subprotocol], expect_ids=None
            ) as peer:
                first = await peer.socket.recv()
                expected = Message(MessageType.SERVICE_IDS, available_service_ids=services)
                assert first == encode_frame(expected)

    async def test_a_version_1_client_gets_none(
        self, service: Service, tunnel: dict[str, Any]
    ) -> None:
        async with dial(
            service.endpoints,
            "source",
            tunnel["sourceAccessToken"],
            subprotocols=[SUBPROTOCOL_V1],
            expect_ids=None,
        ) as peer:
            await peer.send(start(4, connection=0))
            assert await peer.recv() == Message(RESET, 4)


class TestRelaying:
    @pytest.fixture(params=[True, False], ids=["aiofastnet", "asyncio"])
    def use_aiofastnet(self, request: pytest.FixtureRequest) -> bool:
        return bool(request.param)

    async def test_bytes_arrive_whatever_the_frames(
        self, service: Service, tunnel: dict[str, Any]
    ) -> None:
        """Random messages, split and joined at random, fragmented as the C++ proxy does."""
        chance = random.Random(7)
        async with (
            dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as source,
            dial(service.endpoints, "destination", tunnel["destinationAccessToken"]) as destination,
        ):
            await source.send(start())
            assert await destination.recv() == start()
            await asyncio.gather(
                exchange(source, destination, random.Random(chance.random())),
                exchange(destination, source, random.Random(chance.random())),
            )

    async def test_a_stream_start_shares_no_frame(
        self, service: Service, tunnel: dict[str, Any]
    ) -> None:
        async with (
            dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as source,
            dial(service.endpoints, "destination", tunnel["destinationAccessToken"]) as destination,
        ):
            await source.send(start(1), data(b"a"), data(b"b"), start(2), data(b"c", 2))
            frames = [await destination.socket.recv() for _ in range(4)]
            assert frames == [
                encode_frame(start(1)),
                encode_frame(data(b"a")) + encode_frame(data(b"b")),
                encode_frame(start(2)),
                encode_frame(data(b"c", 2)),
            ]

    async def test_pings_are_answered(self, service: Service, tunnel: dict[str, Any]) -> None:
        async with dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as peer:
            pong = await peer.socket.ping(b"1716900000000")
            await asyncio.wait_for(pong, HANG)

    async def test_tunnels_do_not_mix(self, service: Service, tunnel: dict[str, Any]) -> None:
        other = await open_tunnel(service)
        async with (
            dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as source,
            dial(service.endpoints, "destination", other["destinationAccessToken"]) as stranger,
        ):
            await source.send(start())
            assert await source.recv() == Message(RESET, 1, "", 1)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(stranger.recv(), 0.2)


async def exchange(sender: Peer, receiver: Peer, chance: random.Random) -> None:
    """Send a few MB in messages of all sizes, frames of all sizes; compare checksums."""
    payloads = [chance.randbytes(chance.choice([1, 40, 4000, MAX_PAYLOAD])) for _ in range(120)]
    stream = b"".join(encode_frame(data(payload)) for payload in payloads)

    async def send() -> None:
        at = 0
        while at < len(stream):
            size = chance.choice([1, 100, 4096, 65_000, 131_076])
            piece = stream[at : at + size]
            fragments = [piece[n : n + 4096] for n in range(0, len(piece), 4096)]
            await sender.socket.send(fragments if chance.random() < 0.3 else piece)
            at += size

    async def receive() -> bytes:
        total = sum(map(len, payloads))
        digest = hashlib.sha256()
        while total:
            payload = (await receiver.recv()).payload
            digest.update(payload)
            total -= len(payload)
        return digest.digest()

    _, digest = await asyncio.gather(send(), receive())
    assert digest == hashlib.sha256(b"".join(payloads)).digest()


class TestRules:
    @pytest.mark.parametrize("mode", ["source", "destination"])
    @pytest.mark.parametrize(
        "message",
        [
            Message(MessageType.SERVICE_IDS, available_service_ids=("SSH",)),
            Message(MessageType.SESSION_RESET),
            Message(MessageType.UNKNOWN, 1),
            data(b"x", 0, "SSH"),
            data(b"x", 1, "VNC"),
            data(b"x", 1, "SSH"),
        ],
        ids=lambda message: f"{message.type}-{message.stream_id}-{message.service_id}",
    )
    async def test_a_client_that_breaks_them_is_disconnected(
        self, service: Service, mode: str, message: Message
    ) -> None:
        tunnel = await open_tunnel(service, "SSH")
        token = tunnel[f"{mode}AccessToken"]
        async with dial(service.endpoints, mode, token, expect_ids=["SSH"]) as peer:
            await peer.send(message)
            code, reason = await peer.close_code()
            assert code == 1002
            assert reason

    async def test_a_payload_that_is_too_long(
        self, service: Service, tunnel: dict[str, Any]
    ) -> None:
        async with dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as peer:
            body = b"\x08\x01\x10\x01\x22\x81\xf8\x03" + bytes(MAX_PAYLOAD + 1)
            await peer.socket.send(len(body).to_bytes(2, "big") + body)
            assert (await peer.close_code())[0] == 1002

    async def test_a_frame_that_is_too_long(self, service: Service, tunnel: dict[str, Any]) -> None:
        async with dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as peer:
            with pytest.raises(ConnectionClosed) as caught:
                await peer.socket.send(bytes(131_077))
                await peer.socket.recv()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1009

    async def test_a_text_frame(self, service: Service, tunnel: dict[str, Any]) -> None:
        async with dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as peer:
            await peer.socket.send("text")
            assert (await peer.close_code())[0] == 1003

    async def test_the_other_side_of_a_disconnected_client(
        self, service: Service, tunnel: dict[str, Any]
    ) -> None:
        async with (
            dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as source,
            dial(service.endpoints, "destination", tunnel["destinationAccessToken"]) as destination,
        ):
            await source.send(start(), data(b"fine"))
            await source.socket.send("text")
            assert [await destination.recv() for _ in range(3)] == [
                start(),
                data(b"fine"),
                Message(RESET, 1, "", 1),
            ]


class TestComingAndGoing:
    async def test_a_newer_connection_replaces_an_older_one(
        self, service: Service, tunnel: dict[str, Any]
    ) -> None:
        token = tunnel["sourceAccessToken"]
        async with (
            dial(service.endpoints, "destination", tunnel["destinationAccessToken"]) as destination,
            dial(service.endpoints, "source", token, client_token=CLIENT) as old,
        ):
            await old.send(start(3))
            assert await destination.recv() == start(3)
            async with dial(service.endpoints, "source", token, client_token=CLIENT) as new:
                assert await old.close_code() == (1008, "replaced by a newer connection")
                assert await destination.recv() == Message(RESET, 3, "", 1)
                await new.send(start(1))
                assert await destination.recv() == start(1)
                await destination.send(data(b"banner"))
                assert await new.recv() == data(b"banner")

    async def test_a_lost_client_resets_the_other_sides_streams(
        self, service: Service, tunnel: dict[str, Any]
    ) -> None:
        async with (
            dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as source,
            dial(service.endpoints, "destination", tunnel["destinationAccessToken"]) as destination,
        ):
            await source.send(start())
            await destination.recv()
            destination.socket.transport.abort()
            assert await source.recv() == Message(RESET, 1, "", 1)
            await source.send(start(2))
            assert await source.recv() == Message(RESET, 2, "", 1)

    async def test_connection_states(self, service: Service, tunnel: dict[str, Any]) -> None:
        def states() -> tuple[str, str]:
            record = service.queries.describe(tunnel["tunnelId"])
            return record.source.status.value, record.destination.status.value

        assert states() == ("DISCONNECTED", "DISCONNECTED")
        token = tunnel["sourceAccessToken"]
        async with dial(service.endpoints, "source", token, client_token=CLIENT) as old:
            assert states() == ("CONNECTED", "DISCONNECTED")
            async with dial(service.endpoints, "source", token, client_token=CLIENT):
                await old.close_code()
                assert states() == ("CONNECTED", "DISCONNECTED")
        assert states() == ("DISCONNECTED", "DISCONNECTED")

    async def test_stopping_sends_no_close_frame(self, tmp_path: Path) -> None:
        service = Service(config(tmp_path / "state"))
        await service.start()
        tunnel = await open_tunnel(service)
        async with dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as peer:
            await service.stop()
            assert await peer.close_code() == (1006, "")

    async def test_stopping_does_not_wait_for_dead_clients(self, tmp_path: Path) -> None:
        settings = DataSettings(close_timeout=0.3)
        service = Service(config(tmp_path / "state", data=settings))
        await service.start()
        tunnel = await open_tunnel(service)
        async with dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as peer:
            peer.socket.transport.pause_reading()
            await asyncio.wait_for(service.stop(), HANG)
            peer.socket.transport.abort()


class TestFlow:
    @pytest.fixture(params=[True, False], ids=["aiofastnet", "asyncio"])
    def use_aiofastnet(self, request: pytest.FixtureRequest) -> bool:
        return bool(request.param)

    async def test_a_stalled_client_stops_the_flood(
        self, service: Service, tunnel: dict[str, Any]
    ) -> None:
        """One side does not read while the other one sends: bounded, and nothing is lost."""
        async with (
            dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as source,
            dial(service.endpoints, "destination", tunnel["destinationAccessToken"]) as destination,
        ):
            await source.send(start())
            assert await destination.recv() == start()
            destination.socket.transport.pause_reading()
            before = resident_bytes()
            sent = hashlib.sha256()
            frames = 0

            async def flood() -> None:
                nonlocal frames
                for number in range(3000):
                    payload = number.to_bytes(4, "big") * (MAX_PAYLOAD // 4)
                    await source.send(data(payload))
                    sent.update(payload)
                    frames += 1

            flooding = asyncio.get_running_loop().create_task(flood())
            reached = -1
            while reached != frames:
                reached = frames
                await asyncio.sleep(1.0)
            # Kernel buffers of two sockets pairs, the mark, and a frame or two.
            assert frames < 500
            # Sender and receiver live in this process too, with buffers of their own.
            assert resident_bytes() - before < 48 * 1024 * 1024
            destination.socket.transport.resume_reading()
            received = hashlib.sha256()
            for _ in range(3000):
                received.update((await destination.recv()).payload)
            await flooding
            assert received.digest() == sent.digest()

    async def test_a_client_that_is_not_read_still_sees_signs_of_life(
        self, service: Service, tunnel: dict[str, Any]
    ) -> None:
        async with (
            dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as source,
            dial(service.endpoints, "destination", tunnel["destinationAccessToken"]) as destination,
        ):
            await source.send(start())
            await destination.recv()
            destination.socket.transport.pause_reading()
            pinged = asyncio.Event()
            heard = source.socket.protocol.recv_frame

            def spy(frame: Any) -> None:
                if frame.opcode == 9:
                    pinged.set()
                heard(frame)

            source.socket.protocol.recv_frame = spy

            async def flood() -> None:
                while True:
                    await source.send(data(bytes(MAX_PAYLOAD)))

            flooding = asyncio.get_running_loop().create_task(flood())
            await asyncio.wait_for(pinged.wait(), HANG)
            flooding.cancel()
            source.socket.transport.abort()
            destination.socket.transport.abort()

    async def test_pongs_do_not_pile_up(self, tmp_path: Path) -> None:
        """A client that pings and never reads is answered as far as it reads, then once."""
        small = DataSettings(write_high=16 * 1024, write_low=4 * 1024)
        async with running(config(tmp_path / "state", data=small)) as service:
            tunnel = await open_tunnel(service)
            reader, writer = await upgraded(service, tunnel["sourceAccessToken"])
            total = 250_000
            for begin in range(0, total, 5000):
                pings = (b"\x89\xfd" + bytes(4) + b"%0125d" % n for n in range(begin, begin + 5000))
                writer.write(b"".join(pings))
                await asyncio.wait_for(writer.drain(), HANG)
            while writer.transport.get_write_buffer_size():
                await asyncio.sleep(0.05)
            last = b"\x8a\x7d" + b"%0125d" % (total - 1)
            answered = 0
            while True:
                await asyncio.wait_for(reader.readuntil(b"\x8a\x7d"), HANG)
                pong = await asyncio.wait_for(reader.readexactly(125), HANG)
                answered += 1
                if last.endswith(pong):
                    break
            assert answered < total
            writer.transport.abort()


async def upgraded(
    service: Service, token: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect and upgrade by hand; nothing is read from then on but what the test reads."""
    host, _, port = service.endpoints.data_endpoint.rpartition(":")
    reader, writer = await asyncio.open_connection(
        host, int(port), ssl=trust(service.endpoints), server_hostname=host
    )
    writer.write(
        b"GET /tunnel?local-proxy-mode=source HTTP/1.1\r\nHost: localhost\r\n"
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: 9/h0zvwMEXrg06G+RjnmcA==\r\nSec-WebSocket-Version: 13\r\n"
        + f"access-token: {token}\r\n".encode()
        + f"Sec-WebSocket-Protocol: {SUBPROTOCOL_V3}\r\n\r\n".encode()
    )
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HANG)
    assert head.startswith(b"HTTP/1.1 101 ")
    return reader, writer


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


class Plain:
    """A listener without TLS, and tunnels to go with it."""

    def __init__(self, tmp_path: Path, limits: Limits, settings: DataSettings) -> None:
        self.store = SqliteStore.open(tmp_path / "db")
        fabric = LocalFabric()
        ids = RandomIds()
        self.queries = TunnelQueries(self.store, "r", "a")
        tunnels = Tunnels(self.store, ids)
        self.control = ControlPlane(tunnels, self.queries, fabric, ids, lambda: 1.0)
        self.listener = DataListener(self.control, fabric, settings, limits)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]

    def dial(self, side: Side, token: Secret, **options: Any) -> connect:
        return connect(
            f"ws://127.0.0.1:{self.port}/tunnel?local-proxy-mode={side}",
            subprotocols=[SUBPROTOCOL_V3],
            additional_headers={"access-token": token.reveal()} | options.pop("headers", {}),
            proxy=None,
            compression=None,
            ping_interval=None,
            max_queue=None,
            **options,
        )

    @asynccontextmanager
    async def pair(self) -> AsyncIterator[tuple[Peer, Peer]]:
        """Both sides of a new tunnel, with one stream between them."""
        opened = self.control.open_tunnel(TunnelSpec())
        async with (
            self.dial(Side.SOURCE, opened.source_token) as left,
            self.dial(Side.DESTINATION, opened.destination_token) as right,
        ):
            source, destination = Peer(left), Peer(right)
            for peer in (source, destination):
                assert (await peer.recv()).type == MessageType.SERVICE_IDS
            await source.send(start())
            assert await destination.recv() == start()
            yield source, destination


@asynccontextmanager
async def plain(
    tmp_path: Path, limits: Limits | None = None, settings: DataSettings | None = None
) -> AsyncIterator[Plain]:
    quick = DataSettings(close_timeout=1.0, sweep_interval=0.05)
    served = Plain(tmp_path, limits or Limits(), settings or quick)
    await served.listener.start(served.listening, None)
    try:
        yield served
    finally:
        await served.listener.stop()
        assert served.listener.link_count == 0
        served.store.close()


async def test_plain_tcp_behind_a_terminator(tmp_path: Path) -> None:
    """Without TLS of its own the listener serves a proxy that ends TLS in front of it."""
    async with plain(tmp_path) as served, served.pair() as (source, destination):
        assert served.listener.link_count == 2
        await served.listener.stop()
        assert await source.close_code() == (1006, "")
        assert await destination.close_code() == (1006, "")


class TestLimits:
    async def test_bandwidth_holds_both_directions_back_and_loses_nothing(
        self, tmp_path: Path
    ) -> None:
        rate = 1_000_000
        async with (
            plain(tmp_path, Limits(bandwidth=rate)) as served,
            served.pair() as (source, destination),
        ):
            began = time.monotonic()
            sent = await asyncio.gather(
                stream(source, destination, 2_500_000), stream(destination, source, 2_500_000)
            )
            # At once come the burst, and what two links take in before they stop reading:
            # twice what one turn of the loop reads, and the read buffer. The rest takes its
            # time; on a slow machine, more than that.
            at_once = rate + 2 * 2 * (256 * 1024 + 2 * MAX_FRAME)
            assert time.monotonic() - began > (sum(sent) - at_once) / rate
            assert sum(sent) == 5_000_000

    async def test_a_tunnel_that_waits_holds_up_no_other(self, tmp_path: Path) -> None:
        async with (
            plain(tmp_path, Limits(bandwidth=20_000)) as served,
            served.pair() as (source, destination),
            served.pair() as (other, answering),
        ):
            # In debt for a minute and more.
            for _ in range(20):
                await source.send(data(bytes(60_000)))
            for _ in range(100):
                await other.send(data(b"ping"))
                assert (await answering.recv()).payload == b"ping"
            # The flood is read no more, but answered in the other direction, once.
            await destination.send(data(b"interactive"))
            assert (await source.recv()).payload == b"interactive"
            source.socket.transport.abort()
            destination.socket.transport.abort()

    async def test_pings_and_pongs_count(self, tmp_path: Path) -> None:
        async with (
            plain(tmp_path, Limits(bandwidth=1_000_000)) as served,
            served.pair() as (source, _),
        ):
            listener = served.listener
            (tunnel_id,) = listener._bandwidth
            listener.clock = lambda: 1.0
            bucket = listener.bandwidth_of(tunnel_id)
            assert bucket is not None
            bucket._at = 2.0
            before = bucket._level
            for _ in range(3):
                await (await source.socket.ping(bytes(100)))
            await source.socket.pong(bytes(50))
            await (await source.socket.ping(b""))
            assert before - bucket._level == 350

    async def test_coming_back_does_not_fill_the_bucket(self, tmp_path: Path) -> None:
        async with plain(tmp_path, Limits(bandwidth=100_000)) as served:
            listener = served.listener
            listener.clock = lambda: 1.0
            opened = served.control.open_tunnel(TunnelSpec())
            client = {"client-token": CLIENT}
            levels = []
            for _ in range(3):
                async with served.dial(Side.SOURCE, opened.source_token, headers=client) as socket:
                    await (await socket.ping(bytes(100)))
                    bucket = listener.bandwidth_of(opened.tunnel.tunnel_id)
                    assert bucket is not None
                    levels.append(bucket._level)
            # Close frames count, too.
            assert levels == [99_900, 99_798, 99_696]
            # Nobody is connected, and time has filled it: it is not kept for ever.
            listener.clock = lambda: 2.0
            async with asyncio.timeout(HANG):
                while listener._bandwidth:
                    await asyncio.sleep(0.01)

    async def test_a_held_up_client_still_sees_signs_of_life(self, tmp_path: Path) -> None:
        async with (
            plain(tmp_path, Limits(bandwidth=20_000)) as served,
            served.pair() as (source, destination),
        ):
            pinged = asyncio.Event()
            heard = source.socket.protocol.recv_frame

            def spy(frame: Any) -> None:
                if frame.opcode == 9:
                    pinged.set()
                heard(frame)

            source.socket.protocol.recv_frame = spy
            await source.send(data(bytes(60_000)))
            await asyncio.wait_for(pinged.wait(), HANG)
            source.socket.transport.abort()
            destination.socket.transport.abort()

    async def test_a_held_up_client_is_let_go_with_its_tunnel(self, tmp_path: Path) -> None:
        async with (
            plain(tmp_path, Limits(bandwidth=20_000)) as served,
            served.pair() as (source, destination),
        ):
            await source.send(data(bytes(60_000)))
            await destination.recv()
            (record,) = served.queries.page(None, None, 1).tunnels
            served.control.close_tunnel(record.tunnel_id, delete=False)
            assert await source.close_code() == (1000, "The tunnel was closed")
            assert await destination.close_code() == (1000, "The tunnel was closed")

    async def test_silent_links_are_dropped_and_others_are_not(self, tmp_path: Path) -> None:
        async with (
            plain(tmp_path, Limits(idle_seconds=0.4)) as served,
            served.pair() as (source, destination),
        ):
            dropped = asyncio.get_running_loop().create_task(destination.close_code())
            while not dropped.done():
                await (await source.socket.ping())
                await asyncio.sleep(0.05)
            # As if the connection was lost, so that the client comes back.
            assert dropped.result() == (1006, "")
            assert await source.recv() == Message(RESET, 1, "", 1)
            await (await source.socket.ping())

    async def test_a_client_that_is_not_read_is_not_silent(self, tmp_path: Path) -> None:
        settings = DataSettings(close_timeout=1.0, sweep_interval=0.05)
        async with (
            plain(tmp_path, Limits(idle_seconds=0.4, bandwidth=10_000), settings) as served,
            served.pair() as (source, destination),
        ):
            # Twelve seconds of debt for the source, while it has nothing more to say.
            await source.send(*(data(bytes(60_000)) for _ in range(2)))
            assert (await destination.close_code())[0] == 1006
            (link,) = served.listener._links
            assert link.side is Side.SOURCE
            for _ in range(20):
                await asyncio.sleep(0.05)
            assert served.listener.link_count == 1
            source.socket.transport.abort()

    async def test_no_idle_limit(self, tmp_path: Path) -> None:
        async with (
            plain(tmp_path, Limits(idle_seconds=0)) as served,
            served.pair() as (source, _),
        ):
            await asyncio.sleep(0.5)
            assert served.listener.link_count == 2
            await (await source.socket.ping())

    async def test_connections_per_second(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with plain(tmp_path, Limits(connection_rate=3)) as served:
            served.listener.clock = lambda: 1.0
            answers = []
            for _ in range(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
                with contextlib.suppress(ConnectionError):
                    writer.write(b"x\r\n\r\n")
                    answers.append(await asyncio.wait_for(reader.read(), HANG))
                writer.close()
            assert [answer[:12] for answer in answers if answer] == [b"HTTP/1.1 400"] * 3
            refused = "connection from 127.0.0.1 refused: more than 3 in a second"
            assert caplog.messages.count(refused) == 2
            served.listener.clock = lambda: 2.0
            async with served.pair():
                pass

    async def test_out_of_files_is_said(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with plain(tmp_path) as served:
            served.listener._out_of_files()
        assert "out of file descriptors" in caplog.text

    async def test_handshake_size(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        async with plain(tmp_path, Limits(handshake_bytes=1000)) as served:
            opened = served.control.open_tunnel(TunnelSpec())
            padded = {"x-padding": "a" * 1000}
            with pytest.raises(InvalidStatus) as caught:
                async with served.dial(Side.SOURCE, opened.source_token, headers=padded):
                    pass
            assert caught.value.response.status_code == 431
            assert "larger than 1000 bytes" in caplog.text
            async with served.dial(Side.SOURCE, opened.source_token):
                pass

    async def test_refusals_that_only_picows_knows_of_are_logged(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with plain(tmp_path, Limits(handshake_seconds=0.1)) as served:
            for content in (b"GET ", b"x" * 20_000):
                reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
                writer.write(content)
                assert await asyncio.wait_for(reader.read(), HANG) == b""
                writer.close()
        assert "connection refused: no upgrade request in time" in caplog.messages
        assert "connection refused: the upgrade request has no end" in caplog.messages


async def stream(sender: Peer, receiver: Peer, total: int) -> int:
    """Send so many bytes one way; return how many arrived, all of them intact."""
    content = random.Random(total).randbytes(total)

    async def send() -> None:
        for at in range(0, total, 50_000):
            await sender.send(data(content[at : at + 50_000]))

    sending = asyncio.get_running_loop().create_task(send())
    arrived = bytearray()
    while len(arrived) < total:
        arrived += (await receiver.recv()).payload
    await sending
    assert arrived == content
    return len(arrived)


class TestCounting:
    """What operators get to see of links: counters and the audit log."""

    @pytest.fixture
    async def audited(self, tmp_path: Path) -> AsyncIterator[Service]:
        operation = OperationSettings(audit_log=tmp_path / "audit")
        settings = config(
            tmp_path / "state",
            data=DataSettings(
                close_timeout=2.0, sweep_interval=0.2, proxies=(ip_network("127.0.0.0/8"),)
            ),
            operation=operation,
        )
        async with running(settings) as service:
            yield service

    async def test_links_from_behind_a_load_balancer(
        self, audited: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        tunnel = await open_tunnel(audited)
        host, _, port = audited.endpoints.data_endpoint.rpartition(":")
        behind = await asyncio.to_thread(socket.create_connection, (host, int(port)))
        behind.sendall(b"PROXY TCP6 2001:db8::7 ::1 40000 443\r\n")
        async with dial(
            audited.endpoints, "source", tunnel["sourceAccessToken"], sock=behind
        ) as peer:
            assert peer.socket.response is not None
            channel = peer.socket.response.headers["channel-id"]
            await peer.send(start())
            assert (await peer.recv()).type == RESET
            links = await metrics(audited)
            assert 'tailrace_links{side="source"} 1.0' in links
            assert 'tailrace_messages_total{side="source"} 1.0' in links
            assert 'tailrace_stream_resets_total{cause="peer_absent"} 1.0' in links
        async with asyncio.timeout(HANG):
            while 'tailrace_links{side="source"} 0.0' not in await metrics(audited):
                await asyncio.sleep(0.01)
        assert 'tailrace_links_ended_total{cause="client"} 1.0' in await metrics(audited)
        assert f"channel {channel}: source of tunnel" in caplog.text
        assert "connected from [2001:db8::7]:40000" in caplog.text
        text = await asyncio.to_thread((tmp_path / "audit").read_text)
        events = [json.loads(line) for line in text.splitlines()]
        assert [event["event"] for event in events] == ["OpenTunnel", "connected", "disconnected"]
        for event in events[1:]:
            assert event["tunnelId"] == tunnel["tunnelId"]
            assert event["address"] == "[2001:db8::7]:40000"
            assert event["channel"] == channel
            assert event["side"] == "source"
        assert tunnel["sourceAccessToken"] not in text

    async def test_a_load_balancer_that_sends_no_header(self, audited: Service) -> None:
        tunnel = await open_tunnel(audited)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            async with dial(audited.endpoints, "source", tunnel["sourceAccessToken"]):
                pass

    async def test_why_links_end_and_handshakes_fail(self, service: Service) -> None:
        tunnel = await open_tunnel(service)
        client = api(service.endpoints)
        for expected in ("token_used", "unknown_token", "bad_request"):
            token = {"token_used": tunnel["sourceAccessToken"]}.get(expected, "junk")
            path = "source" if expected != "bad_request" else "sideways"
            if expected == "token_used":
                async with dial(service.endpoints, "source", token) as peer:
                    await peer.send(data(b"without a start"))
                    assert (await peer.close_code())[0] == 1002
            await refused(service, path, token)
            assert f'refused_total{{cause="{expected}"}} 1.0' in await metrics(service)
        for number in range(3):
            token = tunnel["destinationAccessToken"]
            async with dial(service.endpoints, "destination", token, client_token=CLIENT) as peer:
                if number == 0:
                    peer.socket.transport.abort()
                elif number == 1:
                    async with dial(service.endpoints, "destination", token, client_token=CLIENT):
                        assert (await peer.close_code())[0] == 1008
                else:
                    await asyncio.to_thread(client.close_tunnel, tunnelId=tunnel["tunnelId"])
                    assert (await peer.close_code())[0] == 1000
        client.close()
        for cause in ("protocol_error", "lost", "replaced", "tunnel_closed"):
            async with asyncio.timeout(HANG):
                while f'ended_total{{cause="{cause}"}} 1.0' not in await metrics(service):
                    await asyncio.sleep(0.01)

    async def test_clients_that_leave_before_tls_are_only_counted(
        self, service: Service, caplog: pytest.LogCaptureFixture
    ) -> None:
        host, _, port = service.endpoints.data_endpoint.rpartition(":")
        socket.create_connection((host, int(port))).close()
        async with asyncio.timeout(HANG):
            while 'refused_total{cause="tls_not_finished"} 1.0' not in await metrics(service):
                await asyncio.sleep(0.01)
        assert caplog.text == ""

    async def test_other_faults_of_the_loop_are_reported(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        loop = asyncio.get_running_loop()
        seen: list[str] = []
        for handler in (None, lambda _, context: seen.append(context["message"])):
            loop.set_exception_handler(handler)
            async with running(config(tmp_path / "state")):
                loop.call_exception_handler({"message": "something else"})
            assert loop.get_exception_handler() is handler
        loop.set_exception_handler(None)
        assert seen == ["something else"]
        assert caplog.text.count("something else") == 1

    async def test_time_without_reading(self, service: Service) -> None:
        tunnel = await open_tunnel(service)
        async with (
            dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as source,
            dial(service.endpoints, "destination", tunnel["destinationAccessToken"]) as destination,
        ):
            await source.send(start())
            await destination.recv()
            destination.socket.transport.pause_reading()

            async def flood() -> None:
                while True:
                    await source.send(data(bytes(MAX_PAYLOAD)))

            flooding = asyncio.get_running_loop().create_task(flood())
            async with asyncio.timeout(HANG):
                while "tailrace_relay_stalled_links 1.0" not in await metrics(service):
                    await asyncio.sleep(0.01)
            flooding.cancel()
            source.socket.transport.abort()
            destination.socket.transport.abort()
        async with asyncio.timeout(HANG):
            while "tailrace_relay_stalled_links 0.0" not in await metrics(service):
                await asyncio.sleep(0.01)
        assert "tailrace_relay_backpressure_seconds_total 0.0\n" not in await metrics(service)


async def metrics(service: Service) -> str:
    async with httpx.AsyncClient(verify=trust(service.endpoints), trust_env=False) as client:
        return (await client.get(f"{service.endpoints.api_endpoint}/metrics")).text
