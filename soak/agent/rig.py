"""Everything that runs: a broker, a service, and two devices, with a middlebox on each way."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trustme

from support.network.applications import application, echo
from support.network.ports import free_port
from support.processes.child import clean_environment, installed
from support.processes.mosquitto import Broker
from support.service.process import ServiceProcess
from tailrace.common.addresses import TCPAddress
from tailrace.service.config import parse_address
from tailrace.testing.middlebox import Middlebox

from .device import PATIENCE, Device
from .tunnels import SERVICE, OpenTunnel, Operator

__all__ = ["BY_BROKER", "BY_SERVICE", "Rig", "rig"]

BY_BROKER = "pump-1"
"""Thing that subscribes at the broker."""
BY_SERVICE = "pump-2"
"""Thing that waits at the service."""


@dataclass(slots=True)
class Rig:
    """What runs, and what is open."""

    broker: Broker
    service: ServiceProcess
    operator: Operator
    by_broker: Device
    by_service: Device
    to_broker: Middlebox
    """Between the agent and its broker."""
    publishing: Middlebox
    """Between the service and the broker."""
    to_service: Middlebox
    """Between the agent and the service where it waits."""
    links: Middlebox
    """Between both agents and the data port."""
    tunnels: list[OpenTunnel] = field(default_factory=list)

    @property
    def devices(self) -> tuple[Device, Device]:
        """Both devices."""
        return self.by_broker, self.by_service

    async def open(self, device: Device) -> OpenTunnel:
        """Open one more tunnel."""
        opened = await self.operator.open(device)
        self.tunnels.append(opened)
        return opened

    async def close(self, tunnel: OpenTunnel) -> None:
        """Close a tunnel."""
        self.tunnels.remove(tunnel)
        await tunnel.close()

    async def restart_service(self, number: signal.Signals) -> None:
        """End the service with a signal, and start it where it was."""
        await asyncio.to_thread(self.service.restart, number)

    async def end_broker(self, number: signal.Signals) -> None:
        """End the broker with a signal."""
        await asyncio.to_thread(self.broker.stop, number)

    async def start_broker(self) -> None:
        """Start the broker where it was."""
        await asyncio.to_thread(self.broker.start)

    def logs(self) -> dict[str, str]:
        """Return what every process of the product has logged."""
        found = {device.thing: device.agent.log for device in self.devices}
        return found | {"service": self.service.process.log}


@asynccontextmanager
async def rig(directory: Path, max_tunnels: int) -> AsyncIterator[Rig]:
    """A broker with TLS and client certificates, a service, and both devices, running."""
    async with AsyncExitStack() as stack:
        broker = Broker(directory, _broker_options(directory))
        await asyncio.to_thread(broker.start)
        stack.callback(broker.close)
        to_broker, publishing = [await _box(stack, broker.port) for _ in range(2)]
        service = ServiceProcess(directory, _publisher(directory, publishing.port), PATIENCE)
        stack.push_async_callback(asyncio.to_thread, service.close)
        await asyncio.to_thread(service.start, free_port(), free_port())
        endpoints = service.endpoints
        data = parse_address(endpoints.data_endpoint, "data")
        api = parse_address(endpoints.api_endpoint.removeprefix("https://"), "api")
        links, to_service = await _box(stack, data.port), await _box(stack, api.port)
        where = await stack.enter_async_context(application(echo))
        assert isinstance(where, TCPAddress)
        common = [
            *("--service", f"{SERVICE}={where.port}", "--max-tunnels", str(max_tunnels)),
            *("--proxy-endpoint", f"127.0.0.1:{links.port}", "--capath", endpoints.ca_dir),
        ]
        by_broker = _device(
            BY_BROKER, directory, [*common, *_subscriber(directory, to_broker.port)], {}
        )
        by_service = _device(
            BY_SERVICE,
            directory,
            [*common, "--service-url", f"https://127.0.0.1:{to_service.port}"],
            await asyncio.to_thread(_key, directory, endpoints.ca_file),
        )
        for device in (by_broker, by_service):
            stack.callback(device.close)
            await device.start()
        built = Rig(
            broker,
            service,
            Operator(service),
            by_broker,
            by_service,
            to_broker,
            publishing,
            to_service,
            links,
        )
        try:
            yield built
        finally:
            for tunnel in built.tunnels:
                await tunnel.release()


async def _box(stack: AsyncExitStack, port: int) -> Middlebox:
    box = Middlebox("127.0.0.1", port, "127.0.0.1")
    await box.start()
    stack.push_async_callback(box.stop)
    return box


def _device(
    thing: str, directory: Path, options: Sequence[str], environment: dict[str, str]
) -> Device:
    home = directory / thing
    home.mkdir(exist_ok=True)
    return Device(thing, home, options, environment)


def _broker_options(directory: Path) -> list[str]:
    """Return the settings of a broker that knows its clients.

    It keeps their sessions when it is ended, and has lost them when it was killed.
    """
    ca = trustme.CA(organization_name="Soak")
    ca.cert_pem.write_to_path(str(directory / "broker-ca.pem"))
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(directory / "broker.pem")
    )
    for name in ("service", BY_BROKER):
        issued = ca.issue_cert(f"{name}.example", common_name=name)
        path = directory / f"mqtt-{name}.pem"
        path.touch(mode=0o600)
        issued.private_key_and_cert_chain_pem.write_to_path(str(path))
    return [
        *(f"cafile {directory}/broker-ca.pem", f"certfile {directory}/broker.pem"),
        *(f"keyfile {directory}/broker.pem", "require_certificate true"),
        "use_identity_as_username true",
        *("persistence true", f"persistence_location {directory}/"),
    ]


def _publisher(directory: Path, port: int) -> list[str]:
    return [
        *("--mqtt-url", f"mqtts://127.0.0.1:{port}"),
        *("--mqtt-ca", f"{directory}/broker-ca.pem"),
        *("--mqtt-cert", f"{directory}/mqtt-service.pem"),
    ]


def _subscriber(directory: Path, port: int) -> list[str]:
    return [
        *("--broker", f"mqtts://127.0.0.1:{port}", "--ca", f"{directory}/broker-ca.pem"),
        *("--cert", f"{directory}/mqtt-{BY_BROKER}.pem"),
    ]


def _key(directory: Path, ca_file: str) -> dict[str, str]:
    """Return the variables with a key that may wait for the notifications of one thing."""
    made = directory / "key"
    command = [installed("tailrace"), "env", "--for", "device", "--name", BY_SERVICE]
    command += ["--out", str(made), "--state-dir", str(directory / "state")]
    command += ["--host", "127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True, env=clean_environment())
    found = json.loads((made / "service.json").read_text())
    return {
        "AWS_ACCESS_KEY_ID": found["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": found["secret_access_key"],
        "AWS_REGION": found["region"],
        "AWS_CA_BUNDLE": ca_file,
    }
