from __future__ import annotations

import asyncio
import socket
import uuid
from dataclasses import replace

import pytest

from support.network.applications import application, check_echo, check_refused, client, echo
from support.service.process import ServiceProcess
from support.tunnel import RunningProxy, both_proxies, running_proxy, tunnel_of
from support.tunnel.engine import settings
from support.waiting import until
from tailrace.cli.exit_codes import ExitCode, exit_code_of
from tailrace.common.addresses import TCPAddress
from tailrace.common.secret import Secret
from tailrace.errors import (
    AccessRefused,
    ConfigurationError,
    ListenError,
    LocalProtocolError,
    RemoteProtocolError,
    ServiceIdMismatch,
    TokenRotated,
)
from tailrace.link import Link
from tailrace.localproxy.events import (
    Connected,
    Connecting,
    ConnectionCut,
    ConnectionRefused,
    Ended,
    Listening,
    ListeningOnNetwork,
    PeerLeft,
    ProxyEvent,
    Reconnecting,
    ServicesMapped,
    Started,
)
from tailrace.localproxy.proxy import LocalProxy
from tailrace.localproxy.settings import PeerVersion
from tailrace.localproxy.status import LinkPhase
from tailrace.wire import Side


def link_of(running: RunningProxy) -> Link:
    link = running.proxy._uplink.link
    assert link is not None
    return link


def waiting(running: RunningProxy) -> int:
    """Return how many bytes wait for the local ends of a proxy."""
    return sum(
        local.waiting for traffic in running.proxy._uplink.traffics for local in traffic.connections
    )


