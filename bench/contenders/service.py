"""``tailrace serve`` as a part of other contenders, and tunnels through it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BenchError
from ..generators import python_path
from ..processes import Process, Supervisor
from ..site import Address, Place, Site

__all__ = ["Tunnel", "TunnelingService", "start_service"]

_API_TIMEOUT = 600.0


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The tokens of an open tunnel."""

    source: str = field(repr=False)
    destination: str = field(repr=False)


class TunnelingService:
    """A running service."""

    def __init__(self, process: Process, ready: dict[str, Any], site: Site, file: Path) -> None:
        self.process = process
        self._ready = ready
        self._site = site
        self._file = file

    @property
    def data(self) -> Address:
        """Where local proxies on the far side connect."""
        host, _, port = self._ready["data_endpoint"].rpartition(":")
        return Address(host, int(port))

    @property
    def ca_dir(self) -> str:
        """The directory that ``-c`` of a local proxy takes."""
        return str(self._ready["ca_dir"])

    @property
    def ca_file(self) -> str:
        """The certificate that clients of the service trust."""
        return str(self._ready["ca_file"])

    def open_tunnels(self, services: Sequence[str], count: int = 1) -> list[Tunnel]:
        """Open tunnels that all have the same services.

        Raises:
            BenchError: the control API refused.
        """
        # In a process of its own: the service may live in another network namespace.
        command = [sys.executable, "-m", "bench.contenders.opentunnel"]
        command += [str(self._file), str(count), *services]
        done = subprocess.run(
            self._site.command(Place.FAR, command),
            capture_output=True,
            text=True,
            timeout=_API_TIMEOUT,
            env=python_path(),
        )
        if done.returncode:
            raise BenchError(f"no tunnel could be opened: {done.stderr.strip()[-300:]}")
        return [Tunnel(*pair) for pair in json.loads(done.stdout)]


def start_service(
    supervisor: Supervisor, site: Site, command: str, environment: dict[str, str] | None = None
) -> TunnelingService:
    """Start ``command serve`` on the far side, reachable from the near one.

    Raises:
        BenchError: it did not start.
    """
    file = supervisor.path("service.json")
    arguments = [
        *(command, "serve", "--state-dir", str(supervisor.path("state"))),
        *("--ready-file", str(file), "--api-listen", "127.0.0.1:0"),
        *("--data-listen", f"{site.bind_host}:0", "--host-name", site.hub_host),
    ]
    process = supervisor.spawn("service", site.command(Place.FAR, arguments), environment)
    ready = json.loads(supervisor.wait_for_file(file, process))
    return TunnelingService(process, ready, site, file)
