"""Locks on files."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tailrace.common.file_lock import locked
from tailrace.errors import ConfigurationError


def test_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, wait=False):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(BlockingIOError), locked(path, wait=False):
            pass
    with locked(path, wait=False):
        pass


def test_waiting(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import sys; from pathlib import Path; from tailrace.common.file_lock import locked\n"
        "with locked(Path(sys.argv[1]), wait=True): print('locked', flush=True)"
    )
    with locked(path, wait=True):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
        )
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
    assert process.communicate()[0] == "locked\n"


def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot write"), locked(tmp_path, wait=True):
        pass


def test_a_file_system_without_locks_is_not_taken_for_another_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some of a network, and some volumes of containers, are."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fail)
    path = tmp_path / "lock"
    with (
        pytest.raises(ConfigurationError, match=f"^cannot lock {path}: No locks available$"),
        locked(path, wait=False),
    ):
        pass
