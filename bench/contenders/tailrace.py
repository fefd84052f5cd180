"""Tailrace: service, destination and source, three real processes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from ..errors import BenchError
from ..processes import Process, Supervisor
from ..site import Address, Place, Role, Site
from .base import Contender, Running
from .service import Tunnel, TunnelingService, start_service

__all__ = ["Tailrace", "parse_variant"]


@dataclass(frozen=True, slots=True)
class _Build:
    """Which tailrace, and how it is called."""

    directory: Path
    """Where the commands are."""
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


class Tailrace(Contender):
    """One way to call tailrace."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        description: str,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.description = description
        self._build = _Build(
            directory or Path(sys.executable).parent, tuple(arguments), dict(environment or {})
        )

    def missing(self) -> str | None:
        for command in ("tailrace", "localproxy"):
            if not (self._build.directory / command).exists():
                return f"no command {command} in the virtual environment: make setup"
        return None

    def start(
        self, supervisor: Supervisor, site: Site, applications: Mapping[str, Address]
    ) -> Running:
        service = self.start_service(supervisor, site)
        (tunnel,) = service.open_tunnels(list(applications))
        destination = self.start_destination(supervisor, site, service, tunnel, applications)
        hub = Address(site.hub_host, service.data.port)
        source = self.start_source(supervisor, site, service, tunnel, site.gate(hub))
        processes = {
            Role.SOURCE: source.process,
            Role.RELAY: service.process,
            Role.DESTINATION: destination.process,
        }
        destination.services()
        return Running(source.services(), processes)

    def start_service(self, supervisor: Supervisor, site: Site) -> TunnelingService:
        """Start the service alone."""
        command = str(self._build.directory / "tailrace")
        return start_service(supervisor, site, command, self._build.environment)

    def start_destination(
        self,
        supervisor: Supervisor,
        site: Site,
        service: TunnelingService,
        tunnel: Tunnel,
        applications: Mapping[str, Address],
    ) -> StartedProxy:
        """Start a destination."""
        mapping = ",".join(f"{name}={address}" for name, address in applications.items())
        return self._start_proxy(
            supervisor,
            "destination",
            site,
            Place.FAR,
            ["-d", mapping],
            service,
            service.data,
            tunnel.destination,
        )

    def start_source(
        self,
        supervisor: Supervisor,
        site: Site,
        service: TunnelingService,
        tunnel: Tunnel,
        hub: Address,
    ) -> StartedProxy:
        """Start a source that reaches the service at ``hub``."""
        return self._start_proxy(
            supervisor,
            "source",
            site,
            Place.NEAR,
            ["-m", "source", "-b", "127.0.0.1"],
            service,
            hub,
            tunnel.source,
        )

    def _start_proxy(
        self,
        supervisor: Supervisor,
        name: str,
        site: Site,
        place: Place,
        arguments: list[str],
        service: TunnelingService,
        hub: Address,
        token: str,
    ) -> StartedProxy:
        ready = supervisor.path(f"{name}.json")
        command = [
            str(self._build.directory / "localproxy"),
            *arguments,
            *("-e", str(hub), "-c", service.ca_dir, "--ready-file", str(ready)),
            *self._build.arguments,
        ]
        environment = {**self._build.environment, "AWSIOT_TUNNEL_ACCESS_TOKEN": token}
        process = supervisor.spawn(name, site.command(place, command), environment)
        return StartedProxy(supervisor, process, ready)

    def installed_size(self) -> int | None:
        """Return the size of the package and of all that it needs at run time."""
        return sum(_package_size(name) for name in _needed_by("tailrace"))


class StartedProxy:
    """A local proxy that has been started and may not be ready yet."""

    def __init__(self, supervisor: Supervisor, process: Process, ready: Path) -> None:
        self._supervisor = supervisor
        self.process = process
        self._ready = ready

    def services(self) -> dict[str, Address]:
        """Wait until the tunnel can be used; return where a source listens.

        Raises:
            BenchError: the proxy did not get that far.
        """
        services = json.loads(self._supervisor.wait_for_file(self._ready, self.process))["services"]
        return {name: Address(at["host"], at["port"]) for name, at in services.items()}


def parse_variant(text: str) -> Tailrace:
    """Return a contender from ``NAME=[@DIRECTORY] [VARIABLE=VALUE]... [ARGUMENT]...``.

    ``DIRECTORY`` is the ``bin`` of another virtual environment, by which two states of
    the code run against each other.

    Raises:
        BenchError: the text has no name.
    """
    name, separator, rest = text.partition("=")
    if not name or not separator:
        raise BenchError(f"--variant {text!r}: write NAME=[@BIN] [VARIABLE=VALUE]... [ARGUMENT]...")
    directory: Path | None = None
    environment: dict[str, str] = {}
    arguments: list[str] = []
    for word in rest.split():
        variable, is_pair, value = word.partition("=")
        if word.startswith("@"):
            directory = Path(word[1:]).absolute()
        elif is_pair and variable.isupper() and not arguments:
            environment[variable] = value
        else:
            arguments.append(word)
    described = " ".join(word for word in rest.split() if not word.startswith("@"))
    return Tailrace(name, arguments, f"tailrace {described}".strip(), directory, environment)


def _needed_by(root: str) -> list[str]:
    """Return a distribution and its dependencies without extras, as installed here."""
    found = [root]
    for name in found:
        for line in metadata.requires(name) or ():
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is not None and not marker.evaluate({"extra": ""}):
                continue
            if requirement.name.lower() not in (other.lower() for other in found):
                found.append(requirement.name)
    return found


def _package_size(name: str) -> int:
    if name == "tailrace":
        import tailrace

        source = Path(tailrace.__file__).parent
        return sum(path.stat().st_size for path in source.rglob("*.py"))
    total = 0
    for file in metadata.files(name) or ():
        path = Path(str(file.locate()))
        if path.is_file() and path.suffix != ".pyc":
            total += path.stat().st_size
    return total
