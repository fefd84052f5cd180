from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from support.network.applications import application, check_echo, echo
from support.service.process import ServiceProcess
from support.tunnel import Tunnel as OpenTunnel
from support.tunnel import disguise, tunnel_of
from support.waiting import HANG, until
from tailrace.common.addresses import TCPAddress
from tailrace.errors import ConfigurationError, ServiceIdMismatch
from tailrace.flow.receive_buffers import CONNECTION_HIGH, ReceiveBuffers
from tailrace.library import (
    Application,
    ConnectionCut,
    ConnectionRefused,
    DestinationTunnel,
    ServiceMap,
    ServiceRule,
    ServicesMapped,
    SourceTunnel,
    Tunnel,
)
from tailrace.localproxy.routes import Refusal, Route
from tailrace.wire import Side

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter

# -- rules ----------------------------------------------------------------------------------------


def test_the_most_specific_rule_wins():
    services = ServiceMap({"*": 1, "PLC-*": 2, "PLC-1*": 3, "PLC-10": 4, "SSH": 5})
    targets = {"SSH": 5, "PLC-10": 4, "PLC-11": 3, "PLC-2": 2, "PLC-": 2, "PLC": 1, "": 1}
    found = {service_id: services.find(service_id) for service_id in targets}
    assert found == {name: ServiceRule(target) for name, target in targets.items()}
    assert ServiceMap({"SSH": 1, "A*": 2}).find("") is None
    assert ServiceMap({}).find("SSH") is None


def test_rules_are_shown_and_do_not_change():
    services = ServiceMap({"SSH": 22, "WEB": ServiceRule("h:80", max_connections=2)})
    rules = services.rules
    assert rules == {"SSH": ServiceRule(22), "WEB": ServiceRule("h:80", max_connections=2)}
    services.replace({**rules, "SSH": 2222})
    assert rules["SSH"] == ServiceRule(22)
    assert services.rules["SSH"] == ServiceRule(2222)
    assert repr(services) == "<ServiceMap of SSH, WEB>"
    assert repr(ServiceMap({})) == "<ServiceMap of nothing>"


def test_what_comes_without_what_serves_it_is_no_map():
    services: Any = ["SSH"]
    with pytest.raises(ConfigurationError, match="services are a dictionary"):
        ServiceMap(services)


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        ({"A B": 1}, "Service ID must contain only"),
        ({"A**": 1}, "Service ID must contain only"),
        ({"*A": 1}, "Service ID must contain only"),
        ({"": 1}, "Service ID must contain only"),
        ({"A": 0}, "port 0 is not in 1..65535"),
        ({"A": "h"}, "has no port"),
    ],
)
def test_rules_that_are_not_valid_change_nothing(rules: dict[str, Any], sentence: str):
    services = ServiceMap({"SSH": 22})
    with pytest.raises(ConfigurationError, match=sentence):
        services.replace({"SSH": 1, **rules})
    assert services.rules == {"SSH": ServiceRule(22)}
    with pytest.raises(ConfigurationError, match=sentence):
        ServiceMap(rules)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"target": "h"}, "'h' has no port"),
        ({"allow": []}, "allow= is a list of networks or addresses, at least one"),
        ({"allow": "10.0.0.0/8"}, "allow= is a list"),
        ({"allow": ["10.0.0.1/8"]}, "allow='10.0.0.1/8' is not a network or an address"),
        ({"allow": ["localhost"]}, "allow='localhost' is not a network"),
        ({"target": 22, "allow": ["10.0.0.0/8"]}, "allow= does not have the target 22"),
        ({"target": "[::1]:2", "allow": ["fd00::/8"]}, "does not have the target [::1]:2"),
        ({"target": "/run/x", "allow": ["10.0.0.0/8"]}, "allow= is for targets with a host"),
        ({"target": echo, "allow": ["10.0.0.0/8"]}, "allow= is for targets with a host"),
        ({"max_connections": 0}, "max_connections=0 is less than 1"),
        ({"bandwidth": 999}, "bandwidth=999 is less than 1000 bytes a second"),
    ],
)
def test_what_is_no_rule(arguments: dict[str, Any], sentence: str):
    with pytest.raises(ConfigurationError) as caught:
        ServiceRule(**({"target": "h:1"} | arguments))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_target_that_its_rule_allows():
    assert ServiceRule("10.1.2.3:80", allow=["10.0.0.0/8"]).allow == ("10.0.0.0/8",)
    assert ServiceRule(22, allow=["127.0.0.1"]).target == 22
    assert ServiceRule("camera.local:80", allow=["10.0.0.0/8", "fd00::1"]).bandwidth is None


