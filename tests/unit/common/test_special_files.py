"""What is no file."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tailrace.common.special_files import is_special


def test_files_and_directories_are_not_special(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    for path in (tmp_path, tmp_path / "file", tmp_path / "link", tmp_path / "missing"):
        assert not is_special(path)
    assert not is_special(Path(os.devnull))


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/full"])
def test_devices_are_special(path: str) -> None:
    assert is_special(Path(path))


def test_pipes_and_sockets_are_special(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    for name in ("pipe", "link", "socket"):
        assert is_special(tmp_path / name)
