from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tailrace.control.places import listening_socket
from tailrace.control.server import told
from tailrace.errors import ConfigurationError
from tailrace.operator import processes as module
from tailrace.operator.processes import Reading, directories, read_processes


@asynccontextmanager
async def answering(directory: Path, answer: bytes | None) -> AsyncIterator[None]:
    """A process that answers in its own way; ``None``: not at all."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        if answer is not None:
            writer.write(answer)
            writer.close()
        else:
            await reader.read()
            writer.close()

    with listening_socket(directory, "odd") as sock:
        server = await asyncio.start_unix_server(serve, sock=sock)
        yield
        server.close()
        await server.wait_closed()


async def test_what_processes_tell(tmp_path: Path):
    environment = {"XDG_RUNTIME_DIR": str(tmp_path)}
    async with (
        told("serve", lambda: {"summary": "\x1b[2J"}, environment),
        told("agent", lambda: {"tunnels": []}, environment),
    ):
        found = await read_processes([tmp_path / "tailrace"])
    assert [(each.pid, each.kind, each.problem) for each in found] == [
        (os.getpid(), "agent", ""),
        (os.getpid(), "serve", ""),
    ]
    assert found[1].document is not None
    assert found[1].document["summary"] == "\\x1b[2J"
    assert await read_processes([tmp_path / "tailrace"]) == []
    assert await read_processes([tmp_path / "missing"]) == []


async def test_sockets_of_dead_processes_are_removed(tmp_path: Path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "1-localproxy.sock"))
    # Of another use, and just being made.
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "tunnel-1234.sock"))
        assert await read_processes([tmp_path]) == []
    assert os.listdir(tmp_path) == ["tunnel-1234.sock"]


def nested(depth: int) -> bytes:
    return b"[" * depth


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"", "it has answered nothing"),
        (b"{}", "it has answered nothing"),
        (b"x" * 10_000, "it has answered nothing"),
        (b"hello\n", "cannot be asked: Expecting value"),
        (b"[]\n", "it is of another version"),
        (b'{"format": 99}\n', "it is of another version"),
        (b'{"format": 1, "kind": "odd"}\n', "it makes no sense"),
        (nested(100_000) + b"\n", "it makes no sense"),
    ],
)
async def test_answers_of_no_use(tmp_path: Path, answer: bytes, problem: str):
    async with answering(tmp_path, answer):
        (found,) = await read_processes([tmp_path])
    assert (found.pid, found.kind, found.document) == (os.getpid(), "odd", None)
    assert problem.removeprefix("it ") in found.problem
    assert found.problem.isprintable()


async def test_an_answer_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_LARGEST", 100)
    async with answering(tmp_path, json.dumps({"text": 1000 * "x"}).encode() + b"\n"):
        (found,) = await read_processes([tmp_path])
    assert "too long" in found.problem


async def test_a_process_that_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_PATIENCE", 0.01)
    async with answering(tmp_path, None):
        found = await read_processes([tmp_path])
    assert found == [
        Reading(os.getpid(), "odd", None, "does not answer; it may be stopped or overloaded")
    ]


def test_where_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given = {"XDG_RUNTIME_DIR": str(tmp_path)}
    own = tmp_path / "tailrace"
    assert directories(given, [Path("/a"), Path("/b")]) == [Path("/a"), Path("/b")]
    for place in ("run/tailrace", "run/unit/tailrace", "run/user/1000/tailrace"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "run/user/1001").mkdir()
    (tmp_path / "run/user/1001/tailrace").touch()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    found = {*directories(given, root=tmp_path)}
    assert found >= {
        tmp_path / "run/tailrace",
        tmp_path / "run/unit/tailrace",
        tmp_path / "run/user/1000/tailrace",
    }
    # What a user has put there holds up no look at the others.
    assert tmp_path / "run/user/1001/tailrace" not in found
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid or 4711)
    os.chown(tmp_path, os.geteuid(), -1) if os.getuid() == 0 else None
    assert directories(given, root=tmp_path) == [own]


def test_there_may_be_nowhere_to_look(monkeypatch: pytest.MonkeyPatch):
    def nobody() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(ConfigurationError, match="set XDG_RUNTIME_DIR"):
        directories({})
    monkeypatch.setattr(module, "HAS_SOCKETS", False)
    with pytest.raises(ConfigurationError, match="no unix sockets"):
        directories({})


async def test_directories_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    user = os.stat(tmp_path).st_uid
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with pytest.raises(ConfigurationError, match=rf"belongs to another user \(uid {user}\)"):
        await read_processes([tmp_path])
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "1-localproxy.sock"))
    os.chown(tmp_path, 4711, -1) if user == 0 else None
    assert await read_processes([tmp_path]) == []
    # It is not for root to tidy up there.
    assert os.listdir(tmp_path) == (["1-localproxy.sock"] if user == 0 else os.listdir(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"cannot read .*: Not a directory"):
        await read_processes([tmp_path / "file"])


@pytest.mark.parametrize(
    "broken",
    [{"clock": None}, {"clock": "now"}, {"tunnel": 7}, {"side": ["source"]}, {"peer": {"a": 1}}],
)
async def test_what_could_not_be_shown(
    tmp_path: Path, proxy: dict[str, Any], broken: dict[str, Any]
):
    document = proxy | {name: value for name, value in broken.items() if name in proxy}
    tunnel = proxy["tunnels"][0]
    document["tunnels"] = [tunnel | {k: v for k, v in broken.items() if k in tunnel}]
    assert document != proxy
    async with answering(tmp_path, json.dumps(document).encode() + b"\n"):
        (found,) = await read_processes([tmp_path])
    assert (found.document, found.problem) == (None, "cannot be asked: its answer makes no sense")


async def test_answers_that_are_too_long_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: dict[str, Any]
):
    answer = json.dumps(proxy).encode() + b"\n"
    monkeypatch.setattr(module, "_LARGEST_SUM", 2 * len(answer) - 1)
    async with answering(tmp_path, answer), answering(tmp_path, answer):
        found = await read_processes([tmp_path])
    assert sorted(each.problem for each in found) == [
        "",
        "cannot be asked: those before it have answered too much",
    ]
