"""The tunnel that a command wants, and what its holder needs to get it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import TailraceError

if TYPE_CHECKING:
    from datetime import timedelta

    from ..aws import Client  # it takes an event loop, and not every command loads one

__all__ = ["WantedTunnel", "Wish"]


@dataclass(frozen=True, slots=True)
class WantedTunnel:
    """The tunnel that a command wants."""

    thing: str
    """Of a tunnel that has none, its id."""
    services: tuple[str, ...]
    ledger: Path
    """Directory of the ledger."""
    tunnel_id: str | None = None
    """Take this tunnel."""
    new: bool = False
    """Open one even if there is one that nobody uses."""
    keep: bool = False
    """Leave it open."""
    lifetime: timedelta | None = None
    timeout: float | None = None
    """Seconds that each of connecting and waiting for the device may take."""
    resume_timeout: float = 120.0
    """Seconds for which open connections wait for a lost link, or a device that has left."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A wanted tunnel, and how its holder gets it."""

    tunnel: WantedTunnel
    make_client: Callable[[], Client]
    """Called in the holder. May raise ``ConfigurationError``."""
    exit_status: Callable[[TailraceError], int]
    """Returns the status of a command that ends with an error."""
