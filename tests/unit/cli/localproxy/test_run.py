from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.network.ports import free_port
from support.service import ServiceProcess
from support.tunnel import tunnel_of
from tailrace.cli.localproxy import run as module
from tailrace.cli.localproxy.run import run
from tailrace.cli.localproxy.settings import CommandSettings
from tailrace.common.addresses import TCPAddress
from tailrace.common.event_loop import LoopChoice
from tailrace.common.secret import Secret
from tailrace.control.places import connected
from tailrace.control.server import REQUEST
from tailrace.errors import ConfigurationError, ConnectFailed
from tailrace.localproxy.client_token import kept_client_token
from tailrace.localproxy.settings import ProxySettings
from tailrace.wire import Side


@pytest.fixture(autouse=True)
def _signals_as_before():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def without_service(**changes: Any) -> CommandSettings:
    """Settings of a proxy that gives up at once."""
    proxy = ProxySettings(
        side=Side.DESTINATION,
        host="127.0.0.1",
        port=free_port(),
        access_token=Secret("token"),
        services={"": TCPAddress("", 22)},
        connect_retry_count=0,
    )
    return CommandSettings(proxy=proxy, **changes)


def test_what_ends_the_proxy_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    settings = without_service(json_events=True, ready_file=tmp_path / "ready")
    with pytest.raises(ConnectFailed, match="Connection refused"):
        run(settings)
    told = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]
    assert told == ["started", "connecting"]
    assert not settings.ready_file.exists()


def test_signs_of_life(
    service: ServiceProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "60000000")

        def listen() -> None:
            while not told or not told[-1].startswith(b"READY=1"):
                told.append(manager.recv(1000))
            os.kill(os.getpid(), signal.SIGTERM)

        with tunnel_of(service, "SSH") as tunnel:
            thread = threading.Thread(target=listen)
            thread.start()
            run(CommandSettings(proxy=tunnel.settings(Side.SOURCE)))
            thread.join()
    assert told[0] == b"WATCHDOG=1"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("loop", [LoopChoice.ASYNCIO, LoopChoice.UVLOOP])
def test_a_signal_ends_it_in_order(
    service: ServiceProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    loop: LoopChoice,
    caplog: pytest.LogCaptureFixture,
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

        caplog.set_level(logging.INFO)
        with tunnel_of(service, "SSH") as tunnel:
            settings = CommandSettings(
                proxy=tunnel.settings(Side.SOURCE), loop=loop, ready_file=ready, json_events=True
            )
            thread = threading.Thread(target=interrupt)
            thread.start()
            run(settings)
            thread.join()
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    # It may come before the signal does, or not at all.
    events = [event for event in events if event["event"] != "peer_left"]
    told = [event["event"] for event in events]
    assert told == ["started", "connecting", "connected", "services", "listening", "closed"]
    assert events[-1]["by"] == "request"
    # A port that was picked is given as what it is.
    assert events[3]["services"] == {"SSH": str(events[4]["port"])}
    assert events[4]["assigned"]
    assert {event["tunnel"] for event in events} == {tunnel.tokens[Side.SOURCE].digest[:16]}
    assert f"Ending on {number.name}" in caplog.messages
    assert "close received" not in caplog.text
    assert not ready.exists()


def test_the_client_token_is_kept_in_the_state_directory(service: ServiceProcess, tmp_path: Path):
    """A second run with the same access token is let in again."""
    with tunnel_of(service, "SSH") as tunnel:
        ready = tmp_path / "ready"
        settings = CommandSettings(
            proxy=tunnel.settings(Side.SOURCE), ready_file=ready, state_dir=tmp_path / "state"
        )
        for _ in range(2):

            def end_when_ready() -> None:
                while not ready.exists():
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGTERM)

            thread = threading.Thread(target=end_when_ready)
            thread.start()
            run(settings)
            thread.join()
    assert len(list((tmp_path / "state").iterdir())) == 1


def test_a_given_client_token_needs_no_state_directory(tmp_path: Path):
    settings = without_service(state_dir=tmp_path / "state")
    proxy = replace(settings.proxy, client_token=Secret("c" * 32))
    with pytest.raises(ConnectFailed):
        run(replace(settings, proxy=proxy))
    assert list(tmp_path.iterdir()) == []


def test_a_state_directory_that_cannot_be_used(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """An error where it was asked for, a warning where it is the default."""
    (tmp_path / "file").write_text("")
    settings = without_service(state_dir=tmp_path / "file" / "state", state_needed=True)
    with pytest.raises(ConfigurationError) as caught:
        run(settings)
    assert caught.value.setting == "state_dir"
    assert caplog.messages == []
    with pytest.raises(ConnectFailed):
        run(replace(settings, state_needed=False))
    warned = [message for message in caplog.messages if "after a restart" in message]
    assert len(warned) == 1
    assert warned[0].startswith(f"{caught.value}; ")


@pytest.mark.parametrize("control", [True, False])
def test_it_tells_what_it_does(
    service: ServiceProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, control: bool
):
    """At a control socket, unless that is not wanted; never with a token."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    ready = tmp_path / "ready"
    told: list[bytes] = []

    def look() -> None:
        while not ready.exists():
            time.sleep(0.01)
        for path in (tmp_path / "tailrace").glob("*.sock"):
            with connected(path) as sock:
                sock.settimeout(60)
                sock.sendall(REQUEST)
                told.append(b"".join(iter(lambda: sock.recv(65_536), b"")))
        os.kill(os.getpid(), signal.SIGTERM)

    with tunnel_of(service, "SSH") as tunnel:
        settings = CommandSettings(
            proxy=tunnel.settings(Side.SOURCE), ready_file=ready, control=control
        )
        thread = threading.Thread(target=look)
        thread.start()
        run(settings)
        thread.join()
    assert len(told) == control
    for each in told:
        assert tunnel.tokens[Side.SOURCE].reveal().encode() not in each
        document = json.loads(each)
        assert document["kind"] == "localproxy"
        (end,) = document["tunnels"]
        assert end["tunnel"] == tunnel.tokens[Side.SOURCE].digest[:16]
        assert (end["side"], end["services"]) == ("source", {"SSH": 0})
    assert not list(tmp_path.glob("tailrace/*"))


def test_an_access_token_that_another_proxy_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    settings = without_service(state_dir=tmp_path)
    with (
        kept_client_token(tmp_path, settings.proxy.access_token),
        pytest.raises(ConfigurationError, match=rf"has this access token: pid {os.getpid()} "),
    ):
        run(settings)
