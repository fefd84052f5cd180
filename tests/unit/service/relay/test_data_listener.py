"""The data listener over real TLS: handshakes, frames, flow, replacement, shutdown."""

import asyncio
import contextlib
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from support.network.frames import BINARY, frame
from support.network.sockets import reset
from support.service import api, config, dial, running, trust
from support.service.data_plane import CLIENT, RESET, data, open_tunnel, plain, start
from support.waiting import HANG
from tailrace.common.secret import Secret
from tailrace.link.endpoint import user_agent
from tailrace.service.config import DataSettings, OperationSettings
from tailrace.service.errors import StoreFailed
from tailrace.service.limits import Limits
from tailrace.service.tunneling_service import TunnelingService
from tailrace.service.tunnels.rules import Owner, TunnelSpec
from tailrace.service.tunnels.sqlite_store import SqliteStore
from tailrace.service.tunnels.store import Things
from tailrace.wire import (
    CAPABILITIES_FIELD,
    MAX_PAYLOAD,
    SUBPROTOCOL_V3,
    Message,
    Side,
    encode_delimited,
)

OTHERS = (
    "User-Agent: localproxy linux 64-bit/boost-1.74.0/openssl-3.0.0/protobuf-3.21.12\r\n",
    "User-Agent: Go-http-client/1.1\r\n",
    "",
)
"""What C++ and Go proxies, and those without a name, say of themselves."""
USED = "Invalid access token: The access token was previously used and can not be used again."
DIFFERS = (
    "Invalid client token: The provided client token does not match the client token that was "
    "previously set."
)


async def refused(
    service: TunnelingService, mode: str, token: str, **options: Any
) -> tuple[int, str]:
    """Expect a refusal; return status and body, which X-Status-Reason must repeat."""
    with pytest.raises(InvalidStatus) as caught:
        async with dial(service.endpoints, mode, token, **options):
            pass
    response = caught.value.response
    text = response.body.decode()
    assert response.headers["X-Status-Reason"] == text
    assert response.headers["channel-id"]
    return response.status_code, text


