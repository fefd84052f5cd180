"""What the agent keeps over restarts: nothing is lost, nothing grows, nothing is shown."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from support.plugins.clock import ManualClock
from tailrace.agent import state as module
from tailrace.agent.kill_switch import KillSwitch, set_kill_switch
from tailrace.agent.notification import LIFETIME, Notification
from tailrace.agent.state import AgentState, KeptTunnel
from tailrace.common.atomic_files import write_file
from tailrace.common.secret import Secret
from tailrace.errors import ConfigurationError, NotificationNotStored

NOW = 1_795_000_000.0
HOUR = 3600.0


def kept(token: str = "token-1", at: float = NOW, **changes: Any) -> KeptTunnel:
    notification = Notification(Secret(token), "eu-west-1", ("SSH", "WEB"), **changes)
    return KeptTunnel(notification, Secret("c" * 32), at)


def state(directory: Path | None, now: float = NOW) -> AgentState:
    return AgentState(directory, ManualClock(now))


def reread(directory: Path, now: float = NOW) -> list[KeptTunnel]:
    with state(directory, now).opened() as found:
        return found


async def test_a_tunnel_is_found_again_and_its_token_is_known(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "state"
    tunnel = kept(tunnel_id="t-1", expires_at=NOW + HOUR, token_id="k-1")
    first = state(directory)
    with first.opened() as found:
        assert found == []
        assert not first.has_seen(tunnel.digest)
        await first.keep(tunnel)
        assert first.has_seen(tunnel.digest)
    second = state(directory)
    with second.opened() as found:
        assert found == [tunnel]
        assert second.has_seen(tunnel.digest)


async def test_what_has_ended_is_forgotten_but_for_its_digest(tmp_path: Path) -> None:
    first = state(tmp_path)
    with first.opened():
        await first.keep(kept())
        await first.forget(kept())
        assert list((tmp_path / "tunnels").iterdir()) == []
    content = b"".join(each.read_bytes() for each in (tmp_path / "seen", tmp_path / "lock"))
    assert set(os.listdir(tmp_path)) == {"lock", "seen", "tunnels"}
    assert b"token-1" not in content
    assert b"c" * 32 not in content
    second = state(tmp_path)
    with second.opened() as found:
        assert found == []
        assert second.has_seen(kept().digest)


async def test_all_of_it_is_readable_by_this_user_only(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    one = state(directory)
    with one.opened():
        await one.keep(kept("a"))
        await one.keep(kept("b"))
        await one.forget(kept("b"))
    for path in (directory, *directory.rglob("*")):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


async def test_it_is_stored_before_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def note(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    one = state(tmp_path)
    with one.opened():
        monkeypatch.setattr(os, "fsync", note)
        await one.keep(kept())
    # The file first, then the name in the directory.
    assert synced[0].startswith(f"{tmp_path}/tunnels/.")
    assert synced[1] == f"{tmp_path}/tunnels"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
async def test_a_full_disk_is_told_and_nothing_is_taken_for_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    one = state(tmp_path)
    with one.opened():
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(NotificationNotStored, match=os.strerror(number)) as caught:
            await one.keep(kept())
        assert str(tmp_path) in str(caught.value)
        assert not one.has_seen(kept().digest)
        monkeypatch.undo()
        assert list((tmp_path / "tunnels").iterdir()) == []
        await one.keep(kept())
    assert reread(tmp_path) == [kept()]


async def test_a_token_goes_although_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    one = state(tmp_path)
    with one.opened():
        await one.keep(kept())
        monkeypatch.setattr(os, "fsync", fail)
        await one.forget(kept())
        assert list((tmp_path / "tunnels").iterdir()) == []
        assert one.has_seen(kept().digest)
    assert "its end cannot be written down in" in caplog.text


def test_one_agent_at_a_time(tmp_path: Path) -> None:
    with state(tmp_path).opened():
        with (
            pytest.raises(ConfigurationError, match="another agent keeps its state") as caught,
            state(tmp_path).opened(),
        ):
            raise AssertionError
        assert caught.value.setting == "state_dir"
    with state(tmp_path).opened():
        pass


def test_a_directory_that_others_may_write_to_is_not_used(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigurationError, match="open to other users"), state(tmp_path).opened():
        raise AssertionError


BROKEN: list[bytes] = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"[" * 20_000,
    json.dumps({"notification": {}, "clientToken": "c" * 32, "receivedAt": NOW}).encode(),
]
CHANGES: list[dict[str, object]] = [
    {"clientToken": "short"},
    {"clientToken": 7},
    {"clientToken": None},
    {"receivedAt": "yesterday"},
    {"receivedAt": None},
    {"receivedAt": float("nan")},
    {"receivedAt": -1},
    {"notification": None},
    {"notification": "x"},
]


@pytest.mark.parametrize("content", [*BROKEN, *CHANGES], ids=repr)
async def test_a_corrupt_file_is_told_once_and_the_others_are_read(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    content: bytes | dict[str, object],
) -> None:
    one = state(tmp_path)
    with one.opened():
        await one.keep(kept("good"))
        await one.keep(kept("bad"))
    path = tmp_path / "tunnels" / f"{kept('bad').digest}.json"
    if isinstance(content, dict):
        content = json.dumps(json.loads(path.read_text()) | content).encode()
    path.write_bytes(content)
    assert reread(tmp_path) == [kept("good")]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"{path} is corrupt" in record.message
    assert not path.exists()


async def test_the_file_of_another_token_is_corrupt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = state(tmp_path)
    with one.opened():
        await one.keep(kept())
    path = tmp_path / "tunnels" / f"{kept().digest}.json"
    path.rename(path.with_name("x.json"))
    # What a crash leaves behind.
    write_file(tmp_path / "tunnels" / ".y.json.0123", b"half of i")
    assert reread(tmp_path) == []
    assert len(caplog.records) == 1
    assert list((tmp_path / "tunnels").iterdir()) == []


async def test_a_file_that_others_may_read_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = state(tmp_path)
    with one.opened():
        await one.keep(kept())
    path = tmp_path / "tunnels" / f"{kept().digest}.json"
    path.chmod(0o644)
    assert reread(tmp_path) == []
    (record,) = caplog.records
    assert "it is open to other users" in record.message
    path.chmod(0o600)
    assert reread(tmp_path) == [kept()]


@pytest.mark.parametrize(
    "line", [b"x", b"\xff" * 64 + b" 1", b"a" * 64, b"a" * 64 + b" soon", b"a" * 63 + b" 7", b" "]
)
async def test_a_corrupt_line_is_told_and_the_others_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, line: bytes
) -> None:
    one = state(tmp_path)
    with one.opened():
        for token in ("a", "b"):
            await one.keep(kept(token))
            await one.forget(kept(token))
    path = tmp_path / "seen"
    first, second = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, line, second]))
    for _ in range(2):  # the first time, the file is written anew
        two = state(tmp_path)
        with two.opened():
            assert two.has_seen(kept("a").digest)
            assert two.has_seen(kept("b").digest)
    (record,) = caplog.records
    assert record.message == f"{path}: 1 lines are corrupt"


@pytest.mark.parametrize("is_killed", [False, True])
async def test_a_line_that_was_cut_spoils_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    write = os.write

    async def note(agent: AgentState, *tokens: str) -> None:
        for token in tokens:
            await agent.keep(kept(token))
            await agent.forget(kept(token))

    one = state(tmp_path)
    with one.opened():
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda handle, data: write(handle, data[:-3]))
            await note(one, "a")
        assert not (tmp_path / "seen").read_bytes().endswith(b"\n")
        if not is_killed:
            await note(one, "b", "c")
    two = state(tmp_path)
    with two.opened():
        if is_killed:
            await note(two, "b", "c")
    last = state(tmp_path)
    with last.opened():
        assert all(last.has_seen(kept(token).digest) for token in ("a", "b", "c"))


async def test_tokens_are_known_for_twelve_hours_and_not_for_ever(tmp_path: Path) -> None:
    one = state(tmp_path)
    with one.opened():
        await one.keep(kept())
        await one.forget(kept())
    for hours, is_known in ((12.1, True), (24.1, False)):
        later = state(tmp_path, NOW + hours * HOUR)
        with later.opened():
            assert later.has_seen(kept().digest) is is_known


async def test_a_clock_that_was_not_set_forgets_nothing(tmp_path: Path) -> None:
    one = state(tmp_path, 100.0)
    with one.opened():
        await one.keep(kept(at=100.0))
        await one.forget(kept(at=100.0))
    two = state(tmp_path, NOW)
    with two.opened():
        assert two.has_seen(kept().digest)


async def test_the_journal_and_the_memory_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_SEEN", 5)
    one = state(tmp_path)
    with one.opened():
        for number in range(40):
            await one.keep(kept(f"t{number}"))
            await one.forget(kept(f"t{number}"))
            assert len((tmp_path / "seen").read_bytes().splitlines()) <= 10
        known = [number for number in range(40) if one.has_seen(kept(f"t{number}").digest)]
        assert known == [35, 36, 37, 38, 39]
    two = state(tmp_path)
    with two.opened():
        assert two.has_seen(kept("t39").digest)
        assert not two.has_seen(kept("t30").digest)


async def test_the_files_that_are_read_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = state(tmp_path)
    with one.opened():
        for number in range(4):
            await one.keep(kept(f"t{number}"))
    monkeypatch.setattr(module, "_MAX_KEPT", 3)
    assert len(reread(tmp_path)) == 3
    assert len(list((tmp_path / "tunnels").iterdir())) == 3


async def test_without_a_directory_it_is_in_memory_only() -> None:
    one = state(None)
    with one.opened() as found:
        assert found == []
        await one.keep(kept())
        assert one.has_seen(kept().digest)
        await one.forget(kept())
        assert one.has_seen(kept().digest)
        assert one.kill_switch is KillSwitch.OFF
        assert not one.is_durable


def test_the_kill_switch_is_in_the_directory(tmp_path: Path) -> None:
    set_kill_switch(tmp_path, KillSwitch.NONE)
    assert state(tmp_path).kill_switch is KillSwitch.NONE


@pytest.mark.parametrize(
    ("received_at", "expires_at", "now", "left"),
    [
        (NOW, None, NOW, LIFETIME),
        (NOW, None, NOW + HOUR, LIFETIME - HOUR),
        (NOW, None, NOW + LIFETIME, 0.0),
        (NOW, NOW + HOUR, NOW, HOUR),
        (NOW, NOW - 1, NOW, -1.0),  # vector 17
        (NOW, NOW + 100 * HOUR, NOW, LIFETIME),
        # The clock is not set: it tells nothing.
        (NOW, None, 100.0, LIFETIME),
        (NOW, NOW - 1, 100.0, LIFETIME),
        (100.0, None, NOW, LIFETIME),
        (100.0, NOW + HOUR, NOW, HOUR),
        # It was set back.
        (NOW, None, NOW - HOUR, LIFETIME),
    ],
)
def test_the_lifetime_that_is_left(
    received_at: float, expires_at: float | None, now: float, left: float
) -> None:
    assert kept(at=received_at, expires_at=expires_at).lifetime_left(now) == left


def test_a_tunnel_has_a_name_that_tells_no_token() -> None:
    assert kept(tunnel_id="t-1").label == "t-1"
    assert kept().label == f"#{kept().digest[:8]}"
    assert "token-1" not in repr(kept())
