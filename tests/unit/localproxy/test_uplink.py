from __future__ import annotations

import asyncio

import pytest

from support.network.applications import application, check_echo, client, echo, read_to_the_end
from support.service.process import ServiceProcess
from support.tunnel import both_proxies, running_proxy, tunnel_of
from support.waiting import until
from tailrace.errors import LinkError
from tailrace.localproxy.connection_states import ConnectionState
from tailrace.localproxy.events import (
    Connected,
    Connecting,
    ConnectionClosed,
    ConnectionCut,
    Reconnecting,
    TunnelPaused,
    TunnelResumed,
)
from tailrace.wire import Side


async def test_each_link_carries_a_traffic_of_its_own_and_the_old_ones_drain(
    service: ServiceProcess, monkeypatch: pytest.MonkeyPatch
):
    """Until their local ends have gone, which is when nothing holds them any more."""
    with tunnel_of(service, "SSH") as tunnel:
        async with application(echo) as app:
            far = tunnel.settings(Side.DESTINATION, services={"SSH": app})
            async with (
                both_proxies(tunnel.settings(Side.SOURCE, resume_timeout=0), far) as ends,
                client(ends.listening["SSH"]) as first,
            ):
                await check_echo(first, b"before")
                uplink = ends.source.proxy._uplink
                (old,) = uplink.traffics
                monkeypatch.setattr("tailrace.localproxy.sockets.unacknowledged", lambda _: 1)
                ends.source.drop_link()
                await ends.source.ready(links=2)
                assert uplink.traffics[0] is old
                assert len(uplink.traffics) == 2
                assert [local.state for local in old.connections] == [ConnectionState.RESETTING]
                first[1].close()
                await ends.source.seen(ConnectionClosed)
                ends.source.drop_link()
                await ends.source.ready(links=3)
                assert len(uplink.traffics) == 1
                async with client(ends.listening["SSH"]) as again:
                    await check_echo(again, b"after")


async def test_the_next_link_carries_the_traffic_that_survives(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel:
        async with application(echo) as app:
            far = tunnel.settings(Side.DESTINATION, services={"SSH": app})
            async with (
                both_proxies(tunnel.settings(Side.SOURCE), far) as ends,
                client(ends.listening["SSH"]) as streams,
            ):
                await check_echo(streams, b"before")
                before = ends.source.proxy._uplink.traffics
                ends.source.drop_link()
                paused = await ends.source.seen(TunnelPaused)
                assert paused == TunnelPaused("link lost", 1, 120.0)
                assert await ends.destination.seen(TunnelPaused) == TunnelPaused(
                    "the source has left", 1, 120.0
                )
                for end in (ends.source, ends.destination):
                    resumed = await end.seen(TunnelResumed)
                    assert resumed.connections == 1
                assert ends.source.proxy._uplink.traffics == before
                await check_echo(streams, b"after")
                assert ends.source.all(ConnectionCut) == []


async def test_what_waits_is_cut_when_no_link_is_to_come(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel:
        async with application(echo) as app:
            far = tunnel.settings(Side.DESTINATION, services={"SSH": app})
            near = tunnel.settings(Side.SOURCE, connect_retry_count=0)
            async with (
                both_proxies(near, far) as ends,
                client(ends.listening["SSH"]) as streams,
            ):
                await check_echo(streams, b"before")
                ends.source.drop_link()
                with pytest.raises(LinkError, match="1006"):
                    await ends.source.ended()
                assert await ends.source.seen(TunnelPaused)
                assert (await ends.source.seen(ConnectionCut)).reason == "the tunnel has ended"
                with pytest.raises(ConnectionResetError):
                    await streams[0].read()


async def test_the_link_is_there_while_it_is_open(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel:
        async with running_proxy(tunnel.settings(Side.SOURCE)) as source:
            uplink = source.proxy._uplink
            assert uplink.link is None
            assert uplink.traffics == []
            assert uplink.round_trip is None
            connected = await source.seen(Connected)
            assert uplink.link is not None
            assert uplink.link.info.channel_id == connected.channel_id
            await until(lambda: uplink.round_trip is not None, "the first pong")
            source.drop_link()
            lost = await source.seen(Reconnecting)
            assert uplink.link is None
            assert uplink.round_trip is None
            assert uplink.last_closed.code == 1006
            assert "1006" in str(lost.cause)
            await source.stop()
            assert uplink.last_closed.code == 1006


async def test_it_is_told_that_a_link_is_tried(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel:
        async with running_proxy(tunnel.settings(Side.SOURCE)) as source:
            await source.ready()
            source.drop_link()
            await source.ready(links=2)
            assert source.all(Connecting) == [Connecting(tunnel.endpoints.data_endpoint)] * 2


async def test_an_abort_waits_for_nobody(service: ServiceProcess):
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3600.0)

    with tunnel_of(service, "SSH") as tunnel:
        far = tunnel.settings(Side.DESTINATION, services={"SSH": hold})
        async with (
            both_proxies(tunnel.settings(Side.SOURCE), far) as ends,
            client(ends.listening["SSH"]) as streams,
        ):
            await until(lambda: ends.destination.proxy.status().connections, "the connection")
            for running in (ends.source, ends.destination):
                running.proxy._uplink.abort()
                assert running.proxy.status().connections == ()
                link = running.proxy._uplink.link
                running.proxy.stop()
                await running.ended()
                assert link is not None
            assert await read_to_the_end(streams) == b""
