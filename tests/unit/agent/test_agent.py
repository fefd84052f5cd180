"""The agent: what it makes of each notification, over restarts, and while things fail."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support.network.applications import check_echo, echo
from support.network.ports import free_port
from support.oracles.nesting import said_of_nesting
from support.service.process import ServiceProcess
from support.tunnel import Tunnel as OpenTunnel
from support.tunnel import tunnel_of
from support.tunnel.agent import payload, payload_of, rotated
from support.waiting import HANG, until
from tailrace.agent import agent as module
from tailrace.agent.agent import Agent
from tailrace.agent.kill_switch import KillSwitch, set_kill_switch
from tailrace.agent.sources.base import Delivery, Receive
from tailrace.agent.state import AgentState, KeptTunnel
from tailrace.errors import ConfigurationError, LocalProtocolError, NotificationNotStored
from tailrace.library import ServiceMap, Tunnel
from tailrace.wire import Side

TOKEN = "AQGAAXhT1-secret-of-the-destination"
SERVICES = {"SSH": echo, "WEB": echo, "DB": echo}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "_SWITCH_PERIOD", 0.01)
    caplog.set_level(logging.DEBUG, "tailrace.agent")
    for name in ("AWSIOT_TUNNEL_ENDPOINT", "AWSIOT_TUNNEL_REGION"):
        monkeypatch.delenv(name, raising=False)


def lost(**changes: Any) -> Agent:
    """Return an agent whose tunnels reach nothing."""
    values: dict[str, Any] = {"endpoint": f"127.0.0.1:{free_port()}"}
    return Agent(SERVICES, **(values | changes))


def agent_of(tunnel: OpenTunnel, **changes: Any) -> Agent:
    """Return an agent for the service of a tunnel."""
    values: dict[str, Any] = {"endpoint": tunnel.endpoints.data_endpoint}
    return Agent(SERVICES, **(values | changes))


def count(agent: Agent) -> int:
    return len(agent.status().tunnels)


async def up(agent: Agent, tunnels: int = 1) -> None:
    """Wait until so many tunnels are up, and no others are served."""
    await until(
        lambda: [each.phase for each in agent.status().tunnels] == ["up"] * tunnels, "tunnels"
    )


async def check_served(tunnel: OpenTunnel) -> None:
    endpoint = tunnel.endpoints.data_endpoint
    async with Tunnel.source(tunnel.tokens[Side.SOURCE], endpoint=endpoint) as source:
        await source.wait_peer(timeout=HANG)
        reader, writer = await source.open_connection("SSH")
        await check_echo((reader, writer), b"hello")
        writer.close()


# -- what is taken and what is not ----------------------------------------------------------------


async def test_a_notification_has_its_tunnel_served(
    service: ServiceProcess, loop_kind: str
) -> None:
    with tunnel_of(service, "SSH") as opened:  # vector 1
        async with agent_of(opened) as agent:
            notification = await agent.receive(payload_of(opened))
            assert notification is not None
            assert notification.services == ("SSH",)
            await up(agent)
            (destination,) = agent.destinations().values()
            assert (destination.side, destination.service_ids) == (Side.DESTINATION, ("SSH",))
            await check_served(opened)
            await asyncio.to_thread(opened.close)
            await until(lambda: count(agent) == 0)


async def test_several_services_are_one_session(service: ServiceProcess) -> None:  # vector 4
    with tunnel_of(service, "SSH", "WEB", "DB") as opened:
        async with agent_of(opened) as agent:
            await agent.receive(payload_of(opened).decode())
            await up(agent)
            assert agent.status().tunnels[0].services == ("SSH", "WEB", "DB")


async def test_what_is_not_mapped_is_refused_and_the_rest_served(
    service: ServiceProcess, caplog: pytest.LogCaptureFixture
) -> None:  # vector 5
    with tunnel_of(service, "SSH", "NOPE") as opened:
        async with agent_of(opened) as agent:
            await agent.receive(payload_of(opened))
            await up(agent)
            await check_served(opened)
            endpoint = opened.endpoints.data_endpoint
            token = await asyncio.to_thread(rotated, opened, Side.SOURCE)
            async with Tunnel.source(token, endpoint=endpoint) as source:
                await source.wait_peer(timeout=HANG)
                reader, _ = await source.open_connection("NOPE")
                with pytest.raises(ConnectionResetError):
                    await reader.read()
    assert "NOPE" in caplog.text


async def test_a_rule_for_all_serves_tunnels_without_services(
    service: ServiceProcess,
) -> None:  # vector 7
    with tunnel_of(service) as opened:
        endpoint = opened.endpoints.data_endpoint
        async with Agent(ServiceMap({"*": echo}), endpoint=endpoint) as agent:
            token = opened.tokens[Side.DESTINATION].reveal()
            assert await agent.receive(payload(token, services=[])) is not None
            await up(agent)


@pytest.mark.parametrize(
    ("text", "level", "reason"),
    [
        (payload(TOKEN, "NOPE"), logging.WARNING, "no service of it is mapped: NOPE"),  # 6
        (payload(TOKEN, services=None), logging.WARNING, "it names no services"),  # 7
        (payload(TOKEN, services=[]), logging.WARNING, "it names no services"),
        (payload(TOKEN, services="SSH"), logging.WARNING, "services is malformed"),  # 9
        (payload(TOKEN, clientMode="source"), logging.INFO, "for a source"),  # 10
        (payload(TOKEN, clientMode="DESTINATION"), logging.WARNING, "clientMode is not"),  # 12
        (payload(f"{TOKEN}\n"), logging.WARNING, "clientAccessToken is"),  # 13
        (payload(TOKEN, region="evil.example/x"), logging.WARNING, "region is malformed"),  # 15
        (payload(TOKEN, expiresAt=1_790_000_000), logging.WARNING, "has expired"),  # 17
        (b'{"a": 1, "a": 2}', logging.WARNING, "a key stands in it twice"),  # 18
        (b"[" * 8000, logging.WARNING, said_of_nesting(b"[" * 8000)),  # 19
        (b"\xff", logging.WARNING, "not valid JSON"),
        ("\ud800", logging.WARNING, "not valid JSON"),
        (b" " * 8193, logging.WARNING, "longer than 8192 bytes"),  # 20
    ],
)
async def test_what_is_ignored_is_told_with_the_reason(
    caplog: pytest.LogCaptureFixture, text: bytes | str, level: int, reason: str
) -> None:
    async with lost() as agent:
        assert await agent.receive(text) is None
        assert count(agent) == 0
    (record,) = caplog.records
    assert record.levelno == level
    assert record.message.startswith("a notification is ignored: ")
    assert reason in record.message
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (payload(TOKEN, "SSH", "SSH"), "odd notification: services names one twice"),  # 8
        (payload(TOKEN, clientMode=None), "odd notification: clientMode is missing"),  # 11
    ],
)
async def test_what_is_odd_is_served_with_a_warning(
    caplog: pytest.LogCaptureFixture, text: bytes, warning: str
) -> None:
    async with lost() as agent:
        await agent.receive(text)
        assert count(agent) == 1
    assert [record for record in caplog.records if warning in record.message] != []
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        payload(TOKEN, region=None),  # vector 14
        payload(TOKEN, tunnelId="t-1", expiresAt=time.time() + 600, zz={"a": [1]}),  # 16
        b"\xef\xbb\xbf" + payload(TOKEN),  # 21
    ],
)
async def test_what_is_served(text: bytes) -> None:
    async with lost() as agent:
        assert await agent.receive(text) is not None
        assert count(agent) == 1


async def test_a_notification_that_comes_again_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # vector 2
    for _ in range(2):
        async with lost(state_dir=tmp_path) as agent:
            await asyncio.gather(*(agent.receive(payload(TOKEN)) for _ in range(3)))
            assert count(agent) == 1
    again = [record for record in caplog.records if "notified again" in record.message]
    assert len(again) == 5
    assert {record.levelno for record in again} == {logging.DEBUG}


async def test_one_for_another_thing_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    async with lost(thing_name="pump.7") as agent:  # vector 22
        assert await agent.receive(payload(TOKEN), thing_name="pump-8") is None
        assert "it is for another thing" in caplog.text
        # RabbitMQ has changed the dot.
        assert await agent.receive(payload(TOKEN), thing_name="pump/7") is not None
        assert await agent.receive(payload(f"{TOKEN}2")) is not None


async def test_one_that_the_broker_keeps_runs_once_and_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:  # vector 23
    async with lost() as agent:
        for _ in range(2):
            await agent.receive(payload(TOKEN), retained=True)
        assert count(agent) == 1
    (record,) = [each for each in caplog.records if "the MQTT broker keeps" in each.message]
    assert record.levelno == logging.WARNING


async def test_fifty_at_once(caplog: pytest.LogCaptureFixture) -> None:  # vector 24
    async with lost() as agent:
        taken = await asyncio.gather(
            *(agent.receive(payload(f"{TOKEN}{number}")) for number in range(50))
        )
        assert sum(each is not None for each in taken) == count(agent) == 20
    assert caplog.text.count("20 tunnels are served, and no more may be") == 30


async def test_tokens_that_are_refused_do_not_come_without_end(
    service: ServiceProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_LEAST_RATE", 3)
    endpoint = service.endpoints.data_endpoint
    async with Agent(SERVICES, endpoint=endpoint, max_tunnels=1) as agent:
        taken = 0
        for number in range(8):
            taken += await agent.receive(payload(f"{TOKEN}{number}")) is not None
            await until(lambda: count(agent) == 0)
        assert taken == 5
        monkeypatch.setattr(module, "_RATE_PERIOD", 0.0)
        assert await agent.receive(payload(f"{TOKEN}9")) is not None
    assert caplog.text.count("there were 5 tunnels in the last 100 s") == 3


async def test_what_the_cap_has_refused_may_come_again(service: ServiceProcess) -> None:
    with tunnel_of(service, "SSH") as opened:
        async with agent_of(opened, max_tunnels=1) as agent:
            await agent.receive(payload_of(opened, tunnelId="t-1"))
            await up(agent)
            assert await agent.receive(payload(TOKEN, tunnelId="t-2")) is None
            await asyncio.to_thread(opened.close)
            await until(lambda: count(agent) == 0)
            assert await agent.receive(payload(TOKEN, tunnelId="t-2")) is not None


@pytest.mark.parametrize(
    ("region", "of_notification", "taken"),
    [(None, "eu-west-1", True), ("eu-west-1", None, True), (None, None, False)],
)
async def test_a_region_is_needed_without_an_endpoint(
    region: str | None, of_notification: str | None, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is to be sent to AWS.
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{free_port()}")
    async with Agent(SERVICES, region=region) as agent:
        found = await agent.receive(payload(TOKEN, region=of_notification))
        assert (found is not None) is taken


async def test_the_endpoint_may_be_in_the_environment(
    service: ServiceProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tunnel_of(service, "SSH") as opened:
        monkeypatch.setenv("AWSIOT_TUNNEL_ENDPOINT", opened.endpoints.data_endpoint)
        async with Agent(SERVICES) as agent:
            await agent.receive(payload_of(opened))
            await up(agent)


# -- rotations ------------------------------------------------------------------------------------


async def test_a_rotation_goes_to_its_tunnel_and_survives_a_restart(
    service: ServiceProcess, tmp_path: Path
) -> None:
    with tunnel_of(service, "SSH") as opened:
        tunnel_id = opened.tunnel_id
        async with agent_of(opened, state_dir=tmp_path) as agent:
            await agent.receive(payload_of(opened, tunnelId=tunnel_id))
            await up(agent)
            token = await asyncio.to_thread(rotated, opened)
            await agent.receive(payload(token.reveal(), tunnelId=tunnel_id))
            await until(lambda: os.listdir(tmp_path / "tunnels") == [f"{token.digest}.json"])
            await up(agent)
            await check_served(opened)
        async with agent_of(opened, state_dir=tmp_path) as agent:
            await up(agent)
            assert agent.status().tunnels[0].name == tunnel_id


# -- restarts -------------------------------------------------------------------------------------


async def test_the_next_agent_finds_the_tunnels_again(
    service: ServiceProcess, tmp_path: Path
) -> None:
    with tunnel_of(service, "SSH") as opened:
        async with agent_of(opened, state_dir=tmp_path) as agent:
            await agent.receive(payload_of(opened))
            await up(agent)
        async with agent_of(opened, state_dir=tmp_path) as agent:
            await up(agent)
            await check_served(opened)
            await asyncio.to_thread(opened.close)
            await until(lambda: os.listdir(tmp_path / "tunnels") == [])
        async with agent_of(opened, state_dir=tmp_path) as agent:
            assert count(agent) == 0
            assert await agent.receive(payload_of(opened)) is None


async def test_tunnels_that_have_expired_meanwhile_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with lost(state_dir=tmp_path) as agent:
        await agent.receive(payload(TOKEN))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 13 * 3600)
    async with lost(state_dir=tmp_path) as agent:
        assert count(agent) == 0
        assert os.listdir(tmp_path / "tunnels") == []
    assert "not served again: it has expired" in caplog.text


async def test_a_second_agent_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    async with lost(state_dir=tmp_path) as agent:
        with pytest.raises(ConfigurationError, match="another agent"):
            await lost(state_dir=tmp_path).__aenter__()
        assert await agent.receive(payload(TOKEN)) is not None


async def test_what_cannot_be_stored_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with lost(state_dir=tmp_path) as agent:
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(NotificationNotStored, match="No space left"):
            await agent.receive(payload(TOKEN))
        assert count(agent) == 0
        assert "No space left" in caplog.text
        monkeypatch.undo()
        assert await agent.receive(payload(TOKEN)) is not None


# -- kill switch ----------------------------------------------------------------------------------


async def test_the_kill_switch_refuses_and_ends_tunnels_also_after_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with lost(state_dir=tmp_path) as agent:
        await agent.receive(payload(TOKEN))
        set_kill_switch(tmp_path, KillSwitch.NO_NEW)
        assert await agent.receive(payload(f"{TOKEN}2")) is None
        assert "the agent is disabled" in caplog.text
        await until(lambda: agent.status().kill_switch == "no new tunnels")
        assert count(agent) == 1
    async with lost(state_dir=tmp_path) as agent:
        assert count(agent) == 1
        set_kill_switch(tmp_path, KillSwitch.NONE)
        await until(lambda: count(agent) == 0)
        await until(lambda: os.listdir(tmp_path / "tunnels") == [])
        set_kill_switch(tmp_path, KillSwitch.OFF)
        await until(lambda: agent.status().kill_switch == "off")
        await agent.receive(payload(f"{TOKEN}3"))
        assert count(agent) == 1
    set_kill_switch(tmp_path, KillSwitch.NONE)
    async with lost(state_dir=tmp_path) as agent:
        assert count(agent) == 0
        assert os.listdir(tmp_path / "tunnels") == []
    assert "not served again: the agent is disabled" in caplog.text


async def test_a_kill_switch_that_is_set_while_a_notification_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ends the open tunnels may have looked before this one was one of them."""
    keep = AgentState.keep
    async with lost(state_dir=tmp_path) as agent:

        async def keep_slowly(state: AgentState, tunnel: KeptTunnel) -> None:
            await keep(state, tunnel)
            set_kill_switch(tmp_path, KillSwitch.NONE)
            await until(lambda: agent.status().kill_switch == "no tunnels")

        monkeypatch.setattr(AgentState, "keep", keep_slowly)
        assert await agent.receive(payload(TOKEN)) is None
        assert count(agent) == 0
        assert os.listdir(tmp_path / "tunnels") == []


