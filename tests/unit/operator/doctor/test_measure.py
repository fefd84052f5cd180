"""Measurements are made through real tunnels of a real service, which are gone afterwards."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from support.network.ports import free_port
from support.service import ServiceProcess
from support.waiting import HANG
from tailrace.aws import Client, TunnelState
from tailrace.checks.findings import Finding, Verdict
from tailrace.errors import ConfigurationError, OpenFailed, TimedOut
from tailrace.library import (
    Application,
    PeerDialectLearned,
    PeerSilent,
    StreamHandler,
    Tunnel,
)
from tailrace.operator.doctor import measure
from tailrace.operator.doctor.measure import LoopMeasurement, Place, ThingMeasurement
from tailrace.operator.doctor.tunnel import TunnelChecks


@pytest.fixture
def place(service: ServiceProcess) -> Place:
    endpoints = service.endpoints
    return Place(endpoints.data_endpoint, Path(endpoints.ca_file), HANG)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transfer tells at once."""
    monkeypatch.setattr(measure, "_ENOUGH", 0.01)


@pytest.mark.usefixtures("quick")
async def test_to_the_service_and_back(client: Client, place: Place) -> None:
    before = [each async for each in client.list()]
    loop = LoopMeasurement(client, place)
    finding = await loop.check_round_trip()
    assert finding.verdict is Verdict.OK
    assert re.match(r"\d+\.\d ms through a tunnel with both ends here", finding.figure)
    finding = await loop.check_throughput()
    assert re.match(r"\d+\.\d MB/s from source to destination, \d+\.\d MB/s back", finding.figure)
    assert [each async for each in client.list()] == before


async def test_nothing_is_told_that_was_not_measured(client: Client, place: Place) -> None:
    assert (await LoopMeasurement(client, place).check_throughput()).verdict is Verdict.SKIPPED


async def test_as_little_as_aws_allows(client: Client, place: Place) -> None:
    loop = LoopMeasurement(client, place)
    loop._rates = 800_000.0, 700_000.0
    assert (await loop.check_throughput()).figure.endswith("AWS passes 0.8 MB/s of a tunnel")


@pytest.mark.parametrize("order", [b"E", b"T", b"G"])
async def test_a_connection_that_is_cut_is_an_error(
    client: Client, place: Place, monkeypatch: pytest.MonkeyPatch, order: bytes
) -> None:
    serve = measure._serve

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readexactly(measure._ORDER.size)
            if head[:1] == order:
                return
            inner = asyncio.StreamReader()
            inner.feed_data(head + await reader.readexactly(1 if head[:1] == b"E" else 4096))
            inner.feed_eof()
            await serve(inner, writer)

    monkeypatch.setattr(measure, "_serve", cut)
    monkeypatch.setattr(measure, "_ENOUGH", 0.0)
    before = [each async for each in client.list()]
    with pytest.raises(OpenFailed, match="was cut"):
        await LoopMeasurement(client, place).check_round_trip()
    assert [each async for each in client.list()] == before


@asynccontextmanager
async def device(
    client: Client, place: Place, application: Application
) -> AsyncIterator[tuple[str, str]]:
    """A thing whose device is connected to an open tunnel; yields its name and the tunnel."""
    thing = f"pump-{uuid4()}"
    opened = await client.open(thing=thing, services=["SSH"])
    async with Tunnel.destination(
        opened.destination_token, {"SSH": application}, endpoint=place.endpoint, timeout=HANG
    ):
        yield thing, opened.tunnel_id


async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-test\r\n")


async def leave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    return


async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def measured(
    client: Client, place: Place, thing: str | None, tunnel_id: str | None
) -> tuple[Finding, Finding]:
    checks = TunnelChecks(client, thing, tunnel_id, [])
    await checks.check_tunnel()
    thing_measurement = ThingMeasurement(client, place, checks, thing, [])
    peer = await thing_measurement.check_peer()
    return peer, await thing_measurement.check_answer()


