"""Real programs through the tunnel: iperf3, curl, ssh."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from ..contenders.base import Contender, find_tool
from ..contenders.openssh import SSHServer
from ..errors import BenchError
from ..model import Better, Metric
from ..processes import Supervisor, unused_port
from ..rig import Rig
from ..site import LOOPBACK, Address, Site
from .base import Bench, Measured, Scenario

__all__ = ["Tools"]

_MIB: Final = 1024 * 1024
_TIMEOUT: Final = 120.0
_SESSIONS: Final = 5


class Tools(Scenario):
    """What users would run; each tool brings its own server."""

    name = "tools"
    title = "Real programs"
    metrics = (
        Metric("rate", "throughput", "MB/s", Better.HIGHER, 0),
        Metric("session", "time of a session", "ms", Better.LOWER, 0),
    )

    def missing(self) -> str | None:
        if not any(find_tool(tool) for tool in ("iperf3", "curl", "ssh")):
            return "none of iperf3, curl and ssh is installed"
        return None

    def measure(self, bench: Bench, contender: Contender) -> Iterator[Measured]:
        servers = _Servers(bench)
        rig = Rig(bench.supervisor, contender, more=servers.applications)
        if "IPERF" in servers.applications:
            yield from self._iperf(bench, rig)
        if "HTTP" in servers.applications and bench.wants("curl download"):
            bench.say("curl")
            yield "curl download", {"rate": _curl(rig.running.endpoints["HTTP"], servers.size)}
        if servers.ssh is not None:
            yield from self._ssh(bench, servers.ssh, rig.running.endpoints["SSH"], servers)

    def _iperf(self, bench: Bench, rig: Rig) -> Iterator[Measured]:
        at = rig.running.endpoints["IPERF"]
        seconds = str(bench.pick(3, 1))
        for case, options in (
            ("iperf3 up", []),
            ("iperf3 down", ["-R"]),
            ("iperf3 up, 8 connections", ["-P", "8"]),
        ):
            if not bench.wants(case):
                continue
            bench.say(case)
            words = ["iperf3", "-c", at.host, "-p", str(at.port), "-J", "-t", seconds, *options]
            done = _run(words)
            report: dict[str, Any] = json.loads(done)
            if "error" in report:
                raise BenchError(f"{case}: {report['error']}")
            yield case, {"rate": report["end"]["sum_received"]["bits_per_second"] / 8e6}

    def _ssh(
        self, bench: Bench, server: SSHServer, at: Address, servers: _Servers
    ) -> Iterator[Measured]:
        command = server.client(at)
        if bench.wants("ssh host true"):
            bench.say("ssh host true")
            taken = []
            for _ in range(_SESSIONS):
                begun = time.monotonic()
                _run([*command, "true"])
                taken.append(time.monotonic() - begun)
            yield "ssh host true", {"session": sorted(taken)[_SESSIONS // 2] * 1e3}
        if bench.wants("ssh host cat"):
            bench.say("ssh host cat")
            begun = time.monotonic()
            got = len(_run([*command, f"cat {servers.file}"]))
            if got != servers.size:
                raise BenchError(f"ssh host cat: {got} of {servers.size} bytes came")
            yield "ssh host cat", {"rate": servers.size / (time.monotonic() - begun) / 1e6}


class _Servers:
    """The servers of the tools that are installed."""

    def __init__(self, bench: Bench) -> None:
        supervisor: Supervisor = bench.supervisor
        self.applications: dict[str, Address] = {}
        self.size = bench.pick(512, 96) * _MIB
        directory = supervisor.path("files")
        directory.mkdir()
        self.file = directory / "file.bin"
        block = os.urandom(_MIB)
        with self.file.open("wb") as file:
            for _ in range(self.size // _MIB):
                file.write(block)
        if (iperf := find_tool("iperf3")) is not None:
            port = unused_port()
            process = supervisor.spawn("iperf3", [iperf, "-s", "-B", LOOPBACK, "-p", str(port)])
            supervisor.wait_for_port(port, process)
            self.applications["IPERF"] = Address(LOOPBACK, port)
        if find_tool("curl") is not None:
            port = unused_port()
            command = [sys.executable, "-m", "http.server", "--bind", LOOPBACK, str(port)]
            process = supervisor.spawn("http", [*command, "--directory", str(directory)])
            supervisor.wait_for_port(port, process)
            self.applications["HTTP"] = Address(LOOPBACK, port)
        self.ssh: SSHServer | None = None
        if SSHServer.missing() is None:
            self.ssh = SSHServer(supervisor, Site(), LOOPBACK)
            self.applications["SSH"] = Address(LOOPBACK, self.ssh.port)


def _curl(at: Address, size: int) -> float:
    """Download the file; return megabytes a second."""
    show = "%{speed_download} %{size_download}"
    words = ["curl", "-sS", "--noproxy", "*", "-o", os.devnull, "-w", show]
    rate, got = _run([*words, f"http://{at}/file.bin"]).decode().split()
    if int(float(got)) != size:
        raise BenchError(f"curl: {got} of {size} bytes came")
    return float(rate) / 1e6


def _run(command: Sequence[str]) -> bytes:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"{command[0]} took longer than {_TIMEOUT:g} s") from None
    if done.returncode:
        text = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise BenchError(f"{command[0]} ended with status {done.returncode}: {text[-200:]}")
    return done.stdout