def taken(services: ServiceMap, service_id: str) -> Route:
    route = services.route(service_id)
    assert isinstance(route, Route)
    return route


def end(route: Route) -> None:
    assert route.ended is not None
    route.ended()


def test_connections_are_counted_by_rule_and_over_changes():
    services = ServiceMap({"A*": ServiceRule(1, max_connections=2), "B": 2})
    first, second = taken(services, "A1"), taken(services, "A2")
    reason = "the limit of 2 connections for A* is reached"
    assert services.route("A3") == Refusal(reason, f"{reason} at the destination")
    taken(services, "B")
    end(first)
    third = taken(services, "A3")
    assert third.service == TCPAddress("", 1)
    services.replace({"A*": ServiceRule(7, max_connections=3), "B": ServiceRule(2)})
    assert taken(services, "A1").service == TCPAddress("", 7)
    assert isinstance(services.route("A1"), Refusal)
    end(second)
    end(third)
    taken(services, "A1")
    services.replace({"B": ServiceRule(2, max_connections=1)})
    assert isinstance(services.route("B"), Refusal), "the one from before counts"
    assert services.route("A1") is None


def test_a_bandwidth_that_stays_the_same_stays_shared():
    services = ServiceMap(
        {"A": ServiceRule(1, bandwidth=5000), "B": ServiceRule(1, bandwidth=5000)}
    )
    first = taken(services, "A").bandwidth
    assert first is taken(services, "A").bandwidth is not None
    assert first is not taken(services, "B").bandwidth
    services.replace({"A": ServiceRule(2, bandwidth=5000)})
    assert taken(services, "A").bandwidth is first
    services.replace({"A": ServiceRule(2, bandwidth=6000)})
    changed = taken(services, "A").bandwidth
    assert changed is not None
    assert changed.rate == 6000
    services.replace({"A": 2})
    assert taken(services, "A").bandwidth is None


# -- tunnels --------------------------------------------------------------------------------------


def near(tunnel: OpenTunnel) -> SourceTunnel:
    token = tunnel.tokens[Side.SOURCE]
    return Tunnel.source(token, endpoint=tunnel.endpoints.data_endpoint, timeout=HANG)


def far(tunnel: OpenTunnel, services: ServiceMap) -> DestinationTunnel:
    token = tunnel.tokens[Side.DESTINATION]
    endpoint = tunnel.endpoints.data_endpoint
    return Tunnel.destination(token, services, endpoint=endpoint, timeout=HANG)


@asynccontextmanager
async def both(
    service: ServiceProcess, services: ServiceMap, *service_ids: str
) -> AsyncIterator[tuple[SourceTunnel, DestinationTunnel]]:
    """Both ends of a tunnel, which know of each other."""
    with tunnel_of(service, *service_ids) as tunnel:
        async with far(tunnel, services) as destination, near(tunnel) as source:
            await source.wait_peer(timeout=HANG)
            await destination.wait_peer(timeout=HANG)
            yield source, destination


async def refused(source: SourceTunnel, service_id: str) -> str:
    """Return the reason that a source hears of a connection that is refused."""
    events = source.events()
    reader, writer = await source.open_connection(service_id)
    async with asyncio.timeout(HANG):
        with pytest.raises(ConnectionResetError) as raised:
            await reader.read()
        async for event in events:
            if isinstance(event, ConnectionCut):
                writer.close()
                assert str(raised.value).endswith(f": {event.reason}")
                return event.reason
    raise AssertionError("the tunnel has ended")


