"""The package on Windows and macOS, as far as Linux can show it: see ``other_systems``."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from support.network.applications import application, client, noise, read_to_the_end
from support.processes.child import Process, clean_environment, process
from support.repository import ROOT
from support.service import ServiceProcess
from support.tunnel import Tunnel, arguments_for, open_tunnel, read_ready_file
from support.waiting import HANG, until
from tailrace.common.addresses import ServiceAddresses
from tailrace.testing.middlebox import middlebox
from tailrace.wire import Side

SYSTEMS = ("macos", "windows")
PATHS = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"}

IMPORTS = """
    import importlib, pkgutil, tailrace
    for module in pkgutil.walk_packages(tailrace.__path__, "tailrace."):
        if not module.name.endswith(NOT_THERE):
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:
                if error.name not in ("aiofastnet", "picows"):
                    raise
    tailrace.sync
"""
TUNNEL = """
    import asyncio, os, tailrace

    async def answer(reader, writer):
        writer.write(b"you said " + await reader.readline())
        writer.close()

    async def main():
        where = {"endpoint": os.environ["ENDPOINT"], "ca": os.environ["CA"]}
        services = {"ECHO": os.environ["ECHO"], "CMD": answer}
        destination = tailrace.Tunnel.destination(os.environ["DESTINATION"], services, **where)
        source = tailrace.Tunnel.source(os.environ["SOURCE"], **where)
        async with destination, source:
            await source.wait_peer(timeout=30)
            reader, writer = await source.open_connection("CMD")
            writer.write(b"hello\\n")
            assert await reader.read() == b"you said hello\\n"
            listener = await source.listen("ECHO", "127.0.0.1", 0)
            await asyncio.gather(*(call(listener, number) for number in range(20)))

    async def call(listener, number):
        reader, writer = await asyncio.open_connection(listener.host, listener.port)
        data = bytes([number]) * 50_000
        writer.write(data)
        assert await reader.read() == data
        writer.close()
        await writer.wait_closed()

    with RUNNER:
        RUNNER.run(main())
"""


HALF = 25_000


class Answer:
    """Send back what comes, and end the connection: Windows sees no more of an end than its FIN."""

    def __init__(self) -> None:
        self.has_half = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(HALF)
        self.has_half.set()
        writer.write(first + await reader.readexactly(HALF))


def on(system: str, *words: str) -> list[str]:
    """Return a command that runs a module, or ``-c`` and a program, on another system."""
    return [sys.executable, "-W", "error", "-m", "support.processes.other_systems", system, *words]


def run(system: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        on(system, *words),
        env=clean_environment(**PATHS, **variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_module_can_be_imported(system: str) -> None:
    # The process that holds tunnels for ssh is forked, and __main__ runs the command.
    not_there = (".__main__", ".holder") if system == "windows" else (".__main__",)
    program = f"NOT_THERE = {not_there}\n" + textwrap.dedent(IMPORTS)
    done = run(system, "-c", program)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("system", SYSTEMS)
async def test_the_library(system: str, service: ServiceProcess, tmp_path: Path) -> None:
    tunnel = open_tunnel(service.endpoints, service.control, "ECHO", "CMD")
    async with application(Answer()) as address:
        variables = {
            "ENDPOINT": tunnel.endpoints.data_endpoint,
            "CA": tunnel.endpoints.ca_file,
            "ECHO": str(address),
            "SOURCE": tunnel.tokens[Side.SOURCE].reveal(),
            "DESTINATION": tunnel.tokens[Side.DESTINATION].reveal(),
        }
        command = on(system, "-c", textwrap.dedent(TUNNEL))
        with process("program", command, tmp_path, clean_environment(**PATHS, **variables)) as it:
            assert await it.exit_code() == 0, it.log


@pytest.mark.parametrize("system", SYSTEMS)
async def test_local_proxies_through_a_cut(
    system: str, service: ServiceProcess, tmp_path: Path
) -> None:
    tunnel = open_tunnel(service.endpoints, service.control, "ECHO")

    def command(tunnel: Tunnel, side: Side, services: ServiceAddresses | None = None) -> list[str]:
        words = [*arguments_for(tunnel, side, services), "--ready-file", str(ready[side])]
        return on(system, "tailrace.cli.localproxy.main", *words)

    def environment(side: Side) -> dict[str, str]:
        token = tunnel.tokens[side].reveal()
        return clean_environment(**PATHS, AWSIOT_TUNNEL_ACCESS_TOKEN=token)

    async def is_ready(side: Side, started: Process) -> None:
        await until(lambda: ready[side].exists() or not started.running, f"{side} is ready")
        assert started.running, started.log

    ready = {side: tmp_path / f"{side.value}.json" for side in Side}
    answer = Answer()
    async with (
        application(answer) as address,
        middlebox(tunnel.settings(Side.SOURCE)) as box,
    ):
        far = command(tunnel, Side.DESTINATION, {"ECHO": address})
        with process("far", far, tmp_path, environment(Side.DESTINATION)) as destination:
            await is_ready(Side.DESTINATION, destination)
            behind = replace(tunnel.endpoints, data_endpoint=f"127.0.0.1:{box.port}")
            near = command(replace(tunnel, endpoints=behind), Side.SOURCE)
            with process("near", near, tmp_path, environment(Side.SOURCE)) as source:
                await is_ready(Side.SOURCE, source)
                where = read_ready_file(ready[Side.SOURCE])["ECHO"]
                async with client(where) as streams:
                    data = noise(2 * HALF)
                    streams[1].write(data[:HALF])
                    async with asyncio.timeout(HANG):
                        await answer.has_half.wait()
                    box.cut()
                    streams[1].write(data[HALF:])
                    assert await read_to_the_end(streams) == data
                assert "paused: link lost" in source.log
                assert "resumed after" in source.log
                source.signal(signal.SIGINT)
                assert await source.exit_code() == 0, source.log
                assert "Ending on SIGINT" in source.log
            assert not ready[Side.SOURCE].exists()


def test_the_agent_on_windows(tmp_path: Path) -> None:
    words = ["agent", "run", "--thing-name", "pump-7", "--service", "SSH=22", "--notify-stdin"]
    words += ["--state-dir", str(tmp_path / "state")]
    done = run("windows", "tailrace", *words)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "standard input has ended; no more notifications come from there" in done.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["ssh", "pump-7"], "this system has no unix sockets and no fork, which this takes"),
        (["proxy", "pump-7"], "this system has no unix sockets and no fork, which this takes"),
        (["status"], "this system has no unix sockets to ask processes at"),
        (["agent", "install", "--dry-run", "--service", "SSH=22", "--notify-file", "/n"],
         "this system has no systemd"),
    ],
)  # fmt: skip
def test_what_windows_does_not_have(words: list[str], reason: str) -> None:
    done = run("windows", "tailrace", *words)
    command = " ".join(words[: 2 if words[0] == "agent" else 1])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"tailrace {command}: {reason}\n"


def test_a_unix_socket_as_a_service_is_refused_on_windows() -> None:
    words = ["tailrace.cli.localproxy.main", "-r", "us-east-1", "-d", "SSH=/run/ssh"]
    done = run("windows", *words, AWSIOT_TUNNEL_ACCESS_TOKEN="token")
    reason = "'/run/ssh' is the path of a unix socket, which this system does not have"
    assert (done.returncode, reason in done.stderr) == (1, True), done.stderr
    assert "Traceback" not in done.stderr
