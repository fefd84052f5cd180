"""Where the parts of a contender run, and what lies on the way between its two ends.

The near side holds the clients and the source; the far side the relay, the
destination and the applications. On a plain site both are this machine's loopback.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

__all__ = ["LOOPBACK", "Address", "Place", "Role", "Site"]

LOOPBACK = "127.0.0.1"


class Address(NamedTuple):
    """A TCP address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Role(Enum):
    """The parts of a contender whose cost is told apart."""

    SOURCE = "source"
    RELAY = "relay"
    DESTINATION = "destination"


class Place(Enum):
    """The two sides of the tunnel's link."""

    NEAR = "near"
    FAR = "far"


class Site:
    """The plain site: everything on loopback, nothing on the way."""

    hub_host: str = LOOPBACK
    """The address of the far side as the near side sees it."""
    bind_host: str = LOOPBACK
    """The address that listeners on the far side bind which the near side is to reach."""

    @property
    def is_local(self) -> bool:
        """Whether this process can reach the far side."""
        return True

    def command(self, place: Place, command: Sequence[str]) -> list[str]:
        """Return a command line that runs ``command`` at ``place``."""
        return list(command)

    def gate(self, hub: Address) -> Address:
        """Return what the near side connects to in order to reach ``hub``."""
        return hub

    def helpers(self) -> list[int]:
        """Return the processes that make the way between the sides what it is."""
        return []
