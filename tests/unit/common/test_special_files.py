"""What is no file."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from tailrace.common.special_files import is_special, read_regular_file


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


def test_a_regular_file_is_read_up_to_a_size(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"content")
    link.symlink_to(path)
    assert read_regular_file(path, 7) == read_regular_file(link, 100) == b"content"
    with pytest.raises(OSError, match="it has more than 6 bytes") as caught:
        read_regular_file(path, 6)
    assert caught.value.errno == errno.EFBIG


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match="it is not a regular file"):
            read_regular_file(path, 100)
    with pytest.raises(FileNotFoundError):
        read_regular_file(tmp_path / "missing", 100)
