"""Files are written whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from tailrace.common.atomic_files import make_private_directory, write_atomically, write_file
from tailrace.errors import ConfigurationError


def test_content_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    path.chmod(0o666)
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_an_old_file_stays_whole_when_the_new_one_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.mkdir()
    (path / "inside").touch()
    with pytest.raises(ConfigurationError, match=str(path)):
        write_file(path, b"new")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("durable", [True, False])
def test_an_exclusive_file_replaces_nothing(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "f"
    write_atomically(path, b"first", 0o644, durable=durable, exclusive=True)
    with pytest.raises(FileExistsError):
        write_atomically(path, b"second", durable=durable, exclusive=True)
    assert path.read_bytes() == b"first"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    write_atomically(path, b"third", durable=durable)
    assert path.read_bytes() == b"third"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_has_its_owner_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"

    def replace_and_die(old: Path, new: Path) -> None:
        old.rename(new)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace_and_die)
    with pytest.raises(KeyboardInterrupt):
        write_file(path, b"new", owner=(12345, 54321))
    found = path.stat()
    assert (found.st_uid, found.st_gid, path.read_bytes()) == (12345, 54321, b"new")


@pytest.mark.parametrize(("despite_umask", "mode"), [(False, 0o600), (True, 0o644)])
def test_a_narrow_umask(tmp_path: Path, despite_umask: bool, mode: int) -> None:
    previous = os.umask(0o077)
    try:
        write_atomically(tmp_path / "f", b"x", 0o644, despite_umask=despite_umask)
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == mode


@pytest.mark.parametrize("name", ["/", "missing/f"])
def test_a_place_where_no_file_can_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError):
        write_atomically(tmp_path / name, b"x")


def test_directories(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    make_private_directory(path)
    make_private_directory(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    path.chmod(0o777)
    with pytest.raises(ConfigurationError) as refused:
        make_private_directory(path)
    assert refused.value.setting == "state_dir"
    assert str(refused.value) == (
        f"cannot use the directory {path}: it is open to other users: chmod 755 {path}"
    )
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot make the directory") as caught:
        make_private_directory(tmp_path / "file" / "x")
    assert caught.value.setting == "state_dir"
