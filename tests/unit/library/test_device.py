"""Waiting for a device at a service that, as AWS' does not, does not tell when it connects."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from support.network.applications import check_echo, echo
from support.waiting import HANG, until
from tailrace.aws import Client, TunnelDescription, TunnelState
from tailrace.errors import (
    CallRefused,
    ControlError,
    ControlThrottled,
    CredentialsRefused,
    TimedOut,
    TunnelClosed,
)
from tailrace.library import PeerPresence, SourceTunnel, Tunnel, connect
from tailrace.library.device import _Inquiry, wait_for_device
from tailrace.service.relay import handshake
from tailrace.service.service import Service
from tailrace.wire import NO_CAPABILITIES, Side

_RETRY = "tailrace.library.device._FIRST_PAUSE"


@pytest.fixture
async def service(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """A service that takes our proxies for those of AWS, and sends them nothing of its own."""
    monkeypatch.setattr(handshake, "_read_offer", lambda _: (NO_CAPABILITIES, None))
    for name in ("AWSIOT_TUNNEL_ENDPOINT", "AWSIOT_TUNNEL_REGION"):
        monkeypatch.delenv(name, raising=False)
    async with Service() as running:
        yield running


class Asked:
    """The answers of DescribeTunnel: what the service says, or what a test wants."""

    def __init__(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.faults: list[Exception] = []
        self.changes: dict[str, Any] = {}
        self._describe = client.describe
        monkeypatch.setattr(client, "describe", self)

    async def __call__(self, tunnel_id: str) -> TunnelDescription:
        self.count += 1
        if self.faults:
            raise self.faults.pop(0)
        return replace(await self._describe(tunnel_id), **self.changes)


def connecting(service: Service, client: Client, **options: Any) -> Any:
    place: dict[str, Any] = {
        "endpoint": service.endpoints.data_endpoint,
        "ca": service.endpoints.ca_file,
        "timeout": HANG,
    }
    return connect("t", services=["SSH"], client=client, **(place | options))


@asynccontextmanager
async def device(service: Service, client: Client) -> AsyncIterator[None]:
    """The device of the only tunnel."""
    (found,) = [each async for each in client.list()]
    rotated = await client.rotate(found.tunnel_id, Side.DESTINATION)
    assert rotated.destination_token is not None
    at = service.endpoints
    async with Tunnel.destination(
        rotated.destination_token, {"SSH": echo}, endpoint=at.data_endpoint, ca=at.ca_file
    ):
        yield


@asynccontextmanager
async def entered(service: Service, client: Client) -> AsyncIterator[tuple[SourceTunnel, str]]:
    """A source whose device has not come."""
    opened = await client.open(services=["SSH"])
    at = service.endpoints
    async with Tunnel.source(
        opened.source_token, endpoint=at.data_endpoint, ca=at.ca_file
    ) as tunnel:
        yield tunnel, opened.tunnel_id


async def states(client: Client) -> list[TunnelState]:
    return [each.state async for each in client.list()]


async def test_a_device_that_comes_later(service: Service, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_RETRY, 0.01)
    async with service.client() as client:
        asked = Asked(client, monkeypatch)

        async def use() -> None:
            async with connecting(service, client) as tunnel:
                assert isinstance(tunnel, SourceTunnel)
                assert tunnel.status().peer is PeerPresence.UNTOLD
                assert tunnel.tunnel_id is not None
                found = await client.describe(tunnel.tunnel_id)
                assert found.destination.is_connected
                streams = await tunnel.open_connection("SSH")
                await check_echo(streams, b"hello")
                streams[1].close()

        using = asyncio.get_running_loop().create_task(use())
        await until(lambda: asked.count > 2 or using.done(), "questions")
        assert not using.done()
        async with device(service, client):
            await using
        assert await states(client) == [TunnelState.CLOSED]


async def test_a_device_that_does_not_come(service: Service):
    async with service.client() as client, entered(service, client) as (tunnel, tunnel_id):
        with pytest.raises(TimedOut, match="the device has not connected") as caught:
            await wait_for_device(tunnel, client, tunnel_id, 0.05)
        assert "Check that the device is online" in caught.value.advice
        assert caught.value.__cause__ is None


async def test_questions_become_fewer(monkeypatch: pytest.MonkeyPatch):
    pauses: list[float | None] = []
    limited = asyncio.timeout

    def timeout(seconds: float | None) -> asyncio.Timeout:
        pauses.append(seconds)
        return limited(0)

    class Absent:
        async def describe(self, tunnel_id: str) -> TunnelDescription:
            if len(pauses) == 7:
                raise CallRefused("", "enough")
            raise ControlThrottled("", "too often")

    class Open:
        async def wait_closed(self) -> None:
            await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(asyncio, "timeout", timeout)
    client: Any = Absent()
    tunnel: Any = Open()
    with pytest.raises(CallRefused, match="enough"):
        await _Inquiry(client, "i").until_connected(tunnel)
    assert pauses == [1.0, 1.5, 2.25, 3.375, 5.0, 5.0, 5.0]


async def test_cancelled_while_it_asks(service: Service, monkeypatch: pytest.MonkeyPatch):
    async with service.client() as client:
        asked = Asked(client, monkeypatch)

        async def waits() -> None:
            async with connecting(service, client, timeout=None):
                raise AssertionError("there is no device")

        waiting = asyncio.get_running_loop().create_task(waits())
        await until(lambda: asked.count, "a question")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await states(client) == [TunnelState.CLOSED]


@pytest.mark.parametrize("told_by", ["link", "control API"])
async def test_a_tunnel_that_ends_meanwhile(
    service: Service, monkeypatch: pytest.MonkeyPatch, told_by: str
):
    async with service.client() as client:
        asked = Asked(client, monkeypatch)
        if told_by == "control API":
            asked.changes["state"] = TunnelState.CLOSED

        async def waits() -> None:
            async with connecting(service, client):
                raise AssertionError("there is no device")

        waiting = asyncio.get_running_loop().create_task(waits())
        await until(lambda: asked.count, "a question")
        if told_by == "link":
            (opened,) = [each async for each in client.list()]
            await client.close(opened.tunnel_id)
        with pytest.raises(TunnelClosed, match="ended while its device was waited for") as caught:
            await waiting
        assert caught.value.advice == "Open a new tunnel"


# -- an API that does not tell either -------------------------------------------------------------


async def test_who_may_not_ask_does_not_wait(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    async with service.client() as client:
        asked = Asked(client, monkeypatch)
        asked.faults = [CredentialsRefused("AccessDeniedException", "not authorized")]
        async with connecting(service, client) as tunnel:
            assert not (await client.describe(tunnel.tunnel_id)).destination.is_connected
    (told,) = [each for each in caplog.records if "is not waited for" in each.message]
    assert told.levelno == logging.WARNING
    assert "allow them iot:DescribeTunnel: AccessDeniedException" in told.message


async def test_faults_that_pass_are_told_once(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(_RETRY, 0.001)
    async with service.client() as client:
        asked = Asked(client, monkeypatch)
        asked.faults = [ControlThrottled("ThrottlingException", "slow down")] * 3

        async def use() -> None:
            async with connecting(service, client):
                pass

        using = asyncio.get_running_loop().create_task(use())
        await until(lambda: asked.count > 3, "an answer")
        async with device(service, client):
            await using
    told = [each.message for each in caplog.records if "asking again" in each.message]
    assert len(told) == 1
    assert "ThrottlingException: slow down" in told[0]


async def test_faults_that_stay_are_told_in_the_error(
    service: Service, monkeypatch: pytest.MonkeyPatch
):
    async with service.client() as client, entered(service, client) as (tunnel, tunnel_id):
        down = ControlError("", "no way to the control API")
        Asked(client, monkeypatch).faults = [down]
        with pytest.raises(TimedOut, match="asked in vain: no way to the control API") as caught:
            await wait_for_device(tunnel, client, tunnel_id, 0.05)
        assert caught.value.__cause__ is down


async def test_a_question_that_is_refused_is_an_error(
    service: Service, monkeypatch: pytest.MonkeyPatch
):
    async with service.client() as client:
        Asked(client, monkeypatch).faults = [CallRefused("ValidationException", "no such id")]
        with pytest.raises(CallRefused, match="no such id"):
            async with connecting(service, client):
                raise AssertionError("there is no device")
        assert await states(client) == [TunnelState.CLOSED]
