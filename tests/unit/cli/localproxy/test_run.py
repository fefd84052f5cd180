from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from support.network.ports import free_port
from support.service import ServiceProcess
from support.tunnel import tunnel_of
from tailrace.cli.localproxy.run import loop_factory, run
from tailrace.common.secret import Secret
from tailrace.errors import ConfigurationError, ConnectFailed, ExitCode
from tailrace.localproxy.settings import LoopChoice, ProxySettings, TCPAddress
from tailrace.wire import Side


@pytest.fixture(autouse=True)
def _signals_as_before():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_loop_can_be_chosen():
    uvloop = pytest.importorskip("uvloop")
    assert loop_factory(LoopChoice.AUTO) is uvloop.new_event_loop
    assert loop_factory(LoopChoice.UVLOOP) is uvloop.new_event_loop
    assert loop_factory(LoopChoice.ASYNCIO) is asyncio.SelectorEventLoop


def test_without_uvloop_there_is_asyncio(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert loop_factory(LoopChoice.AUTO) is asyncio.SelectorEventLoop
    with pytest.raises(ConfigurationError, match="pip install uvloop"):
        loop_factory(LoopChoice.UVLOOP)


def without_service(**changes: Any) -> ProxySettings:
    """Settings of a proxy that gives up at once."""
    return ProxySettings(
        side=Side.DESTINATION,
        host="127.0.0.1",
        port=free_port(),
        access_token=Secret("token"),
        services={"": TCPAddress("", 22)},
        connect_retry_count=0,
        **changes,
    )


def test_what_ends_the_proxy_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    settings = without_service(json_events=True, ready_file=tmp_path / "ready")
    with pytest.raises(ConnectFailed, match="Connection refused"):
        run(settings)
    told = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]
    assert told == ["started", "connecting"]
    assert not settings.ready_file.exists()


def test_as_many_files_may_be_open_as_the_system_allows():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        with pytest.raises(ConnectFailed):
            run(without_service())
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_system_without_such_a_limit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    with pytest.raises(ConnectFailed):
        run(without_service())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("loop", [LoopChoice.ASYNCIO, LoopChoice.UVLOOP])
def test_a_signal_ends_it_in_order(
    service: ServiceProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    loop: LoopChoice,
):
    """The signal is sent when systemd would learn that the proxy is ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        ready = tmp_path / "ready"
        seen: list[bool] = []

        def interrupt() -> None:
            manager.recv(1000)
            seen.append(ready.exists())
            os.kill(os.getpid(), number)

        with tunnel_of(service, "SSH") as tunnel:
            settings = tunnel.settings(Side.SOURCE, loop=loop, ready_file=ready, json_events=True)
            thread = threading.Thread(target=interrupt)
            thread.start()
            assert run(settings) is ExitCode.OK
            thread.join()
    told = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]
    assert told == ["started", "connecting", "connected", "services", "listening", "closed"]
    assert not ready.exists()
