from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from support.waiting import until
from tailrace.control import server as module
from tailrace.control.places import connected
from tailrace.control.server import REQUEST, told


@asynccontextmanager
async def asked(directory: Path, details: dict[str, Any] | None = None) -> AsyncIterator[Path]:
    """A process that tells; gives the path of its socket."""
    environment = {"XDG_RUNTIME_DIR": str(directory)}
    async with told("kind", lambda: details or {}, environment):
        yield directory / "tailrace" / f"{os.getpid()}-kind.sock"


async def ask(path: Path, *pieces: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(sock=connected(path))
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    try:
        return await reader.read()
    finally:
        writer.close()


@pytest.mark.usefixtures("loop_kind")
async def test_a_line_is_answered_by_a_document(tmp_path: Path):
    async with asked(tmp_path, {"tunnels": [1, 2]}) as path:
        for pieces in ((REQUEST,), (b"sta", b"tus\n"), (REQUEST + b"more",)):
            answer = await ask(path, *pieces)
            assert answer.endswith(b"}\n")
            document = json.loads(answer)
            assert (document["kind"], document["pid"]) == ("kind", os.getpid())
            assert document["tunnels"] == [1, 2]
    assert not path.exists()


@pytest.mark.usefixtures("loop_kind")
async def test_one_who_asks_and_says_no_more_is_answered(tmp_path: Path):
    """As nc does."""
    async with asked(tmp_path) as path:
        reader, writer = await asyncio.open_unix_connection(sock=connected(path))
        writer.write(REQUEST)
        writer.write_eof()
        assert json.loads(await reader.read())["kind"] == "kind"
        writer.close()


@pytest.mark.usefixtures("loop_kind")
@pytest.mark.parametrize("request_", [b"\n", b"stop\n", b"x" * 65, b"x" * 1_000_000])
async def test_what_is_no_request(tmp_path: Path, request_: bytes):
    async with asked(tmp_path) as path:
        try:
            answer = await ask(path, request_)
        except ConnectionError:  # it was not read to its end
            return
        assert json.loads(answer)["error"].startswith("not a request")


async def test_clients_do_not_hold_up_the_end(tmp_path: Path):
    async with asked(tmp_path) as path:
        reader, writer = await asyncio.open_unix_connection(sock=connected(path))
        await asyncio.sleep(0.01)
    with suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()


@pytest.mark.usefixtures("loop_kind")
async def test_the_signal_writes_it_to_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    before = signal.getsignal(signal.SIGUSR1)
    async with told("kind", lambda: {"summary": "3 lamps"}, {}, at_socket=False):
        os.kill(os.getpid(), signal.SIGUSR1)
        await until(lambda: bool(caplog.messages), "the log")
    assert caplog.messages == [f"kind {os.getpid()}, up 0 s: 3 lamps"]
    assert signal.getsignal(signal.SIGUSR1) == before


async def test_a_process_goes_without_a_socket(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    caplog.set_level(logging.DEBUG, "tailrace")
    (tmp_path / "tailrace").write_text("in the way")
    async with asked(tmp_path) as path:
        assert not path.exists()
    (record,) = [each for each in caplog.records if each.name == "tailrace.control"]
    assert record.levelno == logging.DEBUG
    assert "no control socket: cannot make the directory" in record.getMessage()
    caplog.clear()
    monkeypatch.setattr(module, "HAS_SOCKETS", False)
    async with asked(tmp_path):
        pass
    assert not [each for each in caplog.records if each.name == "tailrace.control"]


def test_other_threads_and_systems_go_without_the_signal(tmp_path: Path):
    async def tell() -> None:
        async with asked(tmp_path) as path:
            assert await ask(path, REQUEST)

    thread = threading.Thread(target=asyncio.run, args=(tell(),))
    thread.start()
    thread.join()
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(signal, "SIGUSR1")
        asyncio.run(tell())
