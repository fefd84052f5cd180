"""Files that others may have tampered with are not opened."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tailrace.common.private_files import OTHERS, OTHERS_MAY_WRITE, open_private, why_not_private

READ = os.O_RDONLY


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    path.chmod(0o600)
    return path


def refused(path: Path, flags: int = READ, forbidden: int = OTHERS_MAY_WRITE) -> str:
    """Return why a file is refused."""
    with pytest.raises(PermissionError) as caught:
        open_private(path, flags, forbidden)
    assert caught.value.filename == str(path)
    return caught.value.strerror or ""


def test_a_new_file_is_private(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        os.close(open_private(tmp_path / "new", os.O_WRONLY | os.O_CREAT))
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600


def test_a_private_file_is_opened(path: Path) -> None:
    handle = open_private(path, READ, OTHERS)
    try:
        assert os.read(handle, 99) == b"content"
        assert not os.get_inheritable(handle)
    finally:
        os.close(handle)


def test_what_is_missing_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_private(tmp_path / "missing", READ)


@pytest.mark.parametrize("target", ["file", "missing"])
def test_links_are_not_followed(path: Path, target: str) -> None:
    link = path.with_name("link")
    link.symlink_to(target)
    assert refused(link, os.O_WRONLY | os.O_CREAT).startswith("it is a symbolic link")
    assert not path.with_name("missing").exists()


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
def test_a_pipe_is_refused_and_holds_up_nobody(tmp_path: Path, flags: int) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert refused(tmp_path / "pipe", flags) == "it is not a regular file"


def test_directories_and_devices_are_refused(tmp_path: Path) -> None:
    assert refused(tmp_path) == "it is not a regular file"
    assert refused(Path("/dev/null")) == "it is not a regular file"


@pytest.mark.parametrize(
    ("mode", "forbidden", "advice"),
    [
        (0o620, OTHERS_MAY_WRITE, "600"),
        (0o602, OTHERS_MAY_WRITE, "600"),
        (0o666, OTHERS_MAY_WRITE, "644"),
        (0o644, OTHERS, "600"),
        (0o640, OTHERS, "600"),
        (0o4750, OTHERS, "700"),
    ],
)
def test_permissions_of_others(path: Path, mode: int, forbidden: int, advice: str) -> None:
    path.chmod(mode)
    assert refused(path, READ, forbidden) == f"it is open to other users: chmod {advice} {path}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_file_of_somebody_else(path: Path) -> None:
    os.chown(path, 12345, -1)
    assert refused(path) == "it belongs to another user (uid 12345)"
    assert why_not_private(path) == "it belongs to another user (uid 12345)"
    # Root may look after the service of another user.
    os.chown(path.parent, 12345, -1)
    os.close(open_private(path, READ))


def test_directories(tmp_path: Path) -> None:
    assert why_not_private(Path("/")) == ""
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert why_not_private(link) == ""
    for mode in (0o770, 0o1777):
        tmp_path.chmod(mode)
        assert why_not_private(link) == (
            f"it is open to other users: chmod {mode & 0o755:o} {link}"
        )
    with pytest.raises(FileNotFoundError):
        why_not_private(tmp_path / "missing")
