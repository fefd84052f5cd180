"""``tailrace connect`` on a terminal, as a person uses it, and in a pipe, as a program does."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.network.applications import application, check_echo, client, echo
from support.processes.child import installed, process
from support.processes.joined_device import joined_device
from support.processes.terminals import Terminal, on_terminal
from support.service.process import ServiceProcess, service_process
from support.waiting import until
from tailrace.common.addresses import TCPAddress

COMMAND = (installed("tailrace"), "connect")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs terminals of Linux")


@dataclass(frozen=True)
class Site:
    """A service, and a user."""

    service: ServiceProcess
    directory: Path
    environment: dict[str, str]

    def tunnels(self, thing: str) -> list[str]:
        """Return the states of all tunnels of a thing, newest first."""
        found = self.service.control.call("ListTunnels", {"thingName": thing})["tunnelSummaries"]
        return [each["status"] for each in found]

    def ledger(self) -> list[Path]:
        return list(Path(self.environment["XDG_STATE_HOME"]).glob("tailrace/opened/*"))


@contextmanager
def running_site(directory: Path) -> Iterator[Site]:
    with service_process(directory) as service:
        own = {
            "TERM": "xterm",
            "XDG_RUNTIME_DIR": str(directory / "run"),
            "XDG_STATE_HOME": str(directory / "state-home"),
        }
        yield Site(service, directory, service.shell_environment() | own)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def own_site(tmp_path: Path) -> Iterator[Site]:
    with running_site(tmp_path) as site:
        yield site


async def shown(terminal: Terminal, text: str, after: int = 0) -> None:
    """Wait for a text, behind so many characters."""
    await asyncio.to_thread(terminal.wait_for, text, after)


async def test_on_a_terminal(own_site: Site) -> None:
    """The table, the browser, a service that is restarted, Ctrl-C."""
    site = own_site
    script = site.directory / "browser"
    script.write_text(f'#!/bin/sh\necho "$1" > {site.directory}/seen\n')
    script.chmod(0o755)
    environment = {**site.environment, "BROWSER": str(script)}
    async with application(echo) as far:
        with joined_device(site.service, site.directory, "pump-1", WEB=far.port, SSH=far.port):
            command = [*COMMAND, "pump-1", "WEB", "SSH", "--open"]
            with on_terminal(command, environment, site.directory) as terminal:
                await shown(terminal, "CONNECTIONS")
                (url,) = re.findall(r"WEB +(http://127\.0\.0\.1:\d+/)", terminal.shown)
                await until(lambda: (site.directory / "seen").exists(), "the browser")
                await until(lambda: (site.directory / "seen").read_text() == f"{url}\n")
                at = TCPAddress("127.0.0.1", int(url.rpartition(":")[2].strip("/")))
                async with client(at) as streams:
                    await check_echo(streams, b"x" * 5000)
                    await shown(terminal, "1 of 1")
                    await shown(terminal, "5.0 kB")
                await shown(terminal, "0 of 1")
                await asyncio.to_thread(site.service.restart)
                await shown(terminal, "reconnecting in ")
                before = len(terminal.shown)
                await shown(terminal, "device connected", before)
                async with client(at) as streams:
                    await check_echo(streams, b"again")
                terminal.type("\x03")
                assert await asyncio.to_thread(terminal.end) == 0
    assert re.search(r"tunnel \w{4}… closed", terminal.shown)
    assert terminal.shown.endswith("\x1b[?25h")
    assert site.tunnels("pump-1") == ["CLOSED"]
    assert site.ledger() == []


async def test_in_a_pipe(site: Site) -> None:
    """Addresses and nothing else; a killed command leaves a tunnel, and the next one closes it."""
    async with application(echo) as far:
        with joined_device(site.service, site.directory, "pump-2", WEB=far.port, SSH=far.port):
            with process(
                "first", [*COMMAND, "pump-2", "SSH"], site.directory, site.environment
            ) as it:
                await until(lambda: it.output or not it.running, "the address")
                it.kill()
            assert site.tunnels("pump-2") == ["OPEN"]
            command = [*COMMAND, "pump-2", "SSH", "WEB", "--new"]
            with process("second", command, site.directory, site.environment) as it:
                await until(lambda: it.output.count("\n") == 2 or not it.running, "the addresses")
                lines = dict(line.split(" ") for line in it.output.splitlines())
                assert list(lines) == ["SSH", "WEB"]
                host, _, port = lines["WEB"].rpartition(":")
                async with client(TCPAddress(host, int(port))) as streams:
                    await check_echo(streams, b"hello")
                it.terminate()
                assert await it.exit_code() == 0
                assert it.output.count("\n") == 2
                assert it.log == ""
    assert site.tunnels("pump-2") == ["CLOSED", "CLOSED"]
    assert site.ledger() == []


async def test_nobody_comes(site: Site) -> None:
    command = [*COMMAND, "nobody", "SSH"]
    with on_terminal(command, site.environment, site.directory) as terminal:
        await shown(terminal, "waiting for the device")
        assert site.tunnels("nobody") == ["OPEN"]
        os.kill(terminal.pid, signal.SIGTERM)
        assert await asyncio.to_thread(terminal.end) == 128 + signal.SIGTERM
    assert site.tunnels("nobody") == ["CLOSED"]
    assert site.ledger() == []


async def test_a_token_alone(site: Site) -> None:
    """What ``tailrace tunnel open --tokens-to`` writes is enough, twice, and the tunnel stays."""
    words = ["--thing", "pump-3", "--service", "SSH", "--tokens-to", "my tokens"]
    async with application(echo) as far:
        with joined_device(site.service, site.directory, "pump-3", SSH=far.port):
            command = [installed("tailrace"), "tunnel", "open", *words]
            with process("open", command, site.directory, site.environment) as opening:
                assert await opening.exit_code() == 0, opening.log
            bare = {
                name: value
                for name, value in site.environment.items()
                if not name.startswith("AWS_")
            }
            for number in range(2):
                command = [*COMMAND, "--source-token-file", "my tokens/source.token"]
                with process(f"it{number}", command, site.directory, bare) as it:
                    await until(lambda: it.output or not it.running, "the address")
                    assert it.running, it.log
                    host, _, port = it.output.strip().partition(" ")[2].rpartition(":")
                    async with client(TCPAddress(host, int(port))) as streams:
                        await check_echo(streams, b"hello")
                    it.signal(signal.SIGINT)
                    assert await it.exit_code() == 0
                    assert it.log == ""
    assert site.tunnels("pump-3") == ["OPEN"]