async def test_the_device_and_its_application(client: Client, place: Place) -> None:
    async with device(client, place, greet) as (thing, tunnel_id):
        peer, answer = await measured(client, place, thing, None)
        assert (await client.describe(tunnel_id)).state is TunnelState.OPEN
    assert peer.verdict is Verdict.OK
    assert "it speaks V3, as far as can be told" in peer.figure
    assert answer.verdict is Verdict.OK
    assert answer.figure.startswith("SSH answered in ")


async def test_a_tunnel_is_taken_as_it_is(client: Client, place: Place) -> None:
    async with device(client, place, greet) as (_, tunnel_id):
        peer, answer = await measured(client, place, None, tunnel_id)
    assert peer.verdict is Verdict.OK
    assert answer.verdict is Verdict.OK


async def test_a_source_is_not_thrown_out(client: Client, place: Place) -> None:
    async with device(client, place, greet) as (_, tunnel_id):
        token = (await client.rotate(tunnel_id)).source_token
        assert token is not None
        async with Tunnel.source(token, endpoint=place.endpoint, timeout=HANG):
            peer, answer = await measured(client, place, None, tunnel_id)
    assert peer.verdict is Verdict.SKIPPED
    assert peer.figure == "a source is connected, and would be disconnected"
    assert answer.verdict is Verdict.SKIPPED


@pytest.mark.parametrize(
    ("handler", "verdict", "text"),
    [
        (None, Verdict.FAILED, "SSH refuses connections"),
        (leave, Verdict.WARNING, "SSH closes connections at once"),
        (say_nothing, Verdict.OK, "SSH accepts connections, and says nothing for 0.1 s"),
    ],
)
async def test_what_an_application_may_do(
    client: Client,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    handler: StreamHandler | None,
    verdict: Verdict,
    text: str,
) -> None:
    monkeypatch.setattr(measure, "_BANNER", 0.1 if handler is say_nothing else HANG)
    async with device(client, place, handler or free_port()) as (thing, _):
        _, answer = await measured(client, place, thing, None)
    assert answer.verdict is verdict, answer
    assert answer.figure.startswith(text)


async def test_a_device_that_does_not_come(client: Client, place: Place) -> None:
    thing = f"pump-{uuid4()}"
    checks = TunnelChecks(client, thing, None, [])
    await checks.check_tunnel()
    soon = Place(place.endpoint, place.ca, 0.3)
    with pytest.raises(TimedOut, match="the device has not connected"):
        await ThingMeasurement(client, soon, checks, thing, ["SSH"]).check_peer()
    states = [each.state async for each in client.list(thing=thing)]
    assert states == [TunnelState.CLOSED]


async def test_which_service(client: Client, place: Place) -> None:
    thing = f"pump-{uuid4()}"
    checks = TunnelChecks(client, thing, None, [])
    with pytest.raises(ConfigurationError, match="--service"):
        await ThingMeasurement(client, place, checks, thing, []).check_peer()


async def test_a_service_that_the_tunnel_does_not_have(client: Client, place: Place) -> None:
    async with device(client, place, greet) as (_, tunnel_id):
        checks = TunnelChecks(client, None, tunnel_id, [])
        await checks.check_tunnel()
        measurement = ThingMeasurement(client, place, checks, None, ["VNC"])
        await measurement.check_peer()
        answer = await measurement.check_answer()
    assert answer.verdict is Verdict.FAILED
    assert isinstance(answer.cause, OpenFailed)


async def test_what_was_learned_of_the_peer() -> None:
    async def events(*them: object) -> AsyncIterator[object]:
        for each in them:
            yield each

    assert await measure._dialect(events("x")) is None
    learned = PeerDialectLearned("V1")
    assert await measure._dialect(events("x", learned)) == learned
    silent = PeerSilent("SSH", 10.0)
    assert measure._peer("it is there", learned, told=True).figure == "it is there; it speaks V1"
    finding = measure._peer("it is there", silent, told=True)
    assert finding.verdict is Verdict.WARNING
    assert finding.fix.endswith("--destination-client-type V1")
    assert measure._peer("x", None, told=False).figure.endswith("; AWS does not tell more")
