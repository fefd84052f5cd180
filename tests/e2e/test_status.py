"""``tailrace status`` and ``watch`` with real processes: what is told, and what a kill leaves."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from support.network.applications import application, exchange, mirror
from support.processes.child import clean_environment, installed, process
from support.service import service_process
from support.tunnel import both_processes, tunnel_of
from support.waiting import HANG
from tailrace.wire import Side

SIZE = 300_000


def run(*arguments: str) -> str:
    """Return what a sub-command of tailrace prints."""
    ended = subprocess.run(
        [installed("tailrace"), *arguments],
        capture_output=True,
        text=True,
        timeout=HANG,
        env=clean_environment(),
        check=True,
    )
    assert ended.stderr == ""
    return ended.stdout


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=HANG) as answer:
        text: str = answer.read().decode()
        return text


def processes() -> dict[int, dict[str, Any]]:
    """Return what runs, by process id."""
    return {each["pid"]: each for each in json.loads(run("status", "--json"))["processes"]}


async def test_what_runs_is_told_by_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    with service_process(tmp_path) as service, tunnel_of(service, "SSH") as tunnel:
        endpoints = service.endpoints
        command = [installed("tailrace"), "agent", "run", "--service", "SSH=1", "--notify-file"]
        command += [str(tmp_path / "notifications"), "--state-dir", str(tmp_path / "agent")]
        command += ["--proxy-endpoint", endpoints.data_endpoint, "--capath", endpoints.ca_dir]
        async with (
            application(mirror) as where,
            both_processes(tmp_path, tunnel, {"SSH": where}, "--metrics-listen", "0") as ends,
        ):
            source, destination, ports = ends
            with process("agent", command, tmp_path, clean_environment()) as agent:
                await agent.said("status: ")
                await exchange(ports["SSH"], SIZE)
                found = processes()
                assert {pid: each["kind"] for pid, each in found.items()} == {
                    service.process.pid: "serve",
                    agent.pid: "agent",
                    source.pid: "localproxy",
                    destination.pid: "localproxy",
                }
                assert found[service.process.pid]["service"]["tunnels"]["open"] == 1
                assert found[agent.pid]["summary"].startswith("0 of 0 tunnels up, 20 allowed")
                for side, pid in ((Side.SOURCE, source.pid), (Side.DESTINATION, destination.pid)):
                    (end,) = found[pid]["tunnels"]
                    assert (end["side"], end["phase"]) == (side.value, "connected")
                    assert (end["opened"], end["peer"]) == (1, "connected")
                    assert min(end["bytes_in"], end["bytes_out"]) >= SIZE
                    assert tunnel.tokens[side].reveal() not in json.dumps(found)

                (url,) = re.findall(r"metrics at (http://\S+)", source.log)
                metrics = await asyncio.to_thread(fetch, url)
                assert 'tailrace_proxy_bytes_total{direction="in",side="source",' in metrics

                looks = run("watch", "--count", "2", "--interval", "0.1").split("\n\n")
                assert [look.count("localproxy ") for look in looks[:2]] == [2, 2]

                source.signal(signal.SIGUSR1)
                await source.said(" of 1 connections open; 300 kB in, 300 kB out")

            socket_file = runtime / "tailrace" / f"{source.pid}-localproxy.sock"
            assert socket_file.is_socket()
            source.kill()
            assert socket_file.is_socket()
            assert processes().keys() == {service.process.pid, destination.pid}
            assert not socket_file.exists()
            destination.terminate()
            await destination.exit_code()
        service.stop()
    assert list((runtime / "tailrace").iterdir()) == []
