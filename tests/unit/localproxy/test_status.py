from __future__ import annotations

import asyncio
import dataclasses
import time

import pytest

from support.network.applications import echo
from support.service.process import ServiceProcess
from support.tunnel import both_proxies, running_proxy, tunnel_of
from support.tunnel.engine import Host, ScriptedEnd
from support.waiting import until
from tailrace.errors import ConnectFailed, LinkError
from tailrace.localproxy.connection_states import ConnectionState
from tailrace.localproxy.events import (
    Connected,
    Connecting,
    Ended,
    PeerJoined,
    PeerLeft,
    ProxyEvent,
    Reconnecting,
    Started,
    TunnelPaused,
    TunnelResumed,
)
from tailrace.localproxy.local_connection import LocalConnection
from tailrace.localproxy.proxy import LocalProxy
from tailrace.localproxy.status import (
    ConnectionStatus,
    LinkPhase,
    LinkStatus,
    PeerPresence,
    TunnelHistory,
    TunnelStatus,
)
from tailrace.wire import Side

ENDPOINT = "localhost:443"
IDLE = LinkStatus(LinkPhase.NOT_STARTED, ENDPOINT, None, 0, None, None)


@pytest.mark.parametrize("kind", [TunnelStatus, LinkStatus, ConnectionStatus])
def test_a_status_is_frozen_and_slotted(kind: type):
    names = [field.name for field in dataclasses.fields(kind)]
    status = kind(*names)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(status, names[0], "changed")
    assert not hasattr(status, "__dict__")


def test_a_link_is_told_by_its_events():
    history = TunnelHistory(ENDPOINT)
    told: list[tuple[LinkPhase, int, str | None]] = []
    lost = LinkError("the link was closed by the network (1006)")
    before = time.time()
    events: list[ProxyEvent] = [
        Started(Side.SOURCE),
        Connecting(ENDPOINT),
        Reconnecting(ConnectFailed("refused"), 1.0),
        Connecting(ENDPOINT),
        Connected(ENDPOINT, "channel", "picows"),
        Reconnecting(lost, 1.0),
        Connecting(ENDPOINT),
        Connected(ENDPOINT, "channel", "picows"),
        Ended(1000, ""),
    ]
    assert history.link_status(None) == IDLE
    for event in events:
        history(event)
        status = history.link_status(0.5)
        assert (status.endpoint, status.round_trip) == (ENDPOINT, 0.5)
        told.append((status.phase, status.reconnects, status.last_cause))
    assert told == [
        (LinkPhase.NOT_STARTED, 0, None),
        (LinkPhase.CONNECTING, 0, None),
        (LinkPhase.WAITING, 0, "refused"),
        (LinkPhase.CONNECTING, 0, "refused"),
        (LinkPhase.CONNECTED, 0, "refused"),
        (LinkPhase.WAITING, 0, str(lost)),
        (LinkPhase.CONNECTING, 0, str(lost)),
        (LinkPhase.CONNECTED, 1, str(lost)),
        (LinkPhase.CONNECTED, 1, str(lost)),
    ]
    assert history.link_status(None).failures == {"ConnectFailed": 1, "LinkError": 1}
    failed = history.link_status(None).last_failure
    assert failed is not None
    assert before <= failed <= time.time()
    history.end()
    assert history.link_status(None).phase is LinkPhase.ENDED


def test_the_peer_is_told_by_events_where_the_service_tells():
    history = TunnelHistory(ENDPOINT)
    told = []
    events: list[ProxyEvent] = [
        Connecting(ENDPOINT),
        Connected(ENDPOINT, "channel", "picows"),
        Reconnecting(LinkError("lost"), 1.0),
        Connected(ENDPOINT, "channel", "picows", tells_presence=True),
        PeerJoined(Side.DESTINATION),
        PeerLeft(Side.DESTINATION),
        PeerJoined(Side.DESTINATION),
        Reconnecting(LinkError("lost"), 1.0),
    ]
    for event in events:
        history(event)
        told.append(history.peer)
    unknown, untold, absent, connected = PeerPresence
    present = [absent, connected, absent, connected]
    assert told == [unknown, untold, unknown, *present, unknown]
    history(PeerJoined(Side.DESTINATION))
    history.end()
    assert history.peer is unknown


def told(history: TunnelHistory, waiting: int) -> TunnelStatus:
    connections = [
        ConnectionStatus("SSH", n, "peer", ConnectionState.PAUSED, 10, 20, 0.0, n < waiting)
        for n in range(3)
    ]
    return history.status(Side.SOURCE, ("SSH",), None, connections)