async def test_a_source_tells_what_happens_in_order(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel:
        async with running_proxy(tunnel.settings(Side.SOURCE)) as source:
            listening = await source.ready()
            assert await source.seen(PeerLeft) == PeerLeft(Side.DESTINATION)
            assert await source.stop() is ExitCode.OK
    kinds = [type(event).__name__ for event in source.events]
    before = ["Started", "Connecting", "Connected", "ServicesMapped", "Listening"]
    assert kinds == [*before, "PeerLeft", "Ended"]
    assert source.all(Started) == [Started(Side.SOURCE)]
    assert source.all(Connecting)[0].endpoint == source.all(Connected)[0].endpoint
    assert source.all(Listening) == [Listening("SSH", listening["SSH"], True)]
    assert source.all(Ended) == [Ended(1000, "", requested=True)]


async def test_a_lone_port_serves_the_one_service_of_the_tunnel(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel:
        settings = tunnel.settings(Side.SOURCE, services={"": TCPAddress("", 0)})
        async with application(echo) as app:
            far = tunnel.settings(Side.DESTINATION, services={"": app})
            async with both_proxies(settings, far) as ends:
                assert list(ends.listening) == ["SSH"]
                async with client(ends.listening["SSH"]) as streams:
                    await check_echo(streams, b"hello")


async def test_ids_without_an_address_take_that_of_the_config_files(service: ServiceProcess):
    with tunnel_of(service, "A", "B") as tunnel:
        async with application(echo) as app:
            far = tunnel.settings(Side.DESTINATION, fallback_services={"A": app, "B": app})
            async with both_proxies(tunnel.settings(Side.SOURCE), far) as ends:
                for address in ends.listening.values():
                    async with client(address) as streams:
                        await check_echo(streams, b"hello")


async def test_a_destination_needs_an_address_for_every_id(service: ServiceProcess):
    with tunnel_of(service, "A", "B") as tunnel:
        far = tunnel.settings(Side.DESTINATION, fallback_services={"A": TCPAddress("", 22)})
        async with running_proxy(far) as destination:
            with pytest.raises(ServiceIdMismatch, match=r"no destination for \[B\]$"):
                await destination.ended()


async def test_both_lists_are_named_when_they_differ(service: ServiceProcess):
    with tunnel_of(service, "HTTP", "SSH") as tunnel:
        wrong = tunnel.settings(Side.SOURCE, services={"VNC": TCPAddress("", 0)})
        async with running_proxy(wrong) as source:
            with pytest.raises(ServiceIdMismatch, match=r"\[HTTP, SSH\], you gave \[VNC\]"):
                await source.ended()


async def test_a_busy_port_ends_it_before_the_token_is_used(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel, socket.create_server(("127.0.0.1", 0)) as taken:
        busy = TCPAddress("", taken.getsockname()[1])
        async with running_proxy(tunnel.settings(Side.SOURCE, services={"SSH": busy})) as source:
            with pytest.raises(ListenError, match="Address already in use"):
                await source.ended()
            assert source.all(Connecting) == []
        async with running_proxy(tunnel.settings(Side.SOURCE)) as source:
            await source.ready()


async def test_a_busy_port_of_a_config_file_ends_it_too(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel, socket.create_server(("127.0.0.1", 0)) as taken:
        busy = TCPAddress("", taken.getsockname()[1])
        settings = tunnel.settings(Side.SOURCE, fallback_services={"SSH": busy})
        async with running_proxy(settings) as source:
            with pytest.raises(ListenError, match="Address already in use") as caught:
                await source.ended()
            assert (caught.value.service_id, caught.value.port) == ("SSH", busy.port)


async def test_a_refused_token_comes_with_the_facts(
    service: ServiceProcess, caplog: pytest.LogCaptureFixture
):
    with tunnel_of(service, "SSH") as tunnel:
        async with running_proxy(tunnel.settings(Side.SOURCE)) as source:
            await source.ready()
        async with running_proxy(tunnel.settings(Side.SOURCE)) as second:
            with pytest.raises(AccessRefused) as caught:
                await second.ended()
    error = caught.value
    assert (error.status, error.reason) == (400, "Bad Request")
    assert "does not match" in error.body
    assert tunnel.tokens[Side.SOURCE].reveal() not in caplog.text


@pytest.mark.parametrize("side", Side, ids=lambda side: side.value)
async def test_a_token_that_is_rotated_meanwhile_ends_the_proxy(
    service: ServiceProcess, side: Side
):
    with tunnel_of(service, "SSH") as tunnel:
        services = {"SSH": TCPAddress("127.0.0.1", 9)} if side is Side.DESTINATION else None
        async with running_proxy(tunnel.settings(side, services=services)) as proxy:
            await proxy.ready()
            call = {"tunnelId": tunnel.tunnel_id, "clientMode": side.name}
            await asyncio.to_thread(tunnel.control.call, "RotateTunnelAccessToken", call)
            with pytest.raises(TokenRotated) as caught:
                await proxy.ended()
    assert exit_code_of(caught.value) is ExitCode.TOKEN_REFUSED


async def test_the_same_client_token_lets_a_restarted_proxy_in_again(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel:
        settings = tunnel.settings(Side.SOURCE)
        async with running_proxy(settings) as source:
            await source.ready()
            token = source.proxy.client_token
        async with running_proxy(replace(settings, client_token=token)) as source:
            await source.ready()
            assert source.proxy.client_token == token


def test_a_client_token_is_made_for_each_proxy():
    """And nothing else: no loop is needed."""
    wanted = settings()
    tokens = {LocalProxy(wanted).client_token for _ in range(2)}
    assert len(tokens) == 2
    assert all(uuid.UUID(token.reveal()).version == 4 for token in tokens)
    given = Secret(32 * "x")
    assert LocalProxy(replace(wanted, client_token=given)).client_token is given


def test_a_source_takes_no_handlers():
    with pytest.raises(ConfigurationError, match="handlers are for destinations"):
        LocalProxy(settings(services={"SSH": echo}))


async def test_a_proxy_runs_once(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel:
        async with running_proxy(tunnel.settings(Side.SOURCE)) as source:
            await source.ready()
            with pytest.raises(LocalProtocolError, match="runs once"):
                await source.proxy.run()
            await source.stop()
            with pytest.raises(LocalProtocolError, match="runs once"):
                await source.proxy.run()


async def test_one_that_is_stopped_before_it_runs_ends_at_once():
    proxy = LocalProxy(settings())
    events: list[ProxyEvent] = []
    proxy.subscribe(events.append)
    proxy.stop()
    await proxy.run()
    assert events == [Started(Side.SOURCE), Ended(1000, "", requested=True)]


async def test_a_subscriber_may_come_and_go_at_any_time(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel:
        proxy = LocalProxy(tunnel.settings(Side.SOURCE))
        kept: list[ProxyEvent] = []
        left: list[ProxyEvent] = []
        proxy.subscribe(kept.append)
        leave = proxy.subscribe(left.append)

        def leave_when_connected(event: ProxyEvent) -> None:
            if isinstance(event, Connected):
                leave()
                proxy.stop()

        proxy.subscribe(leave_when_connected)
        await proxy.run()
    assert [type(event) for event in kept] == [Started, Connecting, Connected, Ended]
    assert [type(event) for event in left] == [Started, Connecting, Connected]


async def test_a_subscriber_that_cannot_go_on_ends_the_proxy(service: ServiceProcess):
    """As a ready file that cannot be written."""
    for kind in (Started, ServicesMapped):
        with tunnel_of(service, "SSH") as tunnel:
            proxy = LocalProxy(tunnel.settings(Side.SOURCE))

            def refuse(event: ProxyEvent, kind: type = kind) -> None:
                if isinstance(event, kind):
                    raise ConfigurationError("cannot write the ready file")

            proxy.subscribe(refuse)
            with pytest.raises(ConfigurationError, match="ready file"):
                await proxy.run()
            assert proxy.status().link.phase is LinkPhase.ENDED


async def test_that_others_can_reach_it_is_told(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel:
        settings = tunnel.settings(Side.SOURCE, bind_address="0.0.0.0")
        async with running_proxy(settings) as source:
            listening = await source.ready()
        assert source.all(ListeningOnNetwork) == [ListeningOnNetwork(listening["SSH"])]
        async with running_proxy(tunnel.settings(Side.DESTINATION, services={"": echo})) as far:
            await far.ready()
            assert far.all(ListeningOnNetwork) == []


async def test_clients_beyond_the_limit_are_refused(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel:
        async with application(echo) as app:
            near = tunnel.settings(Side.SOURCE, max_connections=1)
            far = tunnel.settings(Side.DESTINATION, services={"SSH": app})
            async with both_proxies(near, far) as ends, client(ends.listening["SSH"]) as first:
                await check_echo(first, b"one")
                await check_refused(ends.listening["SSH"])
                refused = await ends.source.seen(ConnectionRefused)
                assert "limit of 1" in refused.reason
                await check_echo(first, b"still one")


async def test_a_destination_has_the_same_limit(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel:
        async with application(echo) as app:
            far = tunnel.settings(Side.DESTINATION, services={"SSH": app}, max_connections=1)
            async with (
                both_proxies(tunnel.settings(Side.SOURCE), far) as ends,
                client(ends.listening["SSH"]) as first,
            ):
                await check_echo(first, b"one")
                await check_refused(ends.listening["SSH"])
                cut = await ends.source.seen(ConnectionCut)
                assert cut.received == 0
                assert cut.reason == "the limit of 1 connections is reached at the destination"
                await check_echo(first, b"still one")


async def test_a_second_client_of_an_old_peer_waits(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel:
        async with application(echo) as app:
            near = tunnel.settings(Side.SOURCE, peer_version=PeerVersion.V2)
            far = tunnel.settings(Side.DESTINATION, services={"SSH": app})
            async with both_proxies(near, far) as ends:
                async with client(ends.listening["SSH"]) as first:
                    await check_echo(first, b"one")
                    async with client(ends.listening["SSH"]) as second:
                        second[1].write(b"two")
                        await check_echo(first, b"still one")
                        first[1].close()
                        assert await second[0].readexactly(3) == b"two"


async def test_a_client_that_waits_for_an_old_peer_is_let_go_at_the_end(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel:
        async with application(echo) as app:
            near = tunnel.settings(Side.SOURCE, peer_version=PeerVersion.V1)
            far = tunnel.settings(Side.DESTINATION, services={"SSH": app})
            async with both_proxies(near, far) as ends:
                async with (
                    client(ends.listening["SSH"]) as first,
                    client(ends.listening["SSH"]) as (reader, _),
                ):
                    await check_echo(first, b"one")
                    await ends.source.stop()
                    with pytest.raises(ConnectionResetError):
                        await reader.read()


async def test_errors_of_the_peer_end_it_when_told_so(service: ServiceProcess):
    """``websocket.reconnect_on_data_error`` of the settings file."""
    with tunnel_of(service, "SSH") as tunnel:
        services = {"": TCPAddress("", 22)}
        settings = tunnel.settings(
            Side.DESTINATION, services=services, reconnect_on_data_error=False
        )
        async with running_proxy(settings) as destination:
            await destination.ready()
            link_of(destination).close(1002, "length prefix is 0")
            with pytest.raises(RemoteProtocolError, match="length prefix"):
                await destination.ended()


async def test_a_lost_link_is_told_with_its_cause(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel:
        async with running_proxy(tunnel.settings(Side.SOURCE)) as source:
            before = await source.ready()
            link_of(source).abort()
            again = await source.seen(Reconnecting)
            assert "1006" in str(again.cause)
            assert again.delay > 0
            assert await source.ready(links=2) == before


async def test_stop_during_the_first_connect_ends_at_once(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel:
        async with running_proxy(tunnel.settings(Side.SOURCE)) as source:
            await source.seen(Connecting)
            assert await source.stop() is ExitCode.OK
            assert source.all(Connected) == []


async def test_an_application_that_is_not_reached_does_not_hold_up_the_end(
    service: ServiceProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Though bytes wait for it."""
    monkeypatch.setattr("tailrace.localproxy.proxy._FLUSH_TIMEOUT", 1e6)
    with tunnel_of(service, "SSH") as tunnel, socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))  # refused, until the next try that never comes
        far = tunnel.settings(
            Side.DESTINATION,
            services={"SSH": TCPAddress("127.0.0.1", mute.getsockname()[1])},
            dial_retry_count=-1,
            dial_retry_delay=1e6,
        )
        async with (
            both_proxies(tunnel.settings(Side.SOURCE), far) as ends,
            client(ends.listening["SSH"]) as (_, writer),
        ):
            writer.write(b"last words")
            await until(lambda: waiting(ends.destination), "the last words")
            assert await ends.destination.stop() is ExitCode.OK
            assert "not reached before the end; 10 bytes lost" in caplog.text


async def test_a_client_that_takes_nothing_does_not_hold_up_the_end_for_ever(
    service: ServiceProcess, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tailrace.localproxy.proxy._FLUSH_TIMEOUT", 0.2)

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    with tunnel_of(service, "SSH") as tunnel:
        async with application(flood) as app:
            far = tunnel.settings(Side.DESTINATION, services={"SSH": app})
            async with both_proxies(tunnel.settings(Side.SOURCE), far) as ends:
                address = ends.listening["SSH"]
                assert isinstance(address, TCPAddress)
                with socket.socket() as stalled:
                    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    stalled.setblocking(False)
                    loop = asyncio.get_running_loop()
                    await loop.sock_connect(stalled, (address.host, address.port))
                    await until(lambda: waiting(ends.source), "more than it takes")
                    assert await ends.source.stop() is ExitCode.OK


async def test_a_source_listens_where_and_when_it_is_told(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel:
        async with application(echo) as app:
            near = tunnel.settings(Side.SOURCE, listen=False)
            far = tunnel.settings(Side.DESTINATION, services={"SSH": app})
            async with both_proxies(near, far) as ends:
                proxy = ends.source.proxy
                listener = proxy.listen("SSH", TCPAddress("127.0.0.1", 0))
                for links in (1, 2):
                    assert await ends.source.seen(Listening, links) == Listening(
                        "SSH", listener.address, True
                    )
                    async with client(listener.address) as streams:
                        await check_echo(streams, b"hello")
                    ends.source.drop_link()
                    await ends.source.ready(links + 1)
                proxy.close_listener(listener)
                with await proxy.open_socket("SSH") as sock:
                    loop = asyncio.get_running_loop()
                    await loop.sock_sendall(sock, b"hello")
                    assert await loop.sock_recv(sock, 9) == b"hello"
                with pytest.raises(LocalProtocolError, match="only a source"):
                    ends.destination.proxy.listen("SSH", listener.address)
                with pytest.raises(LocalProtocolError, match="only a source"):
                    await ends.destination.proxy.open_socket("SSH")
