"""Notifications on standard input, whatever that is."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path

import pytest

from support.waiting import until
from tailrace.agent.sources import stdin as module
from tailrace.agent.sources.base import Delivery
from tailrace.agent.sources.stdin import StdinSource
from tailrace.errors import NotificationNotStored


def line(token: str) -> bytes:
    return json.dumps({"clientAccessToken": token}).encode() + b"\n"


class Received:
    """Notes what is delivered; fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.tokens: list[str] = []
        self.failures = failures

    async def __call__(self, delivery: Delivery) -> None:
        if self.failures:
            self.failures -= 1
            raise NotificationNotStored("full")
        self.tokens.append(json.loads(delivery.payload)["clientAccessToken"])


async def test_lines_of_a_pipe_are_delivered_until_it_ends(loop_kind: str) -> None:
    reading, writing = os.pipe()
    received = Received()
    source = StdinSource(reading)
    running = asyncio.get_running_loop().create_task(source.run(received))
    os.write(writing, line("a")[:10])
    await asyncio.sleep(0)
    os.write(writing, line("a")[10:] + line("b") + b"\n")
    await until(lambda: received.tokens == ["a", "b"])
    assert source.status() == "read"
    os.write(writing, line("c")[:-1])
    os.close(writing)
    await running
    assert received.tokens == ["a", "b", "c"]
    assert (source.name, source.status()) == ("standard input", "ended")
    assert os.get_blocking(reading)
    os.close(reading)


async def test_it_can_be_cancelled_and_leaves_the_pipe_as_it_was(loop_kind: str) -> None:
    reading, writing = os.pipe()
    running = asyncio.get_running_loop().create_task(StdinSource(reading).run(Received()))
    await until(lambda: not os.get_blocking(reading))
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert os.get_blocking(reading)
    for each in (reading, writing):
        os.close(each)


async def test_a_socket_is_read() -> None:
    ours, theirs = socket.socketpair()
    received = Received()
    with ours, theirs:
        ours.sendall(line("a"))
        ours.shutdown(socket.SHUT_WR)
        await StdinSource(theirs.fileno()).run(received)
    assert received.tokens == ["a"]


async def test_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    path, received = tmp_path / "input", Received()
    path.write_bytes(line("a") * 200 + line("b"))
    with path.open("rb") as file:
        await StdinSource(file.fileno()).run(received)
    assert received.tokens == ["a"] * 200 + ["b"]


async def test_nothing_is_an_end() -> None:
    received = Received()
    null = os.open(os.devnull, os.O_RDONLY)
    await StdinSource(null).run(received)
    os.close(null)
    assert received.tokens == []


async def test_a_terminal_is_read() -> None:
    ours, theirs = os.openpty()
    received = Received()
    running = asyncio.get_running_loop().create_task(StdinSource(theirs).run(received))
    os.write(ours, line("a"))
    await until(lambda: received.tokens == ["a"])
    running.cancel()
    await asyncio.wait([running])
    for each in (ours, theirs):
        os.close(each)


async def test_a_line_that_is_too_long_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # vector 20
    path, received = tmp_path / "input", Received()
    path.write_bytes(b"x" * 1_000_000 + b"\n" + line("a"))
    with path.open("rb") as file:
        await StdinSource(file.fileno()).run(received)
    assert received.tokens == ["a"]
    (record,) = caplog.records
    assert record.message == "standard input: a line is too long: dropped"


async def test_what_could_not_be_stored_is_delivered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RETRY_DELAY", 0.001)
    path, received = tmp_path / "input", Received(failures=3)
    path.write_bytes(line("a") + line("b"))
    with path.open("rb") as file:
        await StdinSource(file.fileno()).run(received)
    assert received.tokens == ["a", "b"]
