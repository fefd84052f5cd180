"""The way to a device, as it is told: a real service, a device in this process."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.network.applications import check_echo
from support.network.ports import free_port
from support.service.devices import device_of, service_client
from support.service.process import ServiceProcess
from support.waiting import HANG, until
from tailrace.aws import Client, RotatedTokens, TunnelState
from tailrace.errors import AccessRefused, LinkError
from tailrace.library import (
    ConnectionCut,
    ConnectionOpened,
    PeerJoined,
    Reconnecting,
    ServicesMapped,
    Tunnel,
    TunnelPaused,
    TunnelResumed,
)
from tailrace.operator import opening as module
from tailrace.operator.ledger import LedgerEntry
from tailrace.operator.opening import Opening
from tailrace.operator.state import HolderState, Origin, Phase
from tailrace.operator.wish import WantedTunnel
from tailrace.wire import Side


class Way:
    """An opening and what it tells."""

    def __init__(self, client: Client, ledger: Path) -> None:
        self.client = client
        self.ledger = ledger
        self.states: list[HolderState] = []
        self.events: list[object] = []
        self.opening = Opening(self.states.append, self.events.append)

    def wanted(self, thing: str, **options: object) -> WantedTunnel:
        return WantedTunnel(thing, ("SSH",), self.ledger, timeout=HANG, **options)

    async def until(self, phase: Phase) -> HolderState:
        await until(lambda: self.opening.state.phase is phase)
        return self.opening.state

    def phases(self) -> list[Phase]:
        """Return the phases in their order, each once in a row."""
        found: list[Phase] = []
        for state in self.states:
            found += [state.phase] if found[-1:] != [state.phase] else []
        return found


@pytest.fixture
async def way(
    service: ServiceProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Way]:
    monkeypatch.setenv("AWSIOT_TUNNEL_ENDPOINT", service.endpoints.data_endpoint)
    async with service_client(service) as client:
        yield Way(client, tmp_path / "opened")


async def test_a_device_that_goes_and_comes_back(service: ServiceProcess, way: Way) -> None:
    async with device_of(service, way.client, "opening-back", "SSH"):
        entering = way.opening.tunnel(way.client, way.wanted("opening-back"))
        tunnel = await entering.__aenter__()
    gone = await way.until(Phase.WAITING)
    assert gone.cause == "the device has disconnected"
    async with device_of(service, way.client, "opening-back", "SSH"):
        back = await way.until(Phase.READY)
        assert (back.cause, back.origin, back.tunnel_id) == ("", Origin.OPENED, tunnel.tunnel_id)
        _, writer = await tunnel.open_connection("SSH")
        await until(lambda: any(isinstance(each, ConnectionOpened) for each in way.events))
        writer.close()
        way.opening.closing()
        await entering.__aexit__(None, None, None)
    assert way.phases() == [
        *(Phase.CONNECTING, Phase.WAITING, Phase.READY),
        *(Phase.WAITING, Phase.READY, Phase.CLOSING),
    ]
    assert way.opening.outcome() == f"tunnel {tunnel.tunnel_id[:4]}… closed"
    assert list(way.ledger.iterdir()) == []


async def test_a_link_that_is_lost(service: ServiceProcess, way: Way) -> None:
    """As the events tell it; tests/e2e/test_connect.py really loses one."""
    lost = Reconnecting(LinkError("reset"), 3.0)
    joined = PeerJoined(Side.DESTINATION)
    async with device_of(service, way.client, "opening-lost", "SSH"):
        entering = way.opening.tunnel(way.client, way.wanted("opening-lost"))
        tunnel = await entering.__aenter__()
        assert way.opening.state.phase is Phase.READY
        earliest = time.monotonic()
        way.opening._follow(lost, tunnel)
        assert way.opening.state.phase is Phase.RECONNECTING
        assert way.opening.state.cause == "reset"
        assert not way.opening.state.retry_at <= earliest
        way.opening._follow(joined, tunnel)
        assert (way.opening.state.phase, way.opening.state.cause) == (Phase.READY, "")
    await way.until(Phase.WAITING)
    way.opening._follow(lost, tunnel)
    way.opening._follow(ServicesMapped({}), tunnel)
    assert way.opening.state.phase is Phase.WAITING
    assert way.opening.state.cause == "the device was lost"
    await entering.__aexit__(None, None, None)
    # Once it has ended, there is no link to wait for.
    way.opening._follow(lost, tunnel)
    way.opening._follow(ServicesMapped({}), tunnel)
    assert way.opening.state.phase is Phase.RECONNECTING


async def test_a_device_that_makes_nothing_of_a_connection(
    service: ServiceProcess, way: Way
) -> None:
    """Why is known until the next one is made."""
    async with (
        device_of(service, way.client, "opening-refused", "SSH", serves=free_port()),
        way.opening.tunnel(way.client, way.wanted("opening-refused")) as tunnel,
    ):
        reader, writer = await tunnel.open_connection("SSH")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await until(lambda: way.opening.state.refusal != "")
        assert "the destination could not reach" in way.opening.state.refusal
        way.opening._follow(ConnectionOpened("SSH", 2, ""), tunnel)
        assert way.opening.state.refusal == ""
        writer.close()


async def test_connections_that_wait_are_counted_as_long_as_they_do(
    service: ServiceProcess, way: Way
) -> None:
    async with device_of(service, way.client, "opening-paused", "SSH"):
        async with way.opening.tunnel(way.client, way.wanted("opening-paused")) as tunnel:
            reader, writer = await tunnel.open_connection("SSH")
            await check_echo((reader, writer), b"before")
            link = tunnel._proxy._uplink.link
            assert link is not None
            link.abort()
            await until(lambda: way.opening.state.waiting == 1)
            await until(lambda: way.opening.state.waiting == 0)
            await check_echo((reader, writer), b"after")
            writer.close()
    told = [type(event) for event in way.events]
    assert told.index(TunnelPaused) < told.index(TunnelResumed)
    assert ConnectionCut not in told


async def test_what_is_known_of_a_device_that_does_not_come(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HINT_AFTER", 0.5)
    await way.client.open(thing="lamp-17", services=["SSH"])

    async def reach() -> None:
        async with way.opening.tunnel(way.client, way.wanted("lmp-17")):
            raise AssertionError("there is no device")

    reaching = asyncio.get_running_loop().create_task(reach())
    await until(lambda: way.opening.state.hint)
    assert way.opening.state.hint == "no earlier tunnel to it; did you mean lamp-17?"
    reaching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reaching


async def test_another_command_was_quicker(
    service: ServiceProcess, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await way.client.open(thing="contested", services=["SSH"])
    rotate = way.client.rotate

    async def rotate_and_lose(tunnel_id: str, side: Side | None = None) -> RotatedTokens:
        rotated = await rotate(tunnel_id, side)
        if side is Side.SOURCE:
            await rotate(tunnel_id, side)
        return rotated

    monkeypatch.setattr(way.client, "rotate", rotate_and_lose)
    async with device_of(service, way.client, "contested", "SSH"):
        while not (await way.client.describe(opened.tunnel_id)).destination.is_connected:
            pass
        # One that was named is not exchanged for another one.
        wanted = way.wanted("contested", tunnel_id=opened.tunnel_id)
        with pytest.raises(AccessRefused):
            async with way.opening.tunnel(way.client, wanted):
                raise AssertionError("its token was rotated")

        # Of a tunnel that was found, another one is opened in its place.
        other = Way(way.client, way.ledger)

        async def reach() -> None:
            async with other.opening.tunnel(way.client, way.wanted("contested")):
                raise AssertionError("its device has the other tunnel")

        reaching = asyncio.get_running_loop().create_task(reach())
        await until(lambda: other.opening.state.origin is Origin.OPENED)
        assert any(state.origin is Origin.TAKEN for state in other.states)
        reaching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reaching
    await way.client.close(opened.tunnel_id)


async def test_what_a_killed_command_has_left(service: ServiceProcess, way: Way) -> None:
    left = await way.client.open(
        thing="opening-left", services=["SSH"], description="of a killed one"
    )
    entry = LedgerEntry(way.ledger, way.client, "opening-left", "of a killed one")
    entry.opened(left.tunnel_id)
    entry.leave()
    async with device_of(service, way.client, "opening-left-2", "SSH"):
        async with way.opening.tunnel(way.client, way.wanted("opening-left-2", new=True)):
            pass
    (note,) = way.opening.state.notes
    assert note.startswith(f"closed tunnel {left.tunnel_id} to opening-left")
    assert (await way.client.describe(left.tunnel_id)).state is TunnelState.CLOSED


async def test_a_tunnel_that_is_to_stay_open(service: ServiceProcess, way: Way) -> None:
    async with device_of(service, way.client, "opening-stays", "SSH"):
        wanted = way.wanted("opening-stays", new=True, keep=True)
        async with way.opening.tunnel(way.client, wanted) as tunnel:
            assert list(way.ledger.iterdir()) == []
            way.opening.closing()
            assert way.opening.state.phase is Phase.READY
    assert way.opening.outcome() == f"tunnel {tunnel.tunnel_id[:4]}… stays open"
    await way.client.close(tunnel.tunnel_id)


async def test_a_source_token(service: ServiceProcess, way: Way) -> None:
    opened = await way.client.open(thing="opening-token", services=["SSH"])
    async with device_of(service, way.client, "opening-token", "SSH"):
        source = Tunnel.source(opened.source_token)
        async with way.opening.tunnel_of_token(source, HANG):
            assert way.opening.state.origin is Origin.GIVEN
            assert way.opening.state.phase is Phase.READY
    assert way.phases() == [Phase.CONNECTING, Phase.WAITING, Phase.READY]
    assert way.opening.outcome() == "ended; the tunnel stays open"
    await way.client.close(opened.tunnel_id)
