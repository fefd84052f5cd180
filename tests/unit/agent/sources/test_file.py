"""A file with notifications, watched."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from support.waiting import until
from tailrace.agent.notification import LIFETIME
from tailrace.agent.sources import file as module
from tailrace.agent.sources.base import Delivery
from tailrace.agent.sources.file import FileSource
from tailrace.errors import NotificationNotStored


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PERIOD", 0.005)
    monkeypatch.setattr(module, "_RETRY_DELAY", 0.01)


def document(token: str) -> bytes:
    return json.dumps({"clientAccessToken": token}).encode()


class Received:
    """Notes what is delivered; fails as often as it is told to."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.failures = 0

    async def __call__(self, delivery: Delivery) -> None:
        if self.failures:
            self.failures -= 1
            raise NotificationNotStored("full")
        self.tokens.append(json.loads(delivery.payload)["clientAccessToken"])


@asynccontextmanager
async def watching(source: FileSource, received: Received) -> AsyncIterator[None]:
    running = asyncio.get_running_loop().create_task(source.run(received))
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()


def write(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a file in one step."""
    new = path.with_suffix(".new")
    new.touch(mode)
    new.chmod(mode)
    new.write_bytes(content)
    new.replace(path)


async def test_each_notification_is_delivered_once(tmp_path: Path) -> None:
    path, received = tmp_path / "notify", Received()
    source = FileSource(path)
    assert source.name == f"file {path}"
    async with watching(source, received):
        await until(lambda: source.status() == "there is no such file yet")
        write(path, document("a"))
        await until(lambda: received.tokens == ["a"])
        assert source.status() == "watched"
        with path.open("ab") as file:
            file.write(b"\n" + document("b") + b"\n" + document("c") + b"\n")
        await until(lambda: received.tokens == ["a", "b", "c"])
        path.unlink()
        await until(lambda: source.status() != "watched")
        write(path, document("c") + b"\n" + document("d") + b"\n")
        await until(lambda: len(received.tokens) > 3)
    assert received.tokens == ["a", "b", "c", "d"]


async def test_a_file_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    path, received = tmp_path / "notify", Received()
    path.touch(0o600)
    source = FileSource(path)
    text = document("a")
    async with watching(source, received):
        with path.open("wb", buffering=0) as file:
            for byte in text[:-1]:
                file.write(bytes([byte]))
                assert source._new_documents() == []
            file.write(text[-1:])
            await until(lambda: received.tokens == ["a"])


async def test_one_that_stays_unfinished_is_delivered_to_be_judged(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    write(path, b'{"clientAcc')
    source = FileSource(path)
    assert source._new_documents() == []
    assert source._new_documents() == [b'{"clientAcc']


async def test_what_could_not_be_stored_is_delivered_again(tmp_path: Path) -> None:
    path, received = tmp_path / "notify", Received()
    write(path, document("a") + b"\n" + document("b") + b"\n")
    received.failures = 3
    async with watching(FileSource(path), received):
        await until(lambda: len(received.tokens) == 2)
    assert received.tokens == ["a", "b"]


async def test_a_large_file_is_read_from_its_end(tmp_path: Path) -> None:
    path, received = tmp_path / "notify", Received()
    line = document("x" * 1000) + b"\n"
    write(path, line * 100 + document("last") + b"\n")
    source = FileSource(path)
    async with watching(source, received):
        await until(lambda: "last" in received.tokens)
    assert set(received.tokens) == {"x" * 1000, "last"}


async def test_a_file_of_yesterday_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "notify"
    write(path, document("a"))
    now = path.stat().st_mtime
    assert FileSource(path, now=lambda: now + LIFETIME + 1)._new_documents() == []
    assert "older than any tunnel" in caplog.text
    assert FileSource(path, now=lambda: now + LIFETIME - 1)._new_documents() == [document("a")]
    # A clock that was not set yet.
    assert FileSource(path, now=lambda: 0)._new_documents() == [document("a")]
    # It was set since the file was written.
    os.utime(path, (1000, 1000))
    assert FileSource(path)._new_documents() == [document("a")]


async def test_a_file_that_others_may_write_to_is_not_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, received = tmp_path / "notify", Received()
    write(path, document("a"), 0o622)
    source = FileSource(path)
    async with watching(source, received):
        await until(lambda: "open to other users" in source.status())
        assert len(caplog.records) == 1
        path.chmod(0o600)
        await until(lambda: received.tokens == ["a"])


@pytest.mark.parametrize("kind", ["directory", "pipe", "link"])
async def test_what_is_no_file_of_its_own_is_not_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "notify"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        write(tmp_path / "target", document("a"))
        path.symlink_to(tmp_path / "target")
    source = FileSource(path)
    assert source._new_documents() == []
    assert source.status().startswith("it cannot be read: it is")


async def test_that_others_may_read_it_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "notify"
    source = FileSource(path)
    for token in "ab":
        write(path, document(token), 0o644)
        assert len(source._new_documents()) == 1
    (record,) = caplog.records
    assert "chmod 600" in record.message


async def test_a_missing_file_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    source = FileSource(tmp_path / "notify")
    for _ in range(3):
        assert source._new_documents() == []
    assert len(caplog.records) == 1
