"""What ``tailrace.connect`` asks of the service, and that it leaves nothing open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import pytest

from support.network.applications import check_echo, echo
from support.service.process import ServiceProcess
from support.service.scripted_client import BUSY, FREE, ScriptedClient, tunnel
from support.waiting import HANG, until
from tailrace.aws import (
    Client,
    Credentials,
    Secret,
    TunnelState,
)
from tailrace.errors import (
    AccessRefused,
    CallRefused,
    ConfigurationError,
    ControlError,
    ResponseLost,
    TimedOut,
    TunnelNotFound,
)
from tailrace.library import SourceTunnel, Tunnel, connect
from tailrace.library.connector import ConnectObserver, connect_observed
from tailrace.wire import Side

NOWHERE = "127.0.0.1:1"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWSIOT_TUNNEL_ENDPOINT", "AWSIOT_TUNNEL_REGION"):
        monkeypatch.delenv(name, raising=False)


async def enter(client: Client, **options: Any) -> None:
    options = {"thing": "t", "services": ["SSH"], "endpoint": NOWHERE} | options
    async with connect(client=client, **options):
        raise AssertionError("nobody is there")


# -- cleanup ------------------------------------------------------------------------------------


async def test_a_tunnel_is_closed_that_cannot_be_entered():
    client = ScriptedClient()
    with pytest.raises(TimedOut):
        await enter(client, timeout=0.01, keep=True)
    assert client.calls == ["open SSH", "close new"]


@pytest.mark.parametrize("name", ["open", "close", "list", "describe", "rotate"])
async def test_a_call_that_is_cancelled_leaves_no_tunnel(name: str):
    client = ScriptedClient(tunnel("busy", source=BUSY), tunnel("free"))
    options: dict[str, Any] = {"timeout": 0.01 if name == "close" else None}
    options["reuse"] = name not in ("open", "close")
    gate = client.gates[name] = asyncio.Event()
    entering = asyncio.get_running_loop().create_task(enter(client, **options))
    await until(lambda: any(call.startswith(name) for call in client.calls), name)
    entering.cancel()
    await asyncio.sleep(0)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await entering
    closed = [] if options["reuse"] else ["close new"]
    assert [call for call in client.calls if call.startswith("close")] == closed


async def test_cancelled_while_it_connects_or_waits():
    client = ScriptedClient()
    entering = asyncio.get_running_loop().create_task(enter(client, timeout=None))
    await until(lambda: client.calls, "the call")
    for _ in range(5):
        await asyncio.sleep(0)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert client.calls == ["open SSH", "close new"]


async def test_a_tunnel_whose_id_was_lost_is_found_and_closed():
    client = ScriptedClient(tunnel("other"))
    client.faults["open"] = ResponseLost("", "lost")
    with pytest.raises(ResponseLost):
        await enter(client)
    assert client.calls == ["open SSH", "list", "close new"]


@pytest.mark.parametrize("fault", [None, ControlError("", "down")])
async def test_a_tunnel_whose_id_was_lost_and_that_is_not_found(fault: Exception | None):
    client = ScriptedClient()
    client.faults["open"] = ResponseLost("", "lost")
    if fault is not None:
        client.faults["list"] = fault
    else:
        client.gates["open"] = asyncio.Event()
    entering = asyncio.get_running_loop().create_task(enter(client))
    await until(lambda: client.calls, "the call")
    client.tunnels.clear()
    for gate in client.gates.values():
        gate.set()
    with pytest.raises(ResponseLost) as caught:
        await entering
    assert "a tunnel may be open; its description is 'tailrace.connect" in caught.value.__notes__[0]
    assert client.calls == ["open SSH", "list"]


async def test_a_call_that_is_refused_closes_nothing():
    client = ScriptedClient()
    client.faults["open"] = CallRefused("c", "no")
    with pytest.raises(CallRefused):
        await enter(client)
    assert client.calls == ["open SSH"]


async def test_a_tunnel_that_cannot_be_closed_is_named(caplog: pytest.LogCaptureFixture):
    client = ScriptedClient()
    client.faults["close"] = ControlError("", "down")
    with caplog.at_level(logging.DEBUG), pytest.raises(TimedOut) as caught:
        await enter(client, timeout=0.01)
    note = "the tunnel new may still be open: down"
    assert note in caught.value.__notes__
    assert note in caplog.messages
    assert "s3cret" not in caplog.text
    client.faults["close"] = TunnelNotFound("", "gone")
    with pytest.raises(TimedOut) as caught:
        await enter(client, timeout=0.01)
    assert not any("still be open" in each for each in caught.value.__notes__)


# -- which tunnel -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "unfit",
    [
        {"state": TunnelState.CLOSED},
        {"source": BUSY},
        {"destination": FREE},
        {"services": ("WEB",)},
    ],
)
async def test_a_tunnel_that_does_not_fit_is_not_reused(unfit: dict[str, Any]):
    client = ScriptedClient(tunnel("unfit", **unfit))
    with pytest.raises(TimedOut):
        await enter(client, reuse=True, timeout=0.01)
    calls = [call for call in client.calls if call != "describe unfit"]
    assert calls == ["list", "open SSH", "close new"]


async def test_a_tunnel_that_has_gone_meanwhile_is_not_reused():
    client = ScriptedClient(tunnel("gone"))
    client.faults["rotate"] = TunnelNotFound("", "gone")
    with pytest.raises(TimedOut):
        await enter(client, reuse=True, timeout=0.01)
    assert client.calls == ["list", "describe gone", "rotate gone", "open SSH", "close new"]


async def test_a_tunnel_that_is_taken_stays_open():
    client = ScriptedClient(tunnel("free"))
    with pytest.raises(TimedOut):
        await enter(client, reuse=True, timeout=0.01)
    assert client.calls == ["list", "describe free", "rotate free"]
    client.calls.clear()
    with pytest.raises(TimedOut):
        await enter(client, thing=None, services=(), tunnel_id="mine", timeout=0.01)
    assert client.calls == ["rotate mine"]


async def test_a_tunnel_that_its_opener_will_close_is_not_reused():
    client = ScriptedClient(
        tunnel("owned", description="tailrace.connect 1"),
        tunnel("kept", description="tailrace.connect, kept 1"),
    )
    with pytest.raises(TimedOut):
        await enter(client, reuse=True, timeout=0.01)
    assert client.calls == ["list", "describe kept", "rotate kept"]


async def test_an_observer_is_told_in_order():
    told: list[str] = []

    class Observer(ConnectObserver):
        def opening(self, description: str) -> None:
            told.append(description.rpartition(" ")[0])

        def opened(self, tunnel_id: str) -> None:
            told.append(f"opened {tunnel_id}")

        def taken(self, tunnel_id: str) -> None:
            told.append(f"taken {tunnel_id}")

        def entering(self, source: SourceTunnel) -> None:
            told.append(f"entering {source.tunnel_id}")

        def closed(self, tunnel_id: str) -> None:
            told.append(f"closed {tunnel_id}")

    client = ScriptedClient(tunnel("free"))
    options: dict[str, Any] = {"client": client, "endpoint": NOWHERE, "timeout": 0.01}
    for keep in (False, True):
        with pytest.raises(TimedOut):
            async with connect_observed(Observer(), "t", services=["SSH"], keep=keep, **options):
                raise AssertionError("nobody is there")
    with pytest.raises(TimedOut):
        async with connect_observed(Observer(), tunnel_id="free", **options):
            raise AssertionError("nobody is there")
    opened = ["opened new", "entering new", "closed new"]
    assert told == [
        *("tailrace.connect", *opened),
        *("tailrace.connect, kept", *opened),
        *("taken free", "entering free"),
    ]


# -- arguments ----------------------------------------------------------------------------------


def test_what_is_no_client_is_not_asked_to_open_a_tunnel():
    client: Any = object()
    with pytest.raises(ConfigurationError, match=r"is no tailrace\.Client"):
        connect("pump-7", services=["SSH"], client=client)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"thing": None}, "give either a thing or tunnel_id="),
        ({"tunnel_id": "i"}, "give either a thing or tunnel_id="),
        ({"services": ()}, "a thing needs services="),
        ({"services": "SSH"}, r"give a list, \['SSH'\]"),
        ({"thing": None, "tunnel_id": "i", "services": (), "reuse": True}, "leave out"),
        ({"client_token": Secret("short")}, "client_token= is not"),
        ({"endpoint": None}, "which service has the tunnel"),
        ({"resume_timeout": -1}, "resume_timeout=-1 is not 0 to 86400 seconds"),
        ({"timeout": "30"}, "timeout='30' is not a number of seconds"),
    ],
)
async def test_what_cannot_be_is_said_before_a_tunnel_is_opened(
    options: dict[str, Any], sentence: str
):
    client = ScriptedClient()
    with pytest.raises(ConfigurationError, match=sentence):
        await enter(client, **options)
    assert client.calls == []


async def test_a_client_of_its_own_is_closed(monkeypatch: pytest.MonkeyPatch):
    client = ScriptedClient()
    monkeypatch.setitem(connect.__globals__, "Client", lambda: client)
    with pytest.raises(TimedOut):
        async with connect("t", services=["SSH"], endpoint=NOWHERE, timeout=0.01):
            raise AssertionError("nobody is there")
    assert client.calls == ["open SSH", "close new", "aclose"]


async def test_the_region_is_that_of_a_client_of_aws():
    client = ScriptedClient()
    client.endpoint = "https://api.tunneling.iot.eu-west-1.amazonaws.com"
    client.faults["open"] = CallRefused("c", "asked")
    with pytest.raises(CallRefused, match="asked"):
        await enter(client, endpoint=None)


# -- with a service -----------------------------------------------------------------------------


@asynccontextmanager
async def client_of(service: ServiceProcess) -> AsyncIterator[Client]:
    at = service.endpoints
    key = Credentials(at.access_key_id, Secret(at.secret_access_key))
    async with Client(
        region=at.region, endpoint=at.api_endpoint, credentials=key, ca=at.ca_file
    ) as client:
        yield client


async def test_a_device_that_does_not_come(service: ServiceProcess):
    async with client_of(service) as client:
        with pytest.raises(TimedOut, match="the device has not connected") as caught:
            async with connect(
                "absent",
                services=["SSH"],
                client=client,
                timeout=3,
                endpoint=service.endpoints.data_endpoint,
            ):
                raise AssertionError("there is no device")
        assert "Check that the device is online" in caught.value.advice
        assert [each.state async for each in client.list(thing="absent")] == [TunnelState.CLOSED]


async def test_cancelled_while_it_waits_for_the_device(service: ServiceProcess):
    async with client_of(service) as client:

        async def waits() -> None:
            async with connect(
                "waiting",
                services=["SSH"],
                client=client,
                timeout=None,
                endpoint=service.endpoints.data_endpoint,
            ):
                raise AssertionError("there is no device")

        entering = asyncio.get_running_loop().create_task(waits())
        is_connected = False
        async with asyncio.timeout(HANG):
            while not is_connected:
                async for each in client.list(thing="waiting"):
                    is_connected = (await client.describe(each.tunnel_id)).source.is_connected
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        assert [each.state async for each in client.list(thing="waiting")] == [TunnelState.CLOSED]


@asynccontextmanager
async def device_of(service: ServiceProcess, client: Client, thing: str) -> AsyncIterator[None]:
    """A device that connects to the first tunnel of its thing."""

    async def serve() -> None:
        token: Secret | None = None
        while token is None:
            async for each in client.list(thing=thing):
                token = (await client.rotate(each.tunnel_id, Side.DESTINATION)).destination_token
        place = service.endpoints.data_endpoint
        async with Tunnel.destination(token, {"SSH": echo}, endpoint=place) as far:
            await far.wait_closed()

    serving = asyncio.get_running_loop().create_task(serve())
    try:
        yield
    finally:
        serving.cancel()
        await asyncio.wait([serving])


@pytest.mark.parametrize("end", ["keep", "raise", "unclosed"])
async def test_the_end_of_the_block(
    service: ServiceProcess, monkeypatch: pytest.MonkeyPatch, end: str
):
    thing = f"end-{end}"
    async with client_of(service) as client, device_of(service, client, thing):

        async def fails(tunnel_id: str, *, delete: bool = False) -> None:
            raise ControlError("", "down")

        if end == "unclosed":
            monkeypatch.setattr(client, "close", fails)
        expected = {"keep": None, "raise": ZeroDivisionError, "unclosed": ControlError}[end]
        with pytest.raises(expected) if expected else nullcontext() as caught:
            async with connect(
                thing,
                services=["SSH"],
                client=client,
                keep=end == "keep",
                timeout=HANG,
                endpoint=service.endpoints.data_endpoint,
            ) as source:
                tunnel_id = source.tunnel_id
                if end == "raise":
                    raise ZeroDivisionError
        (left,) = [each async for each in client.list(thing=thing)]
        assert left.tunnel_id == tunnel_id
        assert left.state is (TunnelState.CLOSED if end == "raise" else TunnelState.OPEN)
        if end == "unclosed":
            assert caught is not None
            assert "may still be open: down" in caught.value.__notes__[0]
        monkeypatch.undo()
        await client.close(left.tunnel_id)


async def test_kept_and_reused(service: ServiceProcess, caplog: pytest.LogCaptureFixture):
    place = service.endpoints.data_endpoint
    async with client_of(service) as client:
        opened = await client.open(thing="reused", services=["SSH"])
        token = opened.destination_token
        secret = Secret("0123456789abcdef-0123456789abcdef")
        options: dict[str, Any] = {"client": client, "endpoint": place, "timeout": HANG}
        with caplog.at_level(logging.DEBUG):
            async with Tunnel.destination(
                token, {"SSH": echo}, endpoint=place, client_token=secret, timeout=HANG
            ):
                for which in (
                    {"thing": "reused", "services": ["SSH"], "reuse": True},
                    {"tunnel_id": opened.tunnel_id},
                ):
                    async with connect(**which, **options, client_token=secret) as source:
                        assert source.client_token == secret.reveal()
                        assert source.tunnel_id == opened.tunnel_id
                        streams = await source.open_connection("SSH")
                        await check_echo(streams, b"hello")
                        streams[1].close()
        states = {each.tunnel_id: each.state async for each in client.list(thing="reused")}
        assert states == {opened.tunnel_id: TunnelState.OPEN}
        assert secret.reveal() not in caplog.text
        assert token.reveal() not in caplog.text
        await client.close(opened.tunnel_id)
        with pytest.raises(AccessRefused):
            async with Tunnel.source(opened.source_token, endpoint=place):
                raise AssertionError("it is closed")
