"""Whether there is a process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tailrace.common.process_ids import is_running


def test_this_process() -> None:
    assert is_running(os.getpid())


def test_one_that_has_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert not is_running(child.pid)


def test_one_of_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert is_running(1)


def test_what_is_no_number() -> None:
    with pytest.raises(OverflowError):
        is_running(1 << 80)
