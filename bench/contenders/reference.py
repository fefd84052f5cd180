"""The C++ reference, both ends of it, through our service."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ..processes import Process, Supervisor, unused_port
from ..site import LOOPBACK, Address, Place, Role, Site
from .base import Contender, Running
from .service import start_service

__all__ = ["VARIABLE", "Reference"]

VARIABLE: Final = "LOCALPROXY_REFERENCE"
"""Environment variable with the path of the reference's binary."""

_BUFFER: Final = 64 * 1024 * 1024
"""Its buffer towards local sockets has no back-pressure: where it is full, the process ends."""

_MOST_CONNECTIONS: Final = 128


class Reference(Contender):
    """The ``localproxy`` of aws-iot-securetunneling-localproxy."""

    name = "reference"
    description = "the C++ localproxy, both ends, through tailrace serve"

    def __init__(self, tailrace: str) -> None:
        self._tailrace = tailrace

    def missing(self) -> str | None:
        path = os.environ.get(VARIABLE)
        if not path:
            return f"{VARIABLE} does not name its binary"
        if not os.access(path, os.X_OK):
            return f"{VARIABLE} names no program: {path}"
        return None

    def start(
        self, supervisor: Supervisor, site: Site, applications: Mapping[str, Address]
    ) -> Running:
        service = start_service(supervisor, site, self._tailrace)
        (tunnel,) = service.open_tunnels(list(applications))
        settings = supervisor.path("settings.json")
        proxy = {"tcp": {"write_buffer_size": str(_BUFFER)}}
        settings.write_text(json.dumps({"tunneling": {"proxy": proxy}}))
        common = [
            *("-c", service.ca_dir, "--settings-json", str(settings)),
            *("-b", LOOPBACK),
        ]

        def spawn(name: str, place: Place, hub: Address, token: str, mode: list[str]) -> Process:
            command = [os.environ[VARIABLE], "-e", str(hub), *mode, *common]
            environment = {"AWSIOT_TUNNEL_ACCESS_TOKEN": token}
            return supervisor.spawn(name, site.command(place, command), environment)

        targets = ",".join(f"{name}={address}" for name, address in applications.items())
        destination = spawn(
            "destination", Place.FAR, service.data, tunnel.destination, ["-d", targets]
        )
        ports = {name: unused_port() for name in applications}
        listening = ",".join(f"{name}={port}" for name, port in ports.items())
        hub = site.gate(Address(site.hub_host, service.data.port))
        source = spawn("source", Place.NEAR, hub, tunnel.source, ["-s", listening])
        supervisor.wait_for_log("Successfully established websocket connection", destination)
        for port in ports.values():
            supervisor.wait_for_port(port, source)
        return Running(
            {name: Address(LOOPBACK, port) for name, port in ports.items()},
            {Role.SOURCE: source, Role.RELAY: service.process, Role.DESTINATION: destination},
        )

    def refuses(self, connections: int) -> str | None:
        """It ends when its limit of 128 connections, which is its default, is exceeded."""
        return "it ends above 128 connections" if connections > _MOST_CONNECTIONS else None

    def installed_size(self) -> int | None:
        """Return the size of the binary, as it was built."""
        return Path(os.environ[VARIABLE]).stat().st_size
