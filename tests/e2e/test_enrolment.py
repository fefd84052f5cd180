"""From nothing on a second machine to waiting for tunnels: one line to join, one to wait."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.processes.child import Process, clean_environment, installed, process
from support.processes.two_machines import SERVER, TwoMachines, two_machines
from support.service import ServiceProcess, service_process
from support.waiting import HANG, wait_until

ECHO = """
import socketserver

class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"pump-7: " + self.rfile.readline())

with socketserver.TCPServer(("127.0.0.1", 7777), Echo) as server:
    server.serve_forever()
"""
OPERATOR = """
import asyncio, tailrace

async def main():
    async with tailrace.connect("pump-7", services=["ECHO"]) as tunnel:
        reader, writer = await tunnel.open_connection("ECHO")
        writer.write(b"hello\\n")
        print((await reader.readline()).decode(), end="")

asyncio.run(main())
"""


@pytest.fixture
def machines() -> Iterator[TwoMachines]:
    with two_machines() as made:
        yield made


@pytest.fixture
def service(machines: TwoMachines, tmp_path: Path) -> Iterator[ServiceProcess]:
    options = ("--host-name", SERVER, "--audit-log", str(tmp_path / "audit"))
    with service_process(tmp_path, *options, host="0.0.0.0", machine=machines.server) as running:
        yield running


def run(machine: Sequence[str], joined: Path, *command: str) -> str:
    """Run a command on a machine that has its files in ``joined``; return what it prints."""
    ended = subprocess.run(
        [*machine, *command],
        env=clean_environment(TAILRACE_SERVICE_DIR=str(joined), PYTHONWARNINGS="error"),
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def invite(tmp_path: Path, *argv: str) -> list[str]:
    """Return the words of an invitation, the command in this environment."""
    state = ("--state-dir", str(tmp_path / "state"))
    line = run((), tmp_path, installed("tailrace"), "invite", *state, *argv)
    _, *words = shlex.split(line)
    return [installed("tailrace"), *words]


@contextmanager
def waiting(machines: TwoMachines, tmp_path: Path) -> Iterator[Process]:
    """A device that waits."""
    environment = clean_environment(
        TAILRACE_SERVICE_DIR=str(tmp_path / "device"), XDG_STATE_HOME=str(tmp_path / "kept")
    )
    command = [installed("tailrace"), "agent", "run", "--service", "ECHO=7777"]
    with process("agent", [*machines.device, *command], tmp_path, environment) as agent:
        yield agent


@pytest.fixture(autouse=True)
def echo(machines: TwoMachines, tmp_path: Path) -> Iterator[None]:
    """The application of the device."""
    command = [*machines.device, sys.executable, "-c", ECHO]
    with process("echo", command, tmp_path, clean_environment()):
        yield


def test_two_machines(machines: TwoMachines, service: ServiceProcess, tmp_path: Path) -> None:
    operator, tailrace = tmp_path / "operator", installed("tailrace")

    def things() -> list[str]:
        document = json.loads(run(machines.server, operator, tailrace, "things"))
        return [each["thingName"] for each in document["waitingThings"]]

    def connected(tunnel: str) -> bool:
        document = json.loads(
            run(machines.server, operator, tailrace, "tunnel", "describe", tunnel)
        )
        state: str = document["tunnel"]["destinationConnectionState"]["status"]
        return state == "CONNECTED"

    out = run(machines.server, operator, *invite(tmp_path, "operator", "alice"))
    assert f"joined https://{SERVER}:" in out
    # One command on the device.
    out = run(machines.device, tmp_path / "device", *invite(tmp_path, "device", "pump-7"))
    assert "this machine waits for tunnels of pump-7" in out
    assert things() == []
    # And the other one.
    with waiting(machines, tmp_path):
        wait_until(lambda: things() == ["pump-7"], "the device to wait")
        said = run(machines.server, operator, sys.executable, "-c", OPERATOR)
        assert said == "pump-7: hello\n"
    # What is opened while it is away is not missed.
    wait_until(lambda: things() == [], "the service to notice that it is gone")
    open_ = ("tunnel", "open", "--thing", "pump-7", "--service", "ECHO")
    tunnel = json.loads(run(machines.server, operator, tailrace, *open_))["tunnelId"]
    with waiting(machines, tmp_path) as agent:
        wait_until(lambda: f"tunnel {tunnel}" in agent.log, "the tunnel from before")
        wait_until(lambda: connected(tunnel), "the device in the tunnel")
    for secret in (tmp_path / "device" / "service.json", operator / "service.json"):
        key = json.loads(secret.read_text())["secret_access_key"]
        for path in (*tmp_path.glob("*.log"), tmp_path / "audit"):
            assert key not in path.read_text()


def test_a_cable_that_is_out_for_a_moment(
    machines: TwoMachines, service: ServiceProcess, tmp_path: Path
) -> None:
    run(machines.device, tmp_path / "device", *invite(tmp_path, "device", "pump-7"))
    operator, tailrace = tmp_path / "operator", installed("tailrace")
    run(machines.server, operator, *invite(tmp_path, "operator", "alice"))
    with waiting(machines, tmp_path) as agent:
        wait_until(lambda: "thing pump-7 waits" in service.process.log, "the device to wait")
        machines.unplug()
        open_ = ("tunnel", "open", "--thing", "pump-7", "--service", "ECHO")
        tunnel = json.loads(run(machines.server, operator, tailrace, *open_))["tunnelId"]
        machines.plug()
        wait_until(lambda: f"tunnel {tunnel}" in agent.log, "the tunnel")