async def raw_answer(service: TunnelingService, request: bytes) -> bytes:
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
    async def test_the_answer(self, service: TunnelingService, tunnel: dict[str, Any]) -> None:
        async with dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as peer:
            response = peer.socket.response
            assert response is not None
            assert response.headers["Sec-WebSocket-Protocol"] == SUBPROTOCOL_V3
            assert response.headers["channel-id"]
            assert "X-Tailrace-Flow" not in response.headers

    async def test_proxies_of_ours_are_told_of_flow_messages(
        self, service: TunnelingService, tunnel: dict[str, Any]
    ) -> None:
        token = tunnel["sourceAccessToken"]
        agent = user_agent()
        async with dial(service.endpoints, "source", token, user_agent_header=agent) as peer:
            response = peer.socket.response
            assert response is not None
            assert response.headers["X-Tailrace-Flow"] == "1"
            assert CAPABILITIES_FIELD not in response.headers

    async def test_an_offer_is_answered(
        self, service: TunnelingService, tunnel: dict[str, Any]
    ) -> None:
        headers = {
            "access-token": tunnel["sourceAccessToken"],
            CAPABILITIES_FIELD: "flow, pings",
        }
        async with dial(service.endpoints, "source", "", additional_headers=headers) as peer:
            response = peer.socket.response
            assert response is not None
            assert response.headers[CAPABILITIES_FIELD] == "flow"
            assert "X-Tailrace-Flow" not in response.headers

    @pytest.mark.parametrize("side", list(Side))
    @pytest.mark.parametrize("agent", OTHERS)
    async def test_not_a_byte_more_for_others(self, tmp_path: Path, side: Side, agent: str) -> None:
        """The whole answer and the first frame, as recorded before there were offers."""
        async with plain(tmp_path) as served:
            opened = served.control.open_tunnel(TunnelSpec())
            token = opened.source_token if side is Side.SOURCE else opened.destination_token
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(
                f"GET /tunnel?local-proxy-mode={side} HTTP/1.1\r\nHost: localhost\r\n"
                "Upgrade: websocket\r\nConnection: upgrade\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Protocol: {SUBPROTOCOL_V3}\r\n"
                f"access-token: {token.reveal()}\r\n{agent}\r\n".encode()
            )
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first = await reader.readexactly(6)
            writer.transport.abort()
        assert re.fullmatch(
            "HTTP/1.1 101 Switching Protocols\r\n"
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL_V3}\r\n"
            "channel-id: [0-9a-f]{24}\r\n"
            "Connection: upgrade\r\n"
            "Upgrade: websocket\r\n"
            r"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK\+xOo=" + "\r\n\r\n",
            head,
        )
        assert first == b"\x82\x04\x00\x02\x08\x05"

    async def test_a_token_in_a_cookie(
        self, service: TunnelingService, tunnel: dict[str, Any]
    ) -> None:
        cookie = {"Cookie": f"awsiot-tunnel-token={tunnel['sourceAccessToken']}"}
        async with dial(service.endpoints, "source", "", additional_headers=cookie):
            pass

    async def test_a_cookie_that_a_web_page_makes_use_of(self, tmp_path: Path) -> None:
        settings = DataSettings(origins=frozenset({"https://console.example"}))
        async with running(config(tmp_path / "state", data=settings)) as service:
            tunnel = await open_tunnel(service)
            cookie = {"Cookie": f"awsiot-tunnel-token={tunnel['sourceAccessToken']}"}
            options: dict[str, Any] = {"additional_headers": cookie}
            answer = await refused(service, "source", "", origin="https://evil.example", **options)
            assert answer[0] == 403
            # The token was not used up.
            async with dial(
                service.endpoints, "source", "", origin="https://console.example", **options
            ):
                pass
            assert 'refused_total{cause="origin"} 1.0' in await metrics(service)

    async def test_used_once_without_client_token(
        self, service: TunnelingService, tunnel: dict[str, Any]
    ) -> None:
        token = tunnel["sourceAccessToken"]
        async with dial(service.endpoints, "source", token):
            assert await refused(service, "source", token) == (400, USED)
        assert await refused(service, "source", token, client_token=CLIENT) == (400, USED)

    async def test_used_again_with_the_same_client_token(
        self, service: TunnelingService, tunnel: dict[str, Any]
    ) -> None:
        token = tunnel["destinationAccessToken"]
        for _ in range(2):
            async with dial(service.endpoints, "destination", token, client_token=CLIENT):
                pass
        other = "f" * 32
        answer = await refused(service, "destination", token, client_token=other)
        assert answer == (400, DIFFERS)
        assert await refused(service, "destination", token) == (400, USED)

    async def test_unknown_token(self, service: TunnelingService) -> None:
        assert await refused(service, "source", "nonsense") == (403, "Invalid access-token")

    async def test_wrong_mode(self, service: TunnelingService, tunnel: dict[str, Any]) -> None:
        token = tunnel["sourceAccessToken"]
        status, _ = await refused(service, "destination", token)
        assert status == 400
        assert (await refused(service, "both", token))[0] == 400
        async with dial(service.endpoints, "source", token):
            pass

    async def test_closed_tunnel(self, service: TunnelingService, tunnel: dict[str, Any]) -> None:
        client = api(service.endpoints)
        await asyncio.to_thread(client.close_tunnel, tunnelId=tunnel["tunnelId"])
        client.close()
        answer = await refused(service, "source", tunnel["sourceAccessToken"])
        assert answer == (400, "Tunnel is closed")

    async def test_two_tokens(self, service: TunnelingService, tunnel: dict[str, Any]) -> None:
        token = tunnel["sourceAccessToken"]
        cookie = {"Cookie": f"awsiot-tunnel-token={token}"}
        for headers in (
            {"access-token": token} | cookie,
            [("access-token", token), ("access-token", token)],
        ):
            status, _ = await refused(service, "source", "", additional_headers=headers)
            assert status == 400

    async def test_wrong_path(self, service: TunnelingService, tunnel: dict[str, Any]) -> None:
        uri = f"wss://{service.endpoints.data_endpoint}/x?local-proxy-mode=source"
        with pytest.raises(InvalidStatus) as caught:
            async with connect(uri, ssl=trust(service.endpoints), proxy=None):
                pass
        assert caught.value.response.status_code == 400

    async def test_large_request(self, service: TunnelingService, tunnel: dict[str, Any]) -> None:
        headers = {"access-token": tunnel["sourceAccessToken"], "x-padding": "a" * 5000}
        status, _ = await refused(service, "source", "", additional_headers=headers)
        assert status == 431

    async def test_unknown_subprotocol(
        self, service: TunnelingService, tunnel: dict[str, Any]
    ) -> None:
        token = tunnel["sourceAccessToken"]
        status, _ = await refused(service, "source", token, subprotocols=("mqtt",))
        assert status == 400
        async with dial(service.endpoints, "source", token):
            pass

    async def test_what_is_no_upgrade_does_not_use_the_token_up(
        self, service: TunnelingService, tunnel: dict[str, Any]
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

    async def test_a_browsers_upgrade(
        self, service: TunnelingService, tunnel: dict[str, Any]
    ) -> None:
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

    @pytest.mark.parametrize("settings", [DataSettings(), DataSettings(use_aiofastnet=False)])
    @pytest.mark.parametrize(
        ("line", "status"),
        [
            ("GET /healthz HTTP/1.1", "200 OK"),
            ("GET /healthz HTTP/1.0", "200 OK"),
            ("HEAD /healthz HTTP/1.0", "200 OK"),
            ("POST /healthz HTTP/1.1", "405 Method Not Allowed"),
            ("GET / HTTP/1.1", "400 Bad Request"),
            ("OPTIONS / HTTP/1.0", "405 Method Not Allowed"),
        ],
    )
    async def test_health_checks(
        self, tmp_path: Path, settings: DataSettings, line: str, status: str, loop_kind: str
    ) -> None:
        async with running(config(tmp_path / "state", data=settings)) as service:
            answer = await raw_answer(service, f"{line}\r\nHost: localhost\r\n\r\n".encode())
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(f"HTTP/1.1 {status}\r\n".encode())
            assert b"\r\nConnection: close" in head
            if status == "200 OK":
                assert body == (b"ok\n" if line.startswith("GET") else b"")
                assert "tailrace_handshakes_refused_total{" not in await metrics(service)

    async def test_a_proxy_that_knows_no_upgrade(
        self, service: TunnelingService, tunnel: dict[str, Any]
    ) -> None:
        """As nginx asks the service when it is told nothing but its address."""
        token = tunnel["sourceAccessToken"]
        answer = await raw_answer(
            service,
            b"GET /tunnel?local-proxy-mode=source HTTP/1.0\r\nHost: x\r\nConnection: close\r\n"
            + f"access-token: {token}\r\n\r\n".encode(),
        )
        assert answer.startswith(b"HTTP/1.1 426 ")
        assert b"\r\nUpgrade: websocket\r\n" in answer
        assert b"came as HTTP/1.0" in answer
        assert b"a proxy in between may have changed it" in answer
        async with dial(service.endpoints, "source", token):
            pass

    async def test_garbage_is_answered_and_dropped(self, service: TunnelingService) -> None:
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

    async def test_old_tls_is_refused(self, service: TunnelingService) -> None:
        context = trust(service.endpoints)
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        host, _, port = service.endpoints.data_endpoint.rpartition(":")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection(host, int(port), ssl=context, server_hostname=host)


class TestFailingStore:
    async def test_a_store_that_another_process_has_locked_is_not_waited_for(
        self, service: TunnelingService, tunnel: dict[str, Any], tmp_path: Path
    ) -> None:
        """A turn of the loop is no place to wait; proxies are told when to come back."""
        token = tunnel["sourceAccessToken"]
        other = SqliteStore.open(tmp_path / "state" / "tunnels.sqlite3")
        other._connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(InvalidStatus) as caught:
            async with dial(service.endpoints, "source", token):
                pass
        response = caught.value.response
        assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
        other._connection.execute("ROLLBACK")
        other.close()
        # It is as good as before.
        async with dial(service.endpoints, "source", token):
            pass

    async def test_no_admission_without_the_store(
        self, service: TunnelingService, tunnel: dict[str, Any], monkeypatch: pytest.MonkeyPatch
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


def reach(service: TunnelingService, token: str) -> ssl.SSLSocket:
    """Return the socket of a destination without a loop, behind its handshake; blocking."""
    host, _, port = service.endpoints.data_endpoint.rpartition(":")
    plain_socket = socket.create_connection((host, int(port)), HANG)
    found = trust(service.endpoints).wrap_socket(plain_socket, server_hostname=host)
    found.sendall(
        f"GET /tunnel?local-proxy-mode=destination HTTP/1.1\r\nHost: {host}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: 9/h0zvwMEXrg06G+RjnmcA==\r\n"
        f"Sec-WebSocket-Protocol: {SUBPROTOCOL_V3}\r\naccess-token: {token}\r\n\r\n".encode()
    )
    assert found.recv(4096).startswith(b"HTTP/1.1 101 ")
    return found


class TestComingAndGoing:
    async def test_a_client_that_was_reset_behind_much_has_left(
        self, service: TunnelingService, tunnel: dict[str, Any], loop_kind: str
    ) -> None:
        """Libuv tells of that once, and TLS may not read all of it then."""
        async with dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as source:
            token = tunnel["destinationAccessToken"]
            destination = await asyncio.to_thread(reach, service, token)
            await source.send(start())
            await asyncio.to_thread(destination.recv, 4096)
            # All of it is there before the loop sees any.
            for _ in range(6):
                sent = encode_delimited(data(bytes(8_000)))
                destination.sendall(frame(BINARY, sent, masked=True))
            reset(destination)
            async with asyncio.timeout(HANG):
                while (await source.recv()).type != RESET:
                    pass

    async def test_a_newer_connection_replaces_an_older_one(
        self, service: TunnelingService, tunnel: dict[str, Any]
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
        self, service: TunnelingService, tunnel: dict[str, Any]
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

    async def test_connection_states(
        self, service: TunnelingService, tunnel: dict[str, Any]
    ) -> None:
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
        service = TunnelingService(config(tmp_path / "state"))
        await service.start()
        tunnel = await open_tunnel(service)
        async with dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as peer:
            await service.stop()
            assert await peer.close_code() == (1006, "")

    async def test_stopping_does_not_wait_for_dead_clients(self, tmp_path: Path) -> None:
        settings = DataSettings(close_timeout=0.3)
        service = TunnelingService(config(tmp_path / "state", data=settings))
        await service.start()
        tunnel = await open_tunnel(service)
        async with dial(service.endpoints, "source", tunnel["sourceAccessToken"]) as peer:
            peer.socket.transport.pause_reading()
            await asyncio.wait_for(service.stop(), HANG)
            peer.socket.transport.abort()


async def test_plain_tcp_behind_a_terminator(tmp_path: Path) -> None:
    """Without TLS of its own the listener serves a proxy that ends TLS in front of it."""
    async with plain(tmp_path) as served, served.pair() as (source, destination):
        assert len(served.listener._links) == 2
        await served.listener.stop()
        assert await source.close_code() == (1006, "")
        assert await destination.close_code() == (1006, "")


class TestCounting:
    """What operators get to see of links: counters and the audit log."""

    @pytest.fixture
    async def audited(self, tmp_path: Path) -> AsyncIterator[TunnelingService]:
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
        self, audited: TunnelingService, tmp_path: Path, caplog: pytest.LogCaptureFixture
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

    @pytest.mark.parametrize(
        ("trusted", "forwarded", "address"),
        [
            ("127.0.0.0/8", "203.0.113.9, 192.0.2.7", "192.0.2.7"),
            ("127.0.0.0/8", "192.0.2.7, 127.0.0.3", "192.0.2.7"),
            ("127.0.0.0/8", "2001:db8::7", "2001:db8::7"),
            ("127.0.0.0/8", "unknown", "127.0.0.1:PORT"),
            ("10.0.0.0/8", "192.0.2.7", "127.0.0.1:PORT"),
        ],
    )
    async def test_links_from_behind_a_reverse_proxy(
        self, tmp_path: Path, trusted: str, forwarded: str, address: str
    ) -> None:
        settings = config(
            tmp_path / "state",
            data=DataSettings(forwarders=(ip_network(trusted),)),
            operation=OperationSettings(audit_log=tmp_path / "audit"),
        )
        async with running(settings) as service:
            tunnel = await open_tunnel(service)
            headers = {
                "access-token": tunnel["sourceAccessToken"],
                "X-Forwarded-For": forwarded,
            }
            async with dial(service.endpoints, "source", "", additional_headers=headers) as peer:
                port = peer.socket.local_address[1]
        text = await asyncio.to_thread((tmp_path / "audit").read_text)
        events = [json.loads(line) for line in text.splitlines()]
        assert [event["event"] for event in events] == ["OpenTunnel", "connected", "disconnected"]
        expected = address.replace("PORT", str(port))
        assert {event["address"] for event in events[1:]} == {expected}

    async def test_refused_handshakes(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        operation = OperationSettings(audit_log=tmp_path / "audit")
        async with running(config(tmp_path / "state", operation=operation)) as service:
            client = api(service.endpoints)
            destination = {"thingName": "pump-7", "services": ["SSH"]}
            tunnel = await asyncio.to_thread(client.open_tunnel, destinationConfig=destination)
            client.close()
            token = tunnel["sourceAccessToken"]
            async with dial(service.endpoints, "source", token, expect_ids=["SSH"]):
                pass
            await refused(service, "source", token)
            await refused(service, "destination", "junk")
            await refused(service, "sideways", "junk")
        used, unknown, bad = (line for line in caplog.messages if "handshake refused" in line)
        owner = f"source of tunnel {tunnel['tunnelId']} (thing pump-7), from 127.0.0.1:"
        assert f"can not be used again.; {owner}" in used
        assert "Invalid access-token; from 127.0.0.1:" in unknown
        assert "once; a proxy in between may have changed it; from 127.0.0.1:" in bad
        text = await asyncio.to_thread((tmp_path / "audit").read_text)
        events = [json.loads(line) for line in text.splitlines()]
        told = [event for event in events if event["event"] == "refused"]
        assert [event["reason"] for event in told] == ["token_used", "unknown_token", "bad_request"]
        assert [event.get("side") for event in told] == ["source", "destination", None]
        assert [event.get("tunnelId") for event in told] == [tunnel["tunnelId"], None, None]
        for event, line in zip(told, (used, unknown, bad), strict=True):
            assert line.endswith(f"from {event['address']}")
            assert line.startswith(f"channel {event['channel']}: ")

    async def test_a_load_balancer_that_sends_no_header(self, audited: TunnelingService) -> None:
        tunnel = await open_tunnel(audited)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            async with dial(audited.endpoints, "source", tunnel["sourceAccessToken"]):
                pass

    async def test_why_links_end_and_handshakes_fail(self, service: TunnelingService) -> None:
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
        self, service: TunnelingService, caplog: pytest.LogCaptureFixture
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

    async def test_time_without_reading(self, service: TunnelingService) -> None:
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


async def metrics(service: TunnelingService) -> str:
    async with httpx.AsyncClient(verify=trust(service.endpoints), trust_env=False) as client:
        return (await client.get(f"{service.endpoints.api_endpoint}/metrics")).text


async def test_a_connection_that_is_turned_out_is_counted_as_such(tmp_path: Path) -> None:
    async with plain(tmp_path) as served, served.pair() as (source, destination):
        (record,) = (await served.queries.page(Things(), None, 1, "")).tunnels
        served.control.rotate(record.tunnel_id, [Side.SOURCE], None, Owner())
        assert await source.close_code() == (1008, "The access token was rotated")
        assert await destination.recv() == Message(RESET, 1, "", 1)
        async with asyncio.timeout(HANG):
            while not served.listener.counters.ended:
                await asyncio.sleep(0.01)
        assert served.listener.counters.ended == {"revoked": 1}


class TestLimits:
    async def test_connections_per_second_of_a_client_behind_a_proxy(self, tmp_path: Path) -> None:
        settings = DataSettings(forwarders=(ip_network("127.0.0.0/8"),))
        async with plain(tmp_path, Limits(connection_rate=2), settings) as served:
            served.listener.clock = lambda: 1.0
            for client, expected in (("192.0.2.1", [403, 403, 429]), ("192.0.2.2", [403])):
                statuses = []
                for _ in expected:
                    with pytest.raises(InvalidStatus) as caught:
                        forwarded = {"X-Forwarded-For": client}
                        async with served.dial(Side.SOURCE, Secret("junk"), headers=forwarded):
                            pass
                    statuses.append(caught.value.response.status_code)
                assert statuses == expected
            assert served.listener.counters.refusals == {"unknown_token": 3, "connection_rate": 1}

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
            assert served.listener.counters.refusals == {"bad_request": 3, "connection_rate": 2}
            refused = "connection from 127.0.0.1 refused: more than 3 in a second"
            assert caplog.messages.count(refused) == 2
            served.listener.clock = lambda: 2.0
            async with served.pair():
                pass

    async def test_connections_that_are_open(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Links that were let in do not count: what strangers hold does not keep them away."""
        async with plain(tmp_path, Limits(address_connections=2)) as served:
            async with served.pair(), served.pair():
                strangers = [
                    await asyncio.open_connection("127.0.0.1", served.port) for _ in range(3)
                ]
                assert await asyncio.wait_for(strangers[2][0].read(), HANG) == b""
                assert served.listener.counters.refusals == {"address_connections": 1}
                for _, writer in strangers:
                    writer.transport.abort()
                async with asyncio.timeout(HANG):
                    while served.listener._limiter._open:
                        await asyncio.sleep(0.01)
                async with served.pair():
                    pass
        refused = "connection from 127.0.0.1 refused: 2 of its address are open"
        assert refused in caplog.messages

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
        first, second = (line for line in caplog.messages if "refused" in line)
        assert first.startswith("connection refused: no upgrade request in time; from 127.0.0.1:")
        assert second.startswith(
            "connection refused: the upgrade request has no end; from 127.0.0.1:"
        )