async def test_what_is_mapped_is_served_and_the_rest_refused_with_the_reason(
    service: ServiceProcess, caplog: pytest.LogCaptureFixture
):
    services = ServiceMap({"SSH": echo})
    async with both(service, services, "SSH", "NOPE") as (source, destination):
        events = destination.events()
        streams = await source.open_connection("SSH")
        for _ in range(2):
            assert await refused(source, "NOPE") == "the destination has no service 'NOPE'"
        await check_echo(streams, b"hello")
        streams[1].close()
    seen = [event async for event in events if isinstance(event, ConnectionRefused)]
    assert [(event.service_id, event.reason) for event in seen] == [("NOPE", "not mapped")] * 2
    assert caplog.text.count("Service 'NOPE' of the tunnel is not mapped") == 1


async def test_a_change_is_for_new_connections(service: ServiceProcess):
    async def shout(reader: Reader, writer: Writer) -> None:
        writer.write((await reader.readline()).upper())

    services = ServiceMap({"A": echo})
    async with both(service, services, "A", "B") as (source, destination):
        before = await source.open_connection("A")
        await check_echo(before, b"hello")
        services.replace({"A": shout, "B": echo})
        after = await source.open_connection("A")
        after[1].write(b"hello\n")
        assert await after[0].read() == b"HELLO\n"
        after[1].close()
        added = await source.open_connection("B")
        await check_echo(added, b"hello")
        services.replace({})
        assert await refused(source, "A") == "the destination has no service 'A'"
        await check_echo(before, b"still here")
        await check_echo(added, b"still here")
        await until(lambda: len(destination.status().connections) == 2, "the end of the other")
        before[1].close()
        added[1].close()


async def test_a_tunnel_none_of_whose_services_is_mapped(service: ServiceProcess):
    with tunnel_of(service, "A", "B") as tunnel:
        with pytest.raises(ServiceIdMismatch) as caught:
            async with far(tunnel, ServiceMap({"SSH": 22})):
                raise AssertionError
        assert caught.value.advice == "Give an address or a handler for each of A, B"


async def test_a_tunnel_without_services_takes_the_rule_for_all(service: ServiceProcess):
    async with both(service, ServiceMap({"*": echo, "SSH": 22})) as (source, _):
        assert source.status().service_ids == ("",)
        streams = await source.open_connection("")
        await check_echo(streams, b"hello")
        streams[1].close()


async def test_the_services_that_are_told_are_those_that_are_served(service: ServiceProcess):
    services = ServiceMap({"SSH": 22, "WEB": "camera.local:80"})
    with tunnel_of(service, "SSH", "NOPE", "WEB") as tunnel:
        destination = far(tunnel, services)
        events = destination.events()
        async with destination:
            async for event in events:
                if isinstance(event, ServicesMapped):
                    break
        assert event.services == {
            "SSH": TCPAddress("", 22),
            "WEB": TCPAddress("camera.local", 80),
        }


async def test_connections_are_limited_over_all_tunnels(service: ServiceProcess):
    services = ServiceMap({"SSH": ServiceRule(echo, max_connections=2)})
    async with (
        both(service, services, "SSH") as (one, _),
        both(service, services, "SSH") as (two, _),
    ):
        first = await one.open_connection("SSH")
        second = await two.open_connection("SSH")
        for streams in (first, second):
            await check_echo(streams, b"hello")
        assert await refused(two, "SSH") == (
            "the limit of 2 connections for SSH is reached at the destination"
        )
        first[1].close()
        await until(lambda: services._connections["SSH"] == 1, "the end of a connection")
        third = await two.open_connection("SSH")
        await check_echo(third, b"hello")
        for streams in (second, third):
            streams[1].close()
    assert not services._connections


