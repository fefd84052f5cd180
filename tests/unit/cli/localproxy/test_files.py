"""Reading files and standard input."""

from __future__ import annotations

import errno
import io
import os
import pty
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from tailrace.cli.localproxy.files import (
    MAX_FILE_SIZE,
    default_state_dir,
    is_filled_directory,
    read_line,
    read_text,
    regular_files,
)


def test_read_text(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"\xef\xbb\xbfa\r\n\xff\xc3\xa9")
    assert read_text(str(path)) == "a\r\n\udcff\u00e9"


def test_state_is_kept_where_it_belongs(tmp_path: Path) -> None:
    assert default_state_dir({"XDG_STATE_HOME": "/x", "HOME": str(tmp_path)}) == Path(
        "/x/tailrace-localproxy"
    )
    home = tmp_path / ".local/state/tailrace-localproxy"
    assert default_state_dir({"HOME": str(tmp_path)}) == home
    assert default_state_dir({"HOME": str(tmp_path), "XDG_STATE_HOME": "relative"}) == home
    unit = {"HOME": str(tmp_path), "STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}
    assert default_state_dir(unit) == Path("/var/lib/a/tailrace-localproxy")


@pytest.mark.parametrize("home", ["", "relative", "/nowhere/at/all", "{other}"])
def test_no_state_is_kept_in_a_home_that_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    """As that of the user who called sudo."""
    record = pwd.struct_passwd(("me", "x", 4711, 4711, "", str(tmp_path), "/bin/sh"))
    environ = {"HOME": home.format(other="/")}
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setattr(pwd, "getpwuid", {4711: record}.__getitem__)
    assert default_state_dir(environ) is None
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: record)
    if environ["HOME"] != "/":
        assert default_state_dir(environ) == tmp_path / ".local/state/tailrace-localproxy"
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    if environ["HOME"] != "/":
        assert default_state_dir(environ) is None


def test_large_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a" * MAX_FILE_SIZE)
    assert len(read_text(str(path))) == MAX_FILE_SIZE
    path.write_bytes(b"a" * (MAX_FILE_SIZE + 1))
    with pytest.raises(OSError, match="File too large") as caught:
        read_text(str(path))
    assert caught.value.errno == errno.EFBIG


def test_devices_end(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="File too large"):
        read_text("/dev/zero")


@pytest.mark.parametrize(
    ("text", "line"),
    [("token\n", "token"), ("token\r\nmore\n", "token"), ("token", "token"), ("", ""), ("\n", "")],
)
def test_read_line(text: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert read_line("? ") == line


def test_a_closed_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert read_line("? ") == ""


def test_a_terminal_is_asked_and_shows_nothing() -> None:
    script = "from tailrace.cli.localproxy.files import read_line; print(len(read_line('Token: ')))"
    master, terminal = pty.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=terminal,
            start_new_session=True,
        ) as process:
            os.close(terminal)
            said = b""
            while b"Token: " not in said:
                said += os.read(master, 1024)
            os.write(master, b"hunter2\n")
            assert process.stdout is not None
            assert process.stdout.read() == b"7\n"
            said += os.read(master, 1024)
        assert b"hunter2" not in said
    finally:
        os.close(master)


def test_filled_directories(tmp_path: Path) -> None:
    assert not is_filled_directory(str(tmp_path))
    assert not is_filled_directory(str(tmp_path / "x"))
    (tmp_path / "f").touch()
    assert is_filled_directory(str(tmp_path))
    assert not is_filled_directory(str(tmp_path / "f"))


def test_regular_files(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a/c/3", "z", "0"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "link").symlink_to(tmp_path / "z")
    (tmp_path / "nowhere").symlink_to(tmp_path / "x")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    found = [os.path.relpath(path, tmp_path) for path in regular_files(str(tmp_path))]
    assert found == ["0", "link", "z", "a/c/3", "b/1", "b/2"]


def test_no_directory_has_no_files(tmp_path: Path) -> None:
    assert regular_files(str(tmp_path / "x")) == []