# -- sources --------------------------------------------------------------------------------------


class Source:
    """Delivers once, then does what it is told."""

    def __init__(self, *deliveries: Delivery, then: Callable[[], Any]) -> None:
        self._deliveries = deliveries
        self._then = then
        self.runs = 0
        self.looks = 0
        self.doing = ""
        self.acknowledged = 0

    @property
    def name(self) -> str:
        return "test"

    def status(self) -> str:
        self.looks += 1
        return self.doing or f"run {self.runs}"

    async def run(self, receive: Receive) -> None:
        self.runs += 1
        for each in self._deliveries:
            await receive(each)
            self.acknowledged += 1
        await self._then()


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def nothing() -> None:
    pass


@asynccontextmanager
async def running(agent: Agent, *sources: Source) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.get_running_loop().create_task(agent.run(*sources))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_subscribers_are_told_of_ways_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SOURCES_PERIOD", 0.01)
    told: list[str] = []
    source = Source(then=forever)
    async with lost() as agent:
        agent.subscribe(lambda: told.append(agent.status().sources["test"]))
        async with running(agent, source):
            await until(lambda: told == ["run 1"])
            source.doing = "rests for 1 s"
            await until(lambda: told == ["run 1", "rests for 1 s"])
            # How long is nothing new.
            source.doing = "rests for 2 s"
            source.looks = 0
            await until(lambda: source.looks > 2)
            assert told == ["run 1", "rests for 1 s"]


