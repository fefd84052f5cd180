"""The kill switch: a file that anything can set."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tailrace.agent.kill_switch import KillSwitch, read_kill_switch, set_kill_switch
from tailrace.errors import ConfigurationError


@pytest.mark.parametrize("switch", KillSwitch)
def test_it_says_what_was_set(tmp_path: Path, switch: KillSwitch) -> None:
    set_kill_switch(tmp_path, KillSwitch.NONE)
    set_kill_switch(tmp_path, switch)
    assert read_kill_switch(tmp_path) is switch


def test_it_is_off_without_a_file(tmp_path: Path) -> None:
    assert read_kill_switch(tmp_path) is KillSwitch.OFF
    set_kill_switch(tmp_path, KillSwitch.OFF)
    assert list(tmp_path.iterdir()) == []


def test_any_file_sets_it(tmp_path: Path) -> None:
    (tmp_path / "disabled").touch()
    assert read_kill_switch(tmp_path) is KillSwitch.NO_NEW
    (tmp_path / "disabled").write_text("now")
    assert read_kill_switch(tmp_path) is KillSwitch.NONE
    (tmp_path / "disabled").write_text("no idea")
    assert read_kill_switch(tmp_path) is KillSwitch.NO_NEW


def test_what_cannot_be_read_sets_it(tmp_path: Path) -> None:
    (tmp_path / "disabled").mkdir()
    assert read_kill_switch(tmp_path) is KillSwitch.NO_NEW
    (tmp_path / "disabled").rmdir()
    (tmp_path / "disabled").symlink_to(tmp_path / "disabled")
    assert read_kill_switch(tmp_path) is KillSwitch.NO_NEW


def test_a_pipe_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "disabled")
    assert read_kill_switch(tmp_path) is KillSwitch.NO_NEW


def test_agents_of_other_users_can_read_it(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        set_kill_switch(tmp_path, KillSwitch.NONE)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "disabled").stat().st_mode) == 0o644


def test_no_other_file_becomes_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user of an agent may write to its directory, where root sets the switch."""
    secret = tmp_path / "secret"
    secret.touch(0o600)
    replace = os.replace

    def replace_and_link(source: Path, target: Path) -> None:
        replace(source, target)
        target.unlink()
        target.symlink_to(secret)

    monkeypatch.setattr(os, "replace", replace_and_link)
    set_kill_switch(tmp_path, KillSwitch.NONE)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no agent keeps its state in") as caught:
        set_kill_switch(tmp_path / "none", KillSwitch.NONE)
    assert caught.value.setting == "state_dir"


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "disabled").mkdir()
    with pytest.raises(ConfigurationError, match=f"cannot write {tmp_path}/disabled: "):
        set_kill_switch(tmp_path, KillSwitch.OFF)
