"""How many tunnels are served, which, and for how long."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from support.network.applications import echo
from support.network.ports import free_port
from support.service.process import ServiceProcess
from support.tunnel import tunnel_of
from support.tunnel.agent import kept_of, rotated
from support.waiting import until
from tailrace.agent import served_tunnel
from tailrace.agent import tunnels as module
from tailrace.agent.notification import Notification
from tailrace.agent.served_tunnel import DestinationSettings
from tailrace.agent.state import AgentState, KeptTunnel
from tailrace.agent.tunnels import Tunnels
from tailrace.common.secret import Secret
from tailrace.errors import NotificationIgnored
from tailrace.library import ServiceMap


def kept(token: str, **changes: Any) -> KeptTunnel:
    notification = Notification(Secret(token), "us-east-1", ("SSH",), **changes)
    return KeptTunnel(notification, Secret(f"client-token-of-{token:0>32}"), time.time())


class Running:
    """Tunnels, and how often something has changed."""

    def __init__(self, endpoint: str, most: int) -> None:
        self.changes = 0
        self.state = AgentState(None, time.time)
        settings = DestinationSettings(services=ServiceMap({"SSH": echo}), endpoint=endpoint)
        self.tunnels = Tunnels(settings, most, self.state, time.time, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def start(self, each: KeptTunnel) -> KeptTunnel:
        """Start a tunnel as an agent does."""
        admitted = self.tunnels.admit(each)
        self.tunnels.start(admitted)
        return admitted

    def phases(self) -> list[str]:
        return [each.phase for each in self.tunnels.status()]


@asynccontextmanager
async def running(endpoint: str = "", most: int = 20) -> AsyncIterator[Running]:
    found = Running(endpoint or f"127.0.0.1:{free_port()}", most)
    try:
        yield found
    finally:
        await found.tunnels.close()
        assert len(found.phases()) == 0


async def test_there_are_as_many_as_there_may_be() -> None:  # vector 24
    async with running() as found:
        for number in range(20):
            found.start(kept(f"t{number}"))
        for number in range(20, 50):
            with pytest.raises(NotificationIgnored, match="20 tunnels are served, and no more"):
                found.start(kept(f"t{number}"))
        assert len(found.phases()) == 20


async def test_a_rotation_that_is_not_told_comes_beyond_the_cap(  # vector 3, rule 5
    service: ServiceProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tunnel_of(service, "SSH") as opened:
        async with running(opened.endpoints.data_endpoint, most=1) as found:
            found.start(kept_of(opened))
            await until(lambda: found.phases() == ["up"])
            token = await asyncio.to_thread(rotated, opened)
            found.start(kept_of(opened, token))
            # The one before ends by itself.
            await until(lambda: len(found.phases()) == 1 and found.phases() == ["up"])
            assert found.tunnels.status()[0].name == f"#{token.digest[:8]}"


async def test_what_comes_beyond_the_cap_ends_if_nothing_else_does(
    service: ServiceProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_ROTATION", 0.05)
    with tunnel_of(service, "SSH") as opened, tunnel_of(service, "SSH") as other:
        async with running(opened.endpoints.data_endpoint, most=1) as found:
            found.start(kept_of(opened))
            await until(lambda: found.phases() == ["up"])
            # One that tells its id is no rotation of another one.
            with pytest.raises(NotificationIgnored):
                found.tunnels.admit(kept_of(other, tunnel_id=other.tunnel_id))
            extra = found.start(kept_of(other))
            assert len(found.phases()) == 2
            with pytest.raises(NotificationIgnored):
                found.tunnels.admit(kept("third"))
            await until(lambda: len(found.phases()) == 1)
            assert found.tunnels.status()[0].name != extra.label
    assert f"tunnel {extra.label}: ended: 1 tunnels are served" in caplog.text


async def test_a_rotation_that_is_told_is_no_other_tunnel(service: ServiceProcess) -> None:
    with tunnel_of(service, "SSH") as opened:
        tunnel_id = opened.tunnel_id
        async with running(opened.endpoints.data_endpoint, most=1) as found:
            first = found.start(kept_of(opened, tunnel_id=tunnel_id))
            await until(lambda: found.phases() == ["up"])
            token = await asyncio.to_thread(rotated, opened)
            await until(lambda: found.phases() == ["waiting"])
            fresh = kept("x", tunnel_id=tunnel_id).client_token
            renewed = kept_of(opened, token, tunnel_id=tunnel_id)
            renewed = found.start(KeptTunnel(renewed.notification, fresh, renewed.received_at))
            assert renewed.client_token == first.client_token
            await until(lambda: found.phases() == ["up"])
            (status,) = found.tunnels.status()
            assert (status.name, status.services, status.connections) == (tunnel_id, ("SSH",), 0)


async def test_what_has_ended_is_told_and_makes_room(
    service: ServiceProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with tunnel_of(service, "SSH") as opened:
        async with running(opened.endpoints.data_endpoint, most=1) as found:
            found.start(kept("no-token-of-this-service"))
            await found.tunnels.wait_idle()
            found.start(kept_of(opened))
            await until(lambda: found.phases() == ["up"])
            await asyncio.to_thread(opened.close)
            await found.tunnels.wait_idle()
            await found.tunnels.wait_idle()
            assert found.changes == 5
    (refused,) = [record.message for record in caplog.records if "cannot be" in record.message]
    assert "Check that this is the destination token" in refused
    assert "no-token-of-this" not in caplog.text
    assert f"tunnel {kept_of(opened).label}: ended: closed, or expired" in caplog.text


async def test_a_bug_in_one_ends_that_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(served_tunnel, "destination", fail)
    async with running() as found:
        found.start(kept("a"))
        await found.tunnels.wait_idle()
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.exc_info is not None


async def test_all_can_be_ended(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as found:
        found.tunnels.end_all("nothing runs")
        assert caplog.records == []
        for token in "ab":
            found.start(kept(token))
        found.tunnels.end_all("switched off")
        await found.tunnels.wait_idle()
    assert "2 tunnels are ended: switched off" in caplog.text