async def test_it_runs_until_sources_and_tunnels_have_ended(service: ServiceProcess) -> None:
    with tunnel_of(service, "SSH") as opened:
        async with agent_of(opened, thing_name="pump-7") as agent:
            deliveries = Delivery(b"junk"), Delivery(payload_of(opened), "pump-7", retained=True)
            source, other = Source(*deliveries, then=nothing), Source(then=nothing)
            async with running(agent, source, other) as task:
                await up(agent)
                assert source.acknowledged == 2
                assert agent.status().sources == {"test": "run 1"}
                await check_served(opened)
                assert not task.done()
                await asyncio.to_thread(opened.close)
                await task


async def test_tunnels_that_are_up_stay_up_while_a_source_is_down(
    service: ServiceProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_SOURCE_DELAY", 0.01)

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    with tunnel_of(service, "SSH") as opened:
        async with agent_of(opened) as agent:
            source = Source(Delivery(payload_of(opened)), then=fail)
            async with running(agent, source):
                await until(lambda: source.runs > 3)
                await up(agent)
                await check_served(opened)
    assert "test failed" in caplog.text


# -- status ---------------------------------------------------------------------------------------


async def test_the_status_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_HEARTBEAT_PERIOD", 0.01)
    set_kill_switch(tmp_path, KillSwitch.NO_NEW)
    async with (
        lost(state_dir=tmp_path, max_tunnels=3) as agent,
        running(agent, Source(then=forever)),
    ):
        await until(lambda: "test: run 1" in caplog.text)
    assert (
        "status: 0 of 0 tunnels up, 3 allowed; test: run 1; disabled: no new tunnels"
        in caplog.messages
    )


async def test_subscribers_are_told_of_changes() -> None:
    told: list[int] = []
    async with lost() as agent:
        unsubscribe = agent.subscribe(lambda: told.append(count(agent)))
        await agent.receive(payload(TOKEN))
        assert told == [1]
        await until(lambda: len(told) == 2)  # it waits for the network
        unsubscribe()
        unsubscribe()
    assert told == [1, 1]


# -- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("services", "changes", "text"),
    [
        (SERVICES, {"max_tunnels": 0}, "max_tunnels=0 is not positive"),
        (SERVICES, {"resume_timeout": -1}, "resume_timeout=-1 is not 0 to 86400 seconds"),
        ({"SSH": 0}, {}, "port 0"),
        ({"SS H": 22}, {}, "Service ID"),
        (SERVICES, {"region": "../x"}, "Region"),
        (SERVICES, {"ca": "/nonexistent"}, "ca='/nonexistent'"),
    ],
)
def test_arguments_that_are_not_valid(services: Any, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        Agent(services, **changes)


async def test_an_agent_is_entered_once() -> None:
    async with lost() as agent:
        with pytest.raises(LocalProtocolError, match="entered once"):
            await agent.__aenter__()
