from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from support.service.scripted_client import ScriptedClient, tunnel
from tailrace.aws import TunnelState
from tailrace.errors import CallRefused, ConfigurationError, ControlError, TunnelNotFound
from tailrace.operator import ledger
from tailrace.operator.ledger import LedgerEntry, close_orphans


def orphan(directory: Path, client: ScriptedClient, **fields: Any) -> Path:
    """Leave an entry behind, as a command that is killed does."""
    entry = LedgerEntry(directory, client, "pump-7", "tailrace.connect 1")
    (path,) = directory.iterdir()
    with path.open("a") as file:
        file.write(json.dumps(fields) + "\n")
    entry.leave()
    return path


async def test_a_tunnel_that_is_in_use_or_closed_is_left_alone(tmp_path: Path) -> None:
    client = ScriptedClient(tunnel("t"))
    entry = LedgerEntry(tmp_path / "ledger", client, "pump-7", "tailrace.connect 1")
    entry.opened("t")
    (path,) = (tmp_path / "ledger").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert await close_orphans(path.parent, client) == []
    entry.remove()
    assert await close_orphans(path.parent, client) == []
    assert client.calls == []
    assert not path.exists()


async def test_what_a_killed_command_has_left(tmp_path: Path) -> None:
    client = ScriptedClient(tunnel("t"))
    path = orphan(tmp_path, client, tunnel_id="t")
    (note,) = await close_orphans(tmp_path, client)
    assert note == "closed tunnel t to pump-7, which a killed command had left open"
    assert client.calls == ["describe t", "close t"]
    assert not path.exists()


async def test_one_that_was_killed_before_it_knew_the_id(tmp_path: Path) -> None:
    client = ScriptedClient(tunnel("other"), tunnel("t", description="tailrace.connect 1"))
    orphan(tmp_path, client)
    assert len(await close_orphans(tmp_path, client)) == 1
    assert client.calls == ["list", "describe t", "close t"]
    client.tunnels.clear()
    orphan(tmp_path, client)
    assert await close_orphans(tmp_path, client) == []
    assert os.listdir(tmp_path) == []


async def test_one_that_is_closed_or_gone(tmp_path: Path) -> None:
    client = ScriptedClient(tunnel("t", state=TunnelState.CLOSED))
    orphan(tmp_path, client, tunnel_id="t")
    assert await close_orphans(tmp_path, client) == []
    client.faults["describe"] = TunnelNotFound("", "gone")
    orphan(tmp_path, client, tunnel_id="t")
    assert await close_orphans(tmp_path, client) == []
    assert os.listdir(tmp_path) == []


async def test_one_that_cannot_be_closed_now(tmp_path: Path) -> None:
    client = ScriptedClient(tunnel("t"))
    client.faults["close"] = ControlError("", "down")
    path = orphan(tmp_path, client, tunnel_id="t")
    assert await close_orphans(tmp_path, client) == [
        "tunnel t to pump-7, of a command that was killed: down"
    ]
    assert path.exists()


@pytest.mark.parametrize(
    ("fault", "count"), [(CallRefused("", "may not"), 2), (ControlError("", "down"), 1)]
)
async def test_several_that_cannot_be_closed_now(
    tmp_path: Path, fault: ControlError, count: int
) -> None:
    """A command does not wait for each of them when the service is down."""
    client = ScriptedClient()
    entries = [LedgerEntry(tmp_path, client, "pump-7", f"d{each}") for each in range(2)]
    for each in entries:
        each.leave()
    client.faults["list"] = fault
    note = f"tunnel to pump-7, of a command that was killed: {fault}"
    assert await close_orphans(tmp_path, client) == [note] * count
    assert client.calls == ["list"] * count
    assert len(os.listdir(tmp_path)) == 2


async def test_one_of_another_service(tmp_path: Path) -> None:
    client = ScriptedClient(tunnel("t"))
    path = orphan(tmp_path, client, tunnel_id="t")
    client.endpoint = "https://elsewhere"
    assert await close_orphans(tmp_path, client) == []
    assert client.calls == []
    assert path.exists()


async def test_one_whose_lifetime_is_over_and_one_that_makes_no_sense(tmp_path: Path) -> None:
    client = ScriptedClient(tunnel("t"))
    orphan(tmp_path, client, tunnel_id="t", time=time.time() - 13 * 3600)
    (tmp_path / "x.tunnel").write_text("{")
    (tmp_path / "x.tunnel").chmod(0o600)
    (tmp_path / "y.tunnel").symlink_to("/etc/passwd")
    assert await close_orphans(tmp_path, client) == []
    assert os.listdir(tmp_path) == ["y.tunnel"]
    assert client.calls == []


async def test_one_whose_last_line_was_cut(tmp_path: Path) -> None:
    client = ScriptedClient(tunnel("t", description="tailrace.connect 1"))
    path = orphan(tmp_path, client)
    with path.open("a") as file:
        file.write('{"tunnel_id": "')
    assert len(await close_orphans(tmp_path, client)) == 1


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot make the directory"):
        LedgerEntry(tmp_path / "file", ScriptedClient(), "pump-7", "d")
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        with pytest.raises(ConfigurationError, match="cannot write"):
            LedgerEntry(tmp_path, ScriptedClient(), "pump-7", "d")


async def test_without_locks_nothing_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = ScriptedClient()
    LedgerEntry(tmp_path, client, "pump-7", "d").leave()
    monkeypatch.setattr(ledger, "HAS_LOCKS", False)
    assert await close_orphans(tmp_path, client) == []
    assert len(os.listdir(tmp_path)) == 1
