from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tailrace.control import places
from tailrace.control.places import (
    connected,
    control_directory,
    listening_socket,
    remove_stale,
    socket_files,
)
from tailrace.errors import ConfigurationError


@contextmanager
def dead_socket(path: Path) -> Iterator[None]:
    """The socket of a process that was killed."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    yield


def name(number: int = 0) -> str:
    return f"{os.getpid()}-kind{f'-{number}' if number else ''}.sock"


def test_where_the_sockets_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given = {"XDG_RUNTIME_DIR": str(tmp_path), "XDG_STATE_HOME": "/s"}
    assert control_directory(given) == tmp_path / "tailrace"
    unit = {"RUNTIME_DIRECTORY": "/run/a:/run/b"}
    assert control_directory(given | unit) == Path("/run/a/tailrace")
    # As su leaves it behind.
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    assert control_directory(given) == Path("/s/tailrace/run")
    assert control_directory(given | {"XDG_RUNTIME_DIR": "/does/not/exist"}) == Path(
        "/s/tailrace/run"
    )


def test_a_socket_is_private_and_goes_with_its_process(tmp_path: Path):
    directory = tmp_path / "run"
    with listening_socket(directory, "kind") as sock:
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert os.listdir(directory) == [name()]
        assert stat.S_IMODE((directory / name()).stat().st_mode) == 0o600
        with connected(directory / name()), closing(sock.accept()[0]):
            pass
        assert remove_stale(directory) == 0
        assert socket_files(directory) == [directory / name()]
    assert os.listdir(directory) == []


def test_one_that_was_replaced_stays(tmp_path: Path):
    with listening_socket(tmp_path, "kind"):
        (tmp_path / name()).unlink()
        (tmp_path / name()).write_text("of another")
    assert os.listdir(tmp_path) == [name()]


def test_sockets_of_dead_processes_are_removed(tmp_path: Path):
    with dead_socket(tmp_path / "1-kind.sock"), dead_socket(tmp_path / name()):
        (tmp_path / "2-kind.sock").write_text("no socket")
        (tmp_path / "other").mkdir()
        with listening_socket(tmp_path, "kind"):
            assert sorted(os.listdir(tmp_path)) == sorted([name(), "2-kind.sock", "other"])
            connected(tmp_path / name()).close()


def test_one_that_may_not_be_removed_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError

    with dead_socket(tmp_path / "1-kind.sock"):
        monkeypatch.setattr(Path, "unlink", refuse)
        assert remove_stale(tmp_path) == 0
    assert remove_stale(tmp_path / "missing") == 0


def test_processes_of_the_same_id_have_a_socket_each(tmp_path: Path):
    """As in containers that share a directory."""
    with listening_socket(tmp_path, "kind"), listening_socket(tmp_path, "kind"):
        assert {path.name for path in socket_files(tmp_path)} == {name(), name(1)}


def test_there_is_an_end_to_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(places, "_NAMES", 1)
    with (
        listening_socket(tmp_path, "kind"),
        pytest.raises(OSError, match="in use"),
        listening_socket(tmp_path, "kind"),
    ):
        pass
    assert os.listdir(tmp_path) == []


def test_a_directory_of_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigurationError, match="open to other users"):
        listening_socket(tmp_path, "kind").__enter__()
    tmp_path.chmod(0o700)
    if os.geteuid() == 0:
        os.chown(tmp_path, 4711, 4711)
        with pytest.raises(ConfigurationError, match="belongs to another user"):
            listening_socket(tmp_path, "kind").__enter__()
    assert os.listdir(tmp_path) == []


def test_a_path_that_is_longer_than_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    long = tmp_path / ("d" * 120)
    with listening_socket(long, "kind"):
        (path,) = socket_files(long)
        connected(path).close()
        monkeypatch.setattr(os.path, "isdir", lambda path: False)
        with pytest.raises(ConfigurationError, match="too long for a socket"):
            connected(path)


def test_a_socket_with_too_many_waiting_is_not_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(places, "_BACKLOG", 0)
    with listening_socket(tmp_path, "kind"):
        path = tmp_path / name()
        with connected(path):
            with pytest.raises(BlockingIOError):
                connected(path)
            assert remove_stale(tmp_path) == 0
