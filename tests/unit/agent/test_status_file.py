"""The status of an agent, for other programs."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from support.network.ports import free_port
from support.tunnel.agent import payload
from support.waiting import until
from tailrace.agent import status_file as module
from tailrace.agent.agent import Agent
from tailrace.agent.status_file import status_document, status_shown

TOKEN = "AQGAAXhT1-secret-of-the-destination"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DELAY", 0.01)


def lost(**changes: Any) -> Agent:
    return Agent({"SSH": 22}, endpoint=f"127.0.0.1:{free_port()}", **changes)


async def test_the_file_follows_the_agent_and_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    async with lost() as agent:
        with status_shown(agent, path):
            expected = json.loads(json.dumps(status_document(agent.status())))
            assert json.loads(path.read_text()) == expected
            assert stat.S_IMODE(path.stat().st_mode) & ~0o644 == 0
            await agent.receive(payload(TOKEN))
            await until(lambda: json.loads(path.read_text())["tunnels"] != [])
            document = json.loads(path.read_text())
            assert TOKEN not in path.read_text()
            assert document["pid"] == os.getpid()
            assert document["max_tunnels"] == 20
            assert document["tunnels"][0]["services"] == ["SSH"]
        assert not path.exists()
        await agent.receive(payload(f"{TOKEN}2"))


async def test_it_is_written_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PERIOD", 0.01)
    path = tmp_path / "status.json"
    async with lost() as agent:
        with status_shown(agent, path):
            path.unlink()
            await until(path.exists)


async def test_what_cannot_be_written_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_PERIOD", 0.005)
    path = tmp_path / "none" / "status.json"
    async with lost() as agent:
        with status_shown(agent, path):
            await asyncio.sleep(0.03)
            await agent.receive(payload(TOKEN))
            path.parent.mkdir()
            await until(path.exists)
    warnings = [each for each in caplog.records if "cannot write" in each.message]
    assert len(warnings) == 1
    assert warnings[0].levelno == logging.WARNING
