"""The device agent: real processes, from OpenTunnel to the application of the device."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import tailrace
from support.documents import blocks
from support.network.applications import application, check_echo, echo
from support.processes.child import Process, clean_environment, installed, process
from support.processes.mosquitto import broker, needs_mosquitto
from support.repository import ROOT
from support.service.process import ServiceProcess, service_process
from support.waiting import HANG, until
from tailrace.cli.exit_codes import ExitCode

IDLE = 40 * 1024 * 1024
"""Resident bytes of an idle agent, at most."""


class Device:
    """A device with an agent, which is notified through a file or a broker."""

    def __init__(self, service: ServiceProcess, directory: Path, *options: str) -> None:
        self._service = service
        self._directory = directory
        self._options = options
        self._stack = ExitStack()
        self.agent: Process

    def start(self) -> None:
        endpoints = self._service.endpoints
        command = [installed("tailrace"), "agent", "run", "--thing-name", "pump-7", *self._options]
        command += ["--proxy-endpoint", endpoints.data_endpoint, "--capath", endpoints.ca_dir]
        command += ["--state-dir", str(self._directory / "state")]
        command += ["--status-file", str(self._directory / "status")]
        variables = clean_environment(SSL_CERT_FILE=endpoints.ca_file)
        self.agent = self._stack.enter_context(
            process("agent", command, self._directory, variables)
        )

    async def restart(self, number: int) -> None:
        self.agent.signal(number)
        expected = ExitCode.OK if number == signal.SIGTERM else -number
        assert await self.agent.exit_code() == expected
        self.start()

    def close(self) -> None:
        self._stack.close()

    def switch(self, *argv: str) -> Any:
        command = [installed("tailrace"), "agent", *argv, "--state-dir"]
        return asyncio.create_subprocess_exec(*command, str(self._directory / "state"))

    def tunnels(self) -> list[dict[str, Any]]:
        """Return the tunnels as the status file has them."""
        try:
            found: list[dict[str, Any]] = json.loads((self._directory / "status").read_text())[
                "tunnels"
            ]
        except FileNotFoundError:
            return []
        return found

    def kept(self) -> list[Path]:
        """Return the files of tunnels that a restart would find."""
        return list((self._directory / "state" / "tunnels").iterdir())

    async def is_connected(self) -> None:
        """Wait until the agent says that it is connected to its broker."""
        seen = len(self.agent.log)

        def says_so() -> bool:
            self.agent.signal(signal.SIGHUP)
            return (
                "; broker mqtt" in self.agent.log[seen:]
                and ": connected to" in (self.agent.log[seen:])
            )

        await until(says_so, "a connection to the broker")

    async def serves(self, count: int) -> None:
        """Wait until so many tunnels are up, and no others are served."""
        try:
            await until(
                lambda: [each["phase"] for each in self.tunnels()] == ["up"] * count, "tunnels"
            )
        except AssertionError:
            print(self.tunnels(), self.agent.log)
            raise


@pytest.fixture
def notifying(tmp_path: Path) -> Iterator[ServiceProcess]:
    """A service that appends its notifications to the file ``notify``."""
    command = f"sh -c {shlex.quote(f'umask 077; cat >> {tmp_path}/notify')}"
    with service_process(tmp_path, "--notify-command", command) as running:
        yield running


@asynccontextmanager
async def device(service: ServiceProcess, directory: Path, *options: str) -> AsyncIterator[Device]:
    """A running device whose service SSH echoes."""
    async with application(echo) as address:
        home = directory / "pump"
        home.mkdir()
        found = Device(service, home, "--service", f"SSH={address.port}", *options)
        found.start()
        try:
            yield found
        finally:
            found.agent.kill()
            found.close()


async def open_tunnel(service: ServiceProcess) -> tailrace.OpenedTunnel:
    answer = await asyncio.to_thread(
        service.control.call,
        "OpenTunnel",
        {"destinationConfig": {"thingName": "pump-7", "services": ["SSH"]}},
    )
    source, destination = (
        tailrace.Secret(answer[f"{side.value}AccessToken"]) for side in tailrace.Side
    )
    return tailrace.OpenedTunnel(answer["tunnelId"], answer["tunnelArn"], source, destination)


def source_of(service: ServiceProcess, opened: tailrace.OpenedTunnel) -> tailrace.SourceTunnel:
    endpoints = service.endpoints
    return tailrace.Tunnel.source(
        opened.source_token, endpoint=endpoints.data_endpoint, ca=endpoints.ca_dir, timeout=HANG
    )


async def check(source: tailrace.SourceTunnel) -> None:
    """Send bytes through a tunnel."""
    await source.wait_peer(timeout=HANG)
    reader, writer = await source.open_connection("SSH")
    await check_echo((reader, writer), b"hello")
    writer.close()


async def test_a_tunnel_from_its_opening_to_the_kill_switch(
    notifying: ServiceProcess, tmp_path: Path
) -> None:
    notify = ("--notify-file", str(tmp_path / "notify"))
    async with device(notifying, tmp_path, *notify) as pump:
        opened = await open_tunnel(notifying)
        async with source_of(notifying, opened) as source:
            await check(source)
            call = {"tunnelId": opened.tunnel_id, "clientMode": "DESTINATION"}
            await asyncio.to_thread(notifying.control.call, "RotateTunnelAccessToken", call)
            await until(lambda: "goes on with a new token" in pump.agent.log)
            await pump.serves(1)
            await check(source)
            for number in (signal.SIGKILL, signal.SIGTERM):
                await pump.restart(number)
                await pump.serves(1)
                await check(source)
            # Tunnels outlive the service's restart, too.
            await asyncio.to_thread(notifying.restart)
            await check(source)
            await (await pump.switch("disable", "--now")).wait()
            await pump.serves(0)
            await pump.restart(signal.SIGTERM)
            await until(lambda: pump.agent.log.count("status: 0 of 0 tunnels up") == 2)
            assert pump.tunnels() == []
            await (await pump.switch("enable")).wait()
        second = await open_tunnel(notifying)
        async with source_of(notifying, second) as source:
            await check(source)
            await asyncio.to_thread(
                notifying.control.call, "CloseTunnel", {"tunnelId": second.tunnel_id}
            )
            await pump.serves(0)
        await until(lambda: pump.kept() == [])
        assert "Traceback" not in pump.agent.log
        tokens = [
            json.loads(line)["notification"]["clientAccessToken"] for line in notify_lines(tmp_path)
        ]
        assert len(tokens) == 3
        assert not any(token in pump.agent.log for token in tokens)


def notify_lines(directory: Path) -> list[str]:
    return (directory / "notify").read_text().splitlines()


async def test_twenty_tunnels_at_once_and_nothing_is_left_of_them(
    notifying: ServiceProcess, tmp_path: Path
) -> None:
    notify = ("--notify-file", str(tmp_path / "notify"))
    async with device(notifying, tmp_path, *notify) as pump:
        await until(lambda: "status: " in pump.agent.log)
        assert pump.agent.memory < IDLE
        opened = [await open_tunnel(notifying) for _ in range(20)]
        await pump.serves(20)
        used = pump.agent.descriptors
        await open_tunnel(notifying)
        await until(lambda: "20 tunnels are served, and no more may be" in pump.agent.log)
        async with source_of(notifying, opened[-1]) as source:
            await check(source)
        for each in opened:
            call = {"tunnelId": each.tunnel_id}
            await asyncio.to_thread(notifying.control.call, "CloseTunnel", call)
        await pump.serves(0)
        await until(lambda: pump.agent.descriptors <= used - 20)
        await until(lambda: pump.kept() == [])
        assert "Traceback" not in pump.agent.log


@needs_mosquitto
async def test_tunnels_stay_up_while_the_broker_is_away(tmp_path: Path) -> None:
    with broker(tmp_path) as running:
        url = f"mqtt://127.0.0.1:{running.port}"
        with service_process(tmp_path, "--mqtt-url", url) as service:
            async with device(service, tmp_path, "--broker", url) as pump:
                await until(lambda: "waiting for notifications" in pump.agent.log)
                opened = await open_tunnel(service)
                async with source_of(service, opened) as source:
                    await check(source)
                    running.stop()
                    await check(source)
                    await asyncio.to_thread(running.start)
                    # A broker that was killed has lost for whom it was to keep notifications.
                    await pump.is_connected()
                    second = await open_tunnel(service)
                    async with source_of(service, second) as other:
                        await check(other)
                    await pump.serves(2)
                    await check(source)
                assert "Traceback" not in pump.agent.log


@needs_mosquitto
async def test_a_program_hands_on_what_its_mqtt_client_receives(tmp_path: Path) -> None:
    """As docs/reference/agent.md shows it for paho, whose callbacks run in a thread of its own."""
    from paho.mqtt.client import CallbackAPIVersion, Client

    page = ROOT / "docs" / "reference" / "agent.md"
    (shown,) = (each.text for each in blocks(page) if "client.loop_start()" in each.text)
    loop, subscribed = asyncio.get_running_loop(), asyncio.Event()
    with broker(tmp_path) as running:
        url = f"mqtt://127.0.0.1:{running.port}"
        with service_process(tmp_path, "--mqtt-url", url) as service:
            endpoints = service.endpoints
            async with tailrace.Agent(
                {"SSH": echo}, endpoint=endpoints.data_endpoint, ca=endpoints.ca_dir
            ) as agent:
                client = Client(CallbackAPIVersion.VERSION2)
                client.on_subscribe = lambda *_: loop.call_soon_threadsafe(subscribed.set)
                program = shown.replace('"localhost"', f'"127.0.0.1", {running.port}')
                exec(program, {"asyncio": asyncio, "agent": agent, "client": client})
                try:
                    await subscribed.wait()
                    opened = await open_tunnel(service)
                    async with source_of(service, opened) as source:
                        await check(source)
                    assert len(agent.status().tunnels) == 1
                finally:
                    client.disconnect()
                    await asyncio.to_thread(client.loop_stop)
