"""What a contender is: something that leads TCP connections from one side to the other."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from .. import procfs
from ..processes import Process, Supervisor
from ..site import Address, Role, Site

__all__ = ["Contender", "Running", "find_tool"]


@dataclass(frozen=True, slots=True)
class Running:
    """A contender at work."""

    endpoints: dict[str, Address]
    """Name of an application -> where clients on the near side reach it."""
    processes: dict[Role, Process]

    def pids(self, role: Role) -> list[int]:
        """Return the processes that play a role."""
        process = self.processes.get(role)
        return procfs.tree(process.pid) if process is not None else []


class Contender(ABC):
    """One column of the tables."""

    name: str
    description: str
    """One line for the report."""

    @abstractmethod
    def missing(self) -> str | None:
        """Return what is missing to run it here, ``None`` if nothing is."""

    @abstractmethod
    def start(
        self, supervisor: Supervisor, site: Site, applications: Mapping[str, Address]
    ) -> Running:
        """Start it and return once connections to every application work.

        Raises:
            BenchError: it did not start.
        """

    def refuses(self, connections: int) -> str | None:
        """Return why so many concurrent connections are not tried, ``None`` if they are."""
        return None

    def installed_size(self) -> int | None:
        """Return the bytes on disk of what has to be installed, ``None`` if unknown."""
        return None


def find_tool(name: str) -> str | None:
    """Return the path of a program, looked for where system programs are too."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
