"""Links over real TLS: greeting, relaying, rules, flow, bandwidth and silence."""

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiofastnet
import pytest
from websockets.exceptions import ConnectionClosed

from support.network.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    Frame,
    close_frame,
    frame,
    read_frame,
)
from support.plugins.leaks import uncollected
from support.service import MessageClient, api, config, dial, running, trust
from support.service.data_plane import CLIENT, DATA, RESET, Plain, data, open_tunnel, plain, start
from support.waiting import HANG, until
from tailrace.service.config import DataSettings
from tailrace.service.limits import Limits
from tailrace.service.relay.client_link import ClientLink
from tailrace.service.relay.read_limiter import FULL_READ
from tailrace.service.relay.relay_end import RelayEnd
from tailrace.service.tunneling_service import TunnelingService
from tailrace.service.tunnels.rules import TunnelSpec
from tailrace.service.tunnels.store import Things
from tailrace.wire import (
    MAX_FRAME,
    MAX_PAYLOAD,
    SUBPROTOCOL_V1,
    SUBPROTOCOL_V2,
    SUBPROTOCOL_V3,
    Message,
    MessageType,
    Side,
    encode_delimited,
)


class TestGreeting:
    @pytest.mark.parametrize("services", [(), ("SSH",), ("b", "a", "x:1")])
    async def test_service_ids_come_first_and_alone(
        self, service: TunnelingService, services: tuple[str, ...]
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
                assert first == encode_delimited(expected)

    async def test_a_version_1_client_gets_none(
        self, service: TunnelingService, tunnel: dict[str, Any]
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


V1, V2, V3 = SUBPROTOCOL_V1, SUBPROTOCOL_V2, SUBPROTOCOL_V3


class TestDialects:
    """Clients of all versions, with the messages that the older one of each pair knows.

    Guide V2 and guide V3, "Backward compatibility": the messages decide, the service
    passes them on as they are.
    """

    @pytest.mark.parametrize("services", [(), ("SSH",)])
    @pytest.mark.parametrize("destination_version", [V1, V2, V3])
    @pytest.mark.parametrize("source_version", [V1, V2, V3])
    async def test_any_two_understand_each_other(
        self,
        service: TunnelingService,
        source_version: str,
        destination_version: str,
        services: tuple[str, ...],
    ) -> None:
        oldest = min(source_version, destination_version)
        service_id = "SSH" if services and oldest != V1 else ""
        connection_id = 1 if oldest == V3 else 0
        tunnel = await open_tunnel(service, *services)

        def connected(mode: str, version: str) -> Any:
            expected = services if version != V1 else None
            token = tunnel[f"{mode}AccessToken"]
            return dial(service.endpoints, mode, token, subprotocols=[version], expect_ids=expected)

        async with (
            connected("source", source_version) as source,
            connected("destination", destination_version) as destination,
        ):
            for stream_id in (1, 2):
                ids = (stream_id, service_id, connection_id)
                await source.send(start(*ids))
                assert await destination.recv() == start(*ids)
                there, back = (Message(DATA, *ids, text) for text in (b"there", b"back"))
                await source.send(there)
                assert await destination.recv() == there
                await destination.send(back)
                assert await source.recv() == back
                ender, other = (source, destination) if stream_id == 1 else (destination, source)
                await ender.send(Message(RESET, *ids))
                assert await other.recv() == Message(RESET, *ids)

    async def test_several_connections_of_version_3(self, service: TunnelingService) -> None:
        tunnel = await open_tunnel(service, "SSH")
        key = {"expect_ids": ["SSH"]}
        async with (
            dial(service.endpoints, "source", tunnel["sourceAccessToken"], **key) as source,
            dial(service.endpoints, "destination", tunnel["destinationAccessToken"], **key) as dest,
        ):
            said = [
                start(1, "SSH", 1),
                Message(MessageType.CONNECTION_START, 1, "SSH", 2),
                Message(DATA, 1, "SSH", 2, b"second"),
                Message(DATA, 1, "SSH", 1, b"first"),
                Message(MessageType.CONNECTION_RESET, 1, "SSH", 2),
            ]
            await source.send(*said)
            assert [await dest.recv() for _ in said] == said
            await dest.send(Message(MessageType.CONNECTION_RESET, 1, "SSH", 1))
            assert await source.recv() == Message(MessageType.CONNECTION_RESET, 1, "SSH", 1)

    async def test_dialects_do_not_mix_in_one_session(self, service: TunnelingService) -> None:
        tunnel = await open_tunnel(service, "SSH")
        token = tunnel["sourceAccessToken"]
        async with dial(service.endpoints, "source", token, expect_ids=["SSH"]) as source:
            await source.send(start(1, ""), start(1, "SSH"))
            assert (await source.close_code())[0] == 1002


class TestRelaying:
    @pytest.fixture(params=[True, False], ids=["aiofastnet", "asyncio"])
    def use_aiofastnet(self, request: pytest.FixtureRequest) -> bool:
        return bool(request.param)

    async def test_bytes_arrive_whatever_the_frames(
        self, service: TunnelingService, tunnel: dict[str, Any]
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
        self, service: TunnelingService, tunnel: dict[str, Any]
    ) -> None:
        async with (
            dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as source,
            dial(service.endpoints, "destination", tunnel["destinationAccessToken"]) as destination,
        ):
            await source.send(start(1), data(b"a"), data(b"b"), start(2), data(b"c", 2))
            frames = [await destination.socket.recv() for _ in range(4)]
            assert frames == [
                encode_delimited(start(1)),
                encode_delimited(data(b"a")) + encode_delimited(data(b"b")),
                encode_delimited(start(2)),
                encode_delimited(data(b"c", 2)),
            ]

    async def test_pings_are_answered(
        self, service: TunnelingService, tunnel: dict[str, Any]
    ) -> None:
        async with dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as peer:
            pong = await peer.socket.ping(b"1716900000000")
            await asyncio.wait_for(pong, HANG)

    async def test_tunnels_do_not_mix(
        self, service: TunnelingService, tunnel: dict[str, Any]
    ) -> None:
        other = await open_tunnel(service)
        async with (
            dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as source,
            dial(service.endpoints, "destination", other["destinationAccessToken"]) as stranger,
        ):
            await source.send(start())
            assert await source.recv() == Message(RESET, 1, "", 1)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(stranger.recv(), 0.2)


async def exchange(sender: MessageClient, receiver: MessageClient, chance: random.Random) -> None:
    """Send a few MB in messages of all sizes, frames of all sizes; compare checksums."""
    payloads = [chance.randbytes(chance.choice([1, 40, 4000, MAX_PAYLOAD])) for _ in range(120)]
    stream = b"".join(encode_delimited(data(payload)) for payload in payloads)

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
        self, service: TunnelingService, mode: str, message: Message
    ) -> None:
        tunnel = await open_tunnel(service, "SSH")
        token = tunnel[f"{mode}AccessToken"]
        async with dial(service.endpoints, mode, token, expect_ids=["SSH"]) as peer:
            await peer.send(message)
            code, reason = await peer.close_code()
            assert code == 1002
            assert reason

    async def test_a_payload_that_is_too_long(
        self, service: TunnelingService, tunnel: dict[str, Any]
    ) -> None:
        async with dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as peer:
            body = b"\x08\x01\x10\x01\x22\x81\xf8\x03" + bytes(MAX_PAYLOAD + 1)
            await peer.socket.send(len(body).to_bytes(2, "big") + body)
            assert (await peer.close_code())[0] == 1002

    async def test_a_frame_that_is_too_long(
        self, service: TunnelingService, tunnel: dict[str, Any]
    ) -> None:
        async with dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as peer:
            with pytest.raises(ConnectionClosed) as caught:
                await peer.socket.send(bytes(131_077))
                await peer.socket.recv()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1009

    async def test_a_text_frame(self, service: TunnelingService, tunnel: dict[str, Any]) -> None:
        async with dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as peer:
            await peer.socket.send("text")
            assert (await peer.close_code())[0] == 1003

    @pytest.mark.parametrize("code", [None, 1000, 1001, 3000, 4999])
    async def test_a_close_frame_is_answered_with_its_code(
        self, service: TunnelingService, tunnel: dict[str, Any], code: int | None
    ) -> None:
        reader, writer = await upgraded(service, tunnel["sourceAccessToken"])
        writer.write(close_frame(code, "" if code is None else "bye", masked=True))
        answer = await last_frame(reader)
        assert answer.opcode == CLOSE
        # Without a code, none: 0 and 1005 may not be sent (RFC 6455 section 7.4.1).
        assert answer.payload == (b"" if code is None else code.to_bytes(2, "big"))
        writer.close()

    @pytest.mark.parametrize(
        "sent",
        [
            *(close_frame(code, masked=True) for code in (0, 999, 1005, 1006, 1015, 2000, 5000)),
            *(frame(bit | BINARY, b"x", masked=True) for bit in (0x40, 0x20, 0x10)),
            frame(0x20 | BINARY, b"x", fin=False, masked=True),
            frame(BINARY, b"\0", fin=False, masked=True)
            + frame(0x10 | CONTINUATION, b"\0", masked=True),
            *(frame(0x20 | kind, masked=True) for kind in (PING, PONG, CLOSE)),
            frame(0x10 | PING, b"x", masked=True),
        ],
        ids=bytes.hex,
    )
    async def test_frames_that_break_the_rules_of_websocket(
        self, service: TunnelingService, tunnel: dict[str, Any], sent: bytes
    ) -> None:
        reader, writer = await upgraded(service, tunnel["sourceAccessToken"])
        writer.write(sent)
        answer = await last_frame(reader)
        assert (answer.opcode, answer.close_code) == (CLOSE, 1002)
        writer.write(close_frame(1002, masked=True))
        assert await reader.read() == b""
        writer.close()

    async def test_the_other_side_of_a_disconnected_client(
        self, service: TunnelingService, tunnel: dict[str, Any]
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


class TestFlow:
    @pytest.fixture(params=[True, False], ids=["aiofastnet", "asyncio"])
    def use_aiofastnet(self, request: pytest.FixtureRequest) -> bool:
        return bool(request.param)

    async def test_a_stalled_client_stops_the_flood(
        self, service: TunnelingService, tunnel: dict[str, Any]
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
        self, service: TunnelingService, tunnel: dict[str, Any]
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


class TestTurns:
    """A flood of tiny frames takes turns with everybody else, and nothing of it is lost."""

    @pytest.fixture
    def largest_turn(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Return a list whose one item is the most frames that one turn of the loop has seen."""
        largest, now = [0], [0]
        take = ClientLink.on_ws_frame

        def count(link: ClientLink, transport: Any, frame: Any) -> None:
            if not now[0]:
                asyncio.get_running_loop().call_soon(now.clear)
                asyncio.get_running_loop().call_soon(now.append, 0)
            now[0] += 1
            largest[0] = max(largest[0], now[0])
            take(link, transport, frame)

        monkeypatch.setattr(ClientLink, "on_ws_frame", count)
        return largest

    @pytest.mark.parametrize("flood", [b"\x89\x80", b"\x82\x80"], ids=["pings", "empty"])
    async def test_tiny_frames(
        self,
        service: TunnelingService,
        tunnel: dict[str, Any],
        largest_turn: list[int],
        flood: bytes,
    ) -> None:
        reader, writer = await upgraded(service, tunnel["sourceAccessToken"])
        writer.write((flood + bytes(4)) * 100_000 + b"\x89\x84" + bytes(4) + b"last")
        answer = b""
        async with asyncio.timeout(HANG):
            while not answer.endswith(b"\x8a\x04last"):
                answer = answer[-6:] + await reader.read(65536)
        writer.transport.abort()
        # Resuming and reading may fall into one turn.
        assert largest_turn[0] <= 2 * FULL_READ // 6

    @pytest.mark.parametrize("goodbye", ["close frame", "end of stream"])
    async def test_what_was_sent_before_the_end_arrives(
        self, service: TunnelingService, tunnel: dict[str, Any], goodbye: str
    ) -> None:
        sent = [data(b"%d" % number) for number in range(9000)]
        run = b"".join(map(encode_delimited, [start(), *sent]))
        assert len(run) < MAX_FRAME
        token = tunnel["destinationAccessToken"]
        async with dial(service.endpoints, "destination", token) as destination:
            _, writer = await upgraded(service, tunnel["sourceAccessToken"])
            writer.write(b"\x82\xff" + len(run).to_bytes(8, "big") + bytes(4) + run)
            if goodbye == "close frame":
                writer.write(b"\x88\x82" + bytes(4) + (1000).to_bytes(2, "big"))
            else:
                writer.close()
            async with asyncio.timeout(HANG):
                assert await destination.recv() == start()
                assert [await destination.recv() for _ in sent] == sent
                assert await destination.recv() == Message(RESET, 1, "", 1)
            writer.transport.abort()

    async def test_a_fault_behind_a_flood_is_found(
        self, service: TunnelingService, tunnel: dict[str, Any]
    ) -> None:
        token = tunnel["destinationAccessToken"]
        async with (
            dial(service.endpoints, "destination", token) as destination,
            dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as source,
        ):
            sent = [data(b"%d" % number) for number in range(5000)]
            await source.send(start(), *sent, Message(MessageType.SESSION_RESET))
            async with asyncio.timeout(HANG):
                assert (await source.close_code())[0] == 1002
                assert await destination.recv() == start()
                assert [await destination.recv() for _ in sent] == sent
                assert await destination.recv() == Message(RESET, 1, "", 1)


async def upgraded(
    service: TunnelingService, token: str
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
    prefix = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HANG)
    assert prefix.startswith(b"HTTP/1.1 101 ")
    return reader, writer


async def last_frame(reader: asyncio.StreamReader) -> Frame:
    """Return the first frame that carries no message."""
    async with asyncio.timeout(HANG):
        while True:
            received = await read_frame(reader)
            if received.opcode != BINARY:
                return received


TAILRACE = "localproxy linux 64-bit/python-3.11/openssl-3.0/tailrace-0.1.0"


def link_to(served: Plain, side: Side) -> ClientLink:
    """Return the open link of one side."""
    (link,) = (link for link in served.listener._links if link.info.side is side)
    return link


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


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
            (record,) = (await served.queries.page(Things(), None, 1, "")).tunnels
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
            assert served.listener.counters.ended == {"idle": 1}
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
            assert link.info.side is Side.SOURCE
            for _ in range(20):
                await asyncio.sleep(0.05)
            assert len(served.listener._links) == 1
            source.socket.transport.abort()

    async def test_no_idle_limit(self, tmp_path: Path) -> None:
        async with (
            plain(tmp_path, Limits(idle_seconds=0)) as served,
            served.pair() as (source, _),
        ):
            await asyncio.sleep(0.5)
            assert len(served.listener._links) == 2
            await (await source.socket.ping())


class TestWindow:
    """Bytes in flight to clients that are known to answer pings, told by their name."""

    @pytest.fixture
    async def served(self, tmp_path: Path) -> AsyncIterator[Plain]:
        async with plain(tmp_path) as served:
            yield served

    async def test_it_is_measured_while_data_flows(self, served: Plain) -> None:
        async with served.pair(user_agent_header=TAILRACE) as (source, destination):
            assert await stream(source, destination, 4_000_000) == 4_000_000
            driver = link_to(served, Side.DESTINATION)._write_gate.window
            assert driver is not None
            window = driver.window
            assert window.sent > 4_000_000
            assert window.in_flight < 4_000_000

    async def test_others_are_not_pinged(self, served: Plain) -> None:
        async with served.pair():
            assert link_to(served, Side.DESTINATION)._write_gate.window is None

    async def test_one_who_does_not_answer_is_sent_all_the_same(
        self, served: Plain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in ("flow.send_window", "flow.window_driver"):
            monkeypatch.setattr(f"tailrace.{module}.PATIENCE", 0.05)
        monkeypatch.setattr(ClientLink, "_pong_received", lambda link, payload: None)
        async with served.pair(user_agent_header=TAILRACE) as (source, destination):
            assert await stream(source, destination, 4_000_000) == 4_000_000

    async def test_a_full_window_holds_the_other_side_back(
        self, served: Plain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer = ClientLink._pong_received
        owed: list[tuple[ClientLink, bytes]] = []
        monkeypatch.setattr(ClientLink, "_pong_received", lambda *pong: owed.append(pong))
        async with served.pair(user_agent_header=TAILRACE) as (source, destination):
            window = link_to(served, Side.DESTINATION)._write_gate.window
            assert window is not None
            sending = asyncio.get_running_loop().create_task(stream(source, destination, 4_000_000))
            while not window.full:
                await asyncio.sleep(0.01)
            assert not link_to(served, Side.SOURCE)._read_gate.is_open
            monkeypatch.setattr(ClientLink, "_pong_received", answer)
            for pong in owed:
                answer(*pong)
            assert await sending == 4_000_000
            gate = link_to(served, Side.SOURCE)._read_gate
            await until(lambda: gate.is_open, "the source to be read")


class TestEnd:
    @pytest.mark.parametrize("ending", ["closed", "lost", "refused", "replaced", "revoked"])
    async def test_what_a_link_held_is_freed_at_once(
        self, service: TunnelingService, tunnel: dict[str, Any], ending: str
    ) -> None:
        token = tunnel["sourceAccessToken"]

        def source() -> AbstractAsyncContextManager[MessageClient]:
            return dial(
                service.endpoints, "source", token, client_token=CLIENT, user_agent_header=TAILRACE
            )

        with uncollected(ClientLink, RelayEnd, aiofastnet.Transport) as living:
            async with source() as peer:
                await peer.send(start(), data(b"x" * 60_000))
                if ending == "lost":
                    peer.socket.transport.abort()
                elif ending == "refused":
                    await peer.socket.send("text")
                    await peer.socket.wait_closed()
                elif ending == "replaced":
                    async with source():
                        await peer.socket.wait_closed()
                elif ending == "revoked":
                    await asyncio.to_thread(
                        api(service.endpoints).close_tunnel, tunnelId=tunnel["tunnelId"]
                    )
                    await peer.socket.wait_closed()
            await until(lambda: not living(), ending)


async def stream(sender: MessageClient, receiver: MessageClient, total: int) -> int:
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
