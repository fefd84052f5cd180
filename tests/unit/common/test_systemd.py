"""What systemd is told, as it would receive it."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.plugins.clock import ClockLoop
from support.processes.systemd import Systemd
from tailrace.common.systemd import JournalFormatter, ServiceManager, is_journal


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    if request.param == "abstract" and sys.platform != "linux":
        pytest.skip("abstract names are Linux's")
    path = str(tmp_path / "notify")
    listening = Systemd(path if request.param == "path" else "\0" + path)
    yield listening
    listening.close()


def test_it_hears_of_start_status_and_end(systemd: Systemd) -> None:
    manager = ServiceManager(systemd.environment)
    assert manager.is_there
    manager.ready("waiting")
    manager.status("waiting")  # known already
    manager.status("2 tunnels\nREADY=0")
    manager.stopping()
    assert systemd.told() == [
        "READY=1\nSTATUS=waiting",
        "STATUS=2 tunnels\\nREADY=0",
        "STOPPING=1",
    ]


def test_it_hears_of_reloads(systemd: Systemd) -> None:
    with ServiceManager(systemd.environment).reloading():
        (text,) = systemd.told()
    first, _, second = text.partition("\n")
    assert first == "RELOADING=1"
    assert second.removeprefix("MONOTONIC_USEC=").isdecimal()
    assert systemd.told() == ["READY=1"]


def test_it_hears_of_the_end_of_a_reload_that_failed(systemd: Systemd) -> None:
    with pytest.raises(ValueError, match="bad"), ServiceManager(systemd.environment).reloading():
        raise ValueError("bad")
    assert systemd.told()[-1] == "READY=1"


@pytest.mark.parametrize("is_named", [False, True])
def test_the_loop_gives_signs_of_life(systemd: Systemd, is_named: bool) -> None:
    environment = systemd.environment | {"WATCHDOG_USEC": "30000000"}
    if is_named:
        environment["WATCHDOG_PID"] = str(os.getpid())

    async def run() -> None:
        with ServiceManager(environment).watchdog(asyncio.get_running_loop()):
            await asyncio.sleep(46)
        await asyncio.sleep(100)

    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        runner.run(run())
    assert systemd.told() == ["WATCHDOG=1"] * 4  # at 0, 15, 30 and 45 s


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},
    ],
)
def test_nobody_waits_for_signs_of_life(systemd: Systemd, variables: dict[str, str]) -> None:
    async def run() -> None:
        manager = ServiceManager(systemd.environment | variables)
        with manager.watchdog(asyncio.get_running_loop()):
            await asyncio.sleep(100)

    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        runner.run(run())
    assert systemd.told() == []


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative"])
def test_nothing_is_told_to_nobody(address: str) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": address})
    assert not manager.is_there
    manager.ready("waiting")
    with manager.reloading():
        manager.stopping()


def test_a_socket_that_fails_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    manager.ready("waiting")
    manager.stopping()
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert record.getMessage() == "systemd cannot be told READY=1: No such file or directory"
    listening = Systemd(str(tmp_path / "gone"))
    manager.stopping()
    assert listening.told() == ["STOPPING=1"]
    listening.close()
    manager.stopping()
    assert sum(each.levelno >= logging.WARNING for each in caplog.records) == 2


def test_the_journal_is_told_by_its_stream(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        found = os.fstat(file.fileno())
        journal = f"{found.st_dev}:{found.st_ino}"
        assert is_journal(file, {"JOURNAL_STREAM": journal})
        assert not is_journal(file, {"JOURNAL_STREAM": "1:1"})
        assert not is_journal(file, {})
    assert not is_journal(file, {"JOURNAL_STREAM": journal})  # closed


@pytest.mark.parametrize(
    ("level", "prefix"),
    [
        (logging.DEBUG, "<7>"),
        (logging.INFO, "<6>"),
        (logging.WARNING, "<4>"),
        (logging.ERROR, "<3>"),
        (logging.CRITICAL, "<2>"),
    ],
)
def test_every_line_in_the_journal_has_a_priority(level: int, prefix: str) -> None:
    record = logging.LogRecord("a", level, __file__, 1, "one\ntwo", (), None)
    formatter = JournalFormatter(logging.Formatter("%(name)s: %(message)s"))
    assert formatter.format(record) == f"{prefix}a: one\n{prefix}two"
