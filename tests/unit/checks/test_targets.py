"""Applications that answer, and those that do not."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import pytest

from support.network.applications import application, echo
from support.network.ports import free_port
from tailrace.checks.findings import Verdict
from tailrace.checks.targets import check_target
from tailrace.common.addresses import TCPAddress, UnixAddress


async def test_a_port_of_this_machine() -> None:
    async with application(echo, TCPAddress("127.0.0.1", 0)) as at:
        assert isinstance(at, TCPAddress)
        finding = await check_target(TCPAddress("", at.port))
        assert finding.verdict is Verdict.OK
        finding = await check_target(at, ["127.0.0.0/8"])
        assert finding.figure == f"127.0.0.1:{at.port} accepts connections"


async def test_a_port_that_is_closed() -> None:
    finding = await check_target(TCPAddress("127.0.0.1", free_port()))
    assert finding.verdict is Verdict.FAILED
    assert "Connection refused" in finding.figure
    assert finding.fix == "start the application, or correct the target"


async def test_a_host_that_is_not_known() -> None:
    finding = await check_target(TCPAddress("nowhere.invalid", 80))
    assert finding.fix == "correct the host of the target"


async def test_a_host_that_is_elsewhere() -> None:
    async with application(echo, TCPAddress("127.0.0.1", 0)) as at:
        finding = await check_target(at, ["10.0.0.0/8", "fd00::/8"])
    assert finding.verdict is Verdict.FAILED
    assert finding.figure == f"{at} is at 127.0.0.1, where the rule does not allow it to be"
    assert finding.fix.endswith("it has 10.0.0.0/8, fd00::/8")


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    finding = await check_target(UnixAddress(str(path)))
    assert finding.figure == f"{path}: No such file or directory"
    assert finding.fix == "start the application, or correct the path"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        finding = await check_target(UnixAddress(str(path)))
        assert finding.fix == "start the application"
        listening.listen()
        assert (await check_target(UnixAddress(str(path)))).verdict is Verdict.OK


@pytest.mark.skipif(os.geteuid() == 0, reason="root may connect to any socket")
async def test_a_unix_socket_of_others(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        path.chmod(0)
        assert "SupplementaryGroups" in (await check_target(UnixAddress(str(path)))).fix


async def test_an_application_whose_queue_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailrace.checks.targets._PATIENCE", 0.05)
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(0)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        for each in clients:
            each.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                each.connect(str(path))
        finding = await check_target(UnixAddress(str(path)))
        for each in clients:
            each.close()
    assert finding.verdict is Verdict.FAILED