async def test_a_name_that_resolves_elsewhere_is_not_connected_to(service: ServiceProcess):
    async with application(echo) as address:
        assert isinstance(address, TCPAddress)
        target = TCPAddress("localhost", address.port)
        services = ServiceMap(
            {
                "GOOD": ServiceRule(target, allow=["127.0.0.0/8"]),
                "BAD": ServiceRule(target, allow=["10.0.0.0/8"]),
            }
        )
        async with both(service, services, "GOOD", "BAD") as (source, _):
            streams = await source.open_connection("GOOD")
            await check_echo(streams, b"hello")
            streams[1].close()
            assert await refused(source, "BAD") == (
                f"the destination could not reach localhost:{address.port} "
                "(not in the networks that the rule of the service allows)"
            )


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


RATE = 1_000_000


async def test_a_cap_is_shared_and_nothing_is_lost_in_either_direction(
    service: ServiceProcess, loop_kind: str
):
    """Four connections of two tunnels move more than the cap lets through at once."""
    sizes = [150_000, 250_000]
    sums: dict[str, str] = {}

    async def sink(reader: Reader, writer: Writer) -> None:
        name = (await reader.readline()).decode()
        sums[name] = hashlib.sha256(await reader.read()).hexdigest()

    async def origin(reader: Reader, writer: Writer) -> None:
        size = int(await reader.readline())
        writer.write(noise(size))
        await writer.drain()

    async def upload(source: SourceTunnel, size: int) -> None:
        _, writer = await source.open_connection("UP")
        writer.write(b"%d\n" % size + noise(size))
        await writer.drain()
        writer.close()

    async def download(source: SourceTunnel, size: int) -> None:
        reader, writer = await source.open_connection("DOWN")
        writer.write(b"%d\n" % size)
        assert await reader.read() == noise(size)
        writer.close()

    rules: dict[str, Application | ServiceRule] = {
        "UP": ServiceRule(sink, bandwidth=RATE),
        "DOWN": ServiceRule(origin, bandwidth=RATE),
    }
    services = ServiceMap(rules)
    async with (
        both(service, services, "UP", "DOWN") as (one, _),
        both(service, services, "UP", "DOWN") as (two, _),
    ):
        async with asyncio.timeout(HANG), asyncio.TaskGroup() as tasks:
            for source in (one, two):
                for size in sizes:
                    tasks.create_task(upload(source, size + (source is two)))
                    tasks.create_task(download(source, size))
        await until(lambda: len(sums) == 4, "the ends of the uploads")
    expected = [size + more for size in sizes for more in (0, 1)]
    assert sums == {f"{size}\n": hashlib.sha256(noise(size)).hexdigest() for size in expected}


async def test_a_peer_that_cannot_be_asked_to_wait_loses_nothing_either(
    service: ServiceProcess, monkeypatch: pytest.MonkeyPatch
):
    """More waits for the application than the link is read for."""
    data = noise(3_500_000)
    received = asyncio.get_running_loop().create_future()
    waiting: list[int] = []
    added = ReceiveBuffers.added

    def noting(buffers: ReceiveBuffers[Any], *args: Any, **kwargs: Any) -> None:
        added(buffers, *args, **kwargs)
        waiting.append(buffers.total)

    async def sink(reader: Reader, writer: Writer) -> None:
        digest = hashlib.sha256()
        while chunk := await reader.read(65_536):
            digest.update(chunk)
        received.set_result(digest.hexdigest())

    # When it comes: what a reader sees, it has taken some of.
    monkeypatch.setattr(ReceiveBuffers, "added", noting)
    disguise(monkeypatch, Side.SOURCE)
    services = ServiceMap({"UP": ServiceRule(sink, bandwidth=4_000_000)})
    with tunnel_of(service, "UP") as tunnel:
        async with far(tunnel, services), near(tunnel) as source:
            _, writer = await source.open_connection("UP")
            writer.write(data)
            writer.close()
            async with asyncio.timeout(HANG):
                assert await received == hashlib.sha256(data).hexdigest()
    assert max(waiting) > CONNECTION_HIGH
    assert max(waiting) < 2 * CONNECTION_HIGH
