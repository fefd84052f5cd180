"""Files of the state directory."""

import stat
from pathlib import Path

import pytest

from tailrace.common.atomic_files import make_private_directory, write_file
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


def test_directories(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    make_private_directory(path)
    make_private_directory(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="--state-dir"):
        make_private_directory(tmp_path / "file" / "x")