def test_connections_that_wait_are_told_with_since_when():
    history = TunnelHistory(ENDPOINT)
    idle = told(history, 0)
    assert (idle.paused_since, idle.waiting, idle.pauses, idle.bytes_again) == (None, 0, 0, 0)
    before = time.time()
    history(TunnelPaused("link lost", 2, 120.0))
    paused = told(history, 2)
    assert paused.paused_since is not None
    assert before <= paused.paused_since <= time.time()
    assert (paused.waiting, paused.pauses) == (2, 1)
    # All of them were given up.
    assert (told(history, 0).paused_since, told(history, 0).waiting) == (None, 0)
    history(TunnelResumed(3.0, 2, 1000))
    # A destination's wait for their start, which is on its way.
    resumed = told(history, 2)
    assert (resumed.paused_since, resumed.waiting) == (None, 0)
    assert (resumed.pauses, resumed.bytes_again) == (1, 1000)
    for _ in range(2):
        history(TunnelPaused("link lost", 1, 120.0))
        history(TunnelResumed(3.0, 1, 500))
    assert (told(history, 0).pauses, told(history, 0).bytes_again) == (3, 2000)


async def test_a_connection_is_told_by_its_counts():
    host = Host(asyncio.get_running_loop())
    local = LocalConnection(host, host.connection, "127.0.0.1:9", lingers=True)
    end = ScriptedEnd()
    local.attach(end)
    end.say(b"hello")
    local.data_received(memoryview(b"hi"))
    assert ConnectionStatus.of(local) == ConnectionStatus(
        "SSH", 1, "127.0.0.1:9", ConnectionState.OPEN, 5, 2, local.since
    )


async def test_the_status_of_a_proxy_in_each_phase_of_its_life(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel:
        near = tunnel.settings(Side.SOURCE, listen=False)
        far = tunnel.settings(Side.DESTINATION, services={"SSH": echo})
        endpoint = tunnel.endpoints.data_endpoint
        unused = LocalProxy(near)
        assert unused.status() == TunnelStatus(
            Side.SOURCE, (), dataclasses.replace(IDLE, endpoint=endpoint), PeerPresence.UNKNOWN, ()
        )
        async with running_proxy(near) as source:
            await source.seen(Connecting)
            connecting = source.proxy.status()
            assert connecting.link.phase is LinkPhase.CONNECTING
            assert connecting.service_ids == ()
        assert source.proxy.status().link.phase is LinkPhase.ENDED
        async with both_proxies(near, far) as ends:
            proxy = ends.source.proxy
            await until(lambda: proxy.status().link.round_trip is not None, "the first pong")
            status = proxy.status()
            assert status.side is Side.SOURCE
            assert status.service_ids == ("SSH",)
            assert status.link.phase is LinkPhase.CONNECTED
            assert status.link.round_trip is not None
            assert 0.0 <= status.link.round_trip < 60.0
            assert (status.link.reconnects, status.link.last_cause) == (0, None)
            assert status.connections == ()
            before = time.time()
            reader, writer = await proxy.open_connection("SSH")
            writer.write(b"hello")
            await reader.readexactly(5)
            (mine,) = proxy.status().connections
            (its,) = ends.destination.proxy.status().connections
            counted = proxy.status()
            assert (counted.opened, counted.bytes_in, counted.bytes_out) == (1, 5, 5)
            for each in (mine, its):
                assert (each.service_id, each.connection_id) == ("SSH", 1)
                assert (each.peer, each.state) == ("in process", ConnectionState.OPEN)
                assert (each.bytes_in, each.bytes_out) == (5, 5)
                assert before <= each.since <= time.time()
            ends.source.drop_link()
            await ends.source.seen(Reconnecting)
            paused = proxy.status()
            assert (paused.waiting, paused.pauses) == (1, 1)
            assert paused.paused_since is not None
            (mine,) = paused.connections
            assert (mine.state, mine.waits) == (ConnectionState.PAUSED, True)
            waiting = paused.link
            assert waiting.phase is LinkPhase.WAITING
            assert waiting.round_trip is None
            assert waiting.last_cause is not None
            assert "1006" in waiting.last_cause
            await ends.source.ready(links=2)
            again = proxy.status().link
            assert (again.phase, again.reconnects) == (LinkPhase.CONNECTED, 1)
            assert again.last_cause == waiting.last_cause
            await ends.source.seen(TunnelResumed)
            resumed = proxy.status()
            assert (resumed.waiting, resumed.pauses, resumed.paused_since) == (0, 1, None)
            writer.write(b"hello")
            await reader.readexactly(5)
            (mine,) = proxy.status().connections
            assert (mine.state, mine.waits) == (ConnectionState.OPEN, False)
            writer.close()
        for ended in (ends.source, ends.destination):
            status = ended.proxy.status()
            assert status.link.phase is LinkPhase.ENDED
            assert status.connections == ()
            assert status.service_ids == ("SSH",)
            assert (status.opened, status.bytes_in, status.bytes_out) == (1, 10, 10)


async def test_the_status_of_a_proxy_that_cannot_go_on(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel:
        wrong = tunnel.settings(Side.DESTINATION)
        async with running_proxy(wrong) as destination:
            with pytest.raises(Exception, match="no destination"):
                await destination.ended()
            status = destination.proxy.status()
            assert status.link.phase is LinkPhase.ENDED
            assert status.service_ids == ("SSH",)
