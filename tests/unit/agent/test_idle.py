"""An agent whose last tunnel has ended gives memory back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support.network.ports import free_port
from support.tunnel.agent import payload
from support.waiting import until
from tailrace.agent import agent as agent_module
from tailrace.agent import idle as module
from tailrace.agent.agent import Agent
from tailrace.agent.idle import released_when_idle
from tailrace.agent.kill_switch import KillSwitch, set_kill_switch

TOKEN = "AQGAAXhT1-secret-of-the-destination"
NEVER = 7200.0


@asynccontextmanager
async def agent_in(directory: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Agent]:
    monkeypatch.setattr(agent_module, "_SWITCH_PERIOD", 0.01)
    made = Agent({"SSH": 22}, endpoint=f"127.0.0.1:{free_port()}", state_dir=directory)
    async with made as agent:
        yield agent


async def end_tunnels(agent: Agent, directory: Path) -> None:
    set_kill_switch(directory, KillSwitch.NONE)
    await until(lambda: not agent.status().tunnels)
    set_kill_switch(directory, KillSwitch.OFF)
    await until(lambda: agent.status().kill_switch == "off")


async def test_once_after_the_last_tunnel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DELAY", 0.01)
    released: list[int] = []
    async with agent_in(tmp_path, monkeypatch) as agent:
        with released_when_idle(agent, lambda: released.append(len(agent.status().tunnels))):
            for expected in (1, 2):
                await agent.receive(payload(f"{TOKEN}a{expected}"))
                await agent.receive(payload(f"{TOKEN}b{expected}"))
                assert len(released) == expected - 1
                await end_tunnels(agent, tmp_path)
                await until(lambda: len(released) == expected)  # noqa: B023 - awaited here
    assert released == [0, 0]


async def test_not_while_the_next_tunnel_comes_nor_after_the_body(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DELAY", NEVER)
    timers: list[asyncio.TimerHandle] = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def noted(delay: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        handle = call_later(delay, callback, *args)
        if delay == NEVER:
            timers.append(handle)
        return handle

    monkeypatch.setattr(loop, "call_later", noted)
    async with agent_in(tmp_path, monkeypatch) as agent:
        with released_when_idle(agent):
            await agent.receive(payload(f"{TOKEN}1"))
            await end_tunnels(agent, tmp_path)
            assert [timer.cancelled() for timer in timers] == [False]
            await agent.receive(payload(f"{TOKEN}2"))
            assert [timer.cancelled() for timer in timers] == [True]
            await end_tunnels(agent, tmp_path)
            assert [timer.cancelled() for timer in timers] == [True, False]
        assert [timer.cancelled() for timer in timers] == [True, True]
        await agent.receive(payload(f"{TOKEN}3"))
        await end_tunnels(agent, tmp_path)
        assert len(timers) == 2
