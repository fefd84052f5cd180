"""A file that several processes change, one at a time."""

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from support.waiting import HANG
from tailrace.errors import ConfigurationError
from tailrace.service.identity.state_file import StateFile


@pytest.fixture
def file(tmp_path: Path) -> StateFile:
    return StateFile(tmp_path / "state.json")


def test_a_file_is_another_one_after_each_change(file: StateFile) -> None:
    assert (file.read_bytes(), file.signature()) == (None, None)
    seen = set()
    for _ in range(3):
        with file.locked():
            file.replace(b"same")
        seen.add(file.signature())
    assert len(seen) == 3
    assert file.read_bytes() == b"same"
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_who_holds_the_lock_is_alone(file: StateFile) -> None:
    entered = threading.Event()

    def change() -> None:
        with file.locked():
            entered.set()

    with file.locked():
        other = threading.Thread(target=change)
        other.start()
        assert not entered.wait(0.1)
    assert entered.wait(HANG)
    other.join()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_that_may_not_give_files_away(
    file: StateFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a container without the capability.
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    for name in ("chown", "fchown"):
        with monkeypatch.context() as context:
            context.setattr(os, name, refuse)
            with pytest.raises(ConfigurationError, match="Operation not permitted"), file.locked():
                file.replace(b"new")
        assert file.read_bytes() is None


def test_a_file_that_others_can_read_is_refused(file: StateFile) -> None:
    file.replace(b"")
    file.path.chmod(0o644)
    with pytest.raises(ConfigurationError, match=f"chmod 600 {file.path}"):
        file.read_bytes()


def test_a_directory_that_others_can_write_to_is_refused(file: StateFile) -> None:
    file.make_directory()
    if os.geteuid():
        file.path.parent.chmod(0o777)
        with pytest.raises(ConfigurationError, match="open to other users"):
            file.make_directory()
    file.path.parent.chmod(0o700)
