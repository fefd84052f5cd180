"""What has happened to tunnels but could not be stored yet.

A tunnel that was closed and a link that came or went are facts, whether or not the store can
write. They are kept here until it can, and every read of a record goes through
:meth:`Unstored.current`, so that a closed tunnel is CLOSED for everybody from the moment it was
closed. An expired one is, too, and needs no entry: its own record says when it ends.

There is one ending at most for each tunnel of the store, and one state for each side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...wire import Side
from .records import ConnectionState, TunnelRecord, TunnelStatus, TunnelSummary

__all__ = ["Ending", "Unstored"]


@dataclass(frozen=True, slots=True)
class Ending:
    """A tunnel was closed, and with ``delete`` removed, at that time."""

    at: float
    delete: bool


class Unstored:
    """Endings and connection states that the store does not have."""

    __slots__ = ("connections", "endings")

    def __init__(self) -> None:
        self.endings: dict[str, Ending] = {}
        """By tunnel id."""
        self.connections: dict[tuple[str, Side], ConnectionState] = {}

    def current(self, stored: TunnelRecord, now: float) -> TunnelRecord | None:
        """Return a stored record as it would be by now, ``None`` when it would be removed."""
        if self._is_removed(stored.tunnel_id):
            return None
        tunnel = stored
        if self.connections:
            source, destination = (
                self.connections.get((tunnel.tunnel_id, side), tunnel.connection(side))
                for side in Side
            )
            tunnel = replace(tunnel, source=source, destination=destination)
        ended_at = self._ended_at(tunnel, now)
        if ended_at is None:
            return tunnel
        return replace(
            tunnel, status=TunnelStatus.CLOSED, last_updated_at=ended_at, closed_at=ended_at
        )

    def current_summary(self, stored: TunnelSummary, now: float) -> TunnelSummary | None:
        """Return a stored summary as :meth:`current` returns a record."""
        if self._is_removed(stored.tunnel_id):
            return None
        ended_at = self._ended_at(stored, now)
        if ended_at is None:
            return stored
        return replace(stored, status=TunnelStatus.CLOSED, last_updated_at=ended_at)

    def _is_removed(self, tunnel_id: str) -> bool:
        ending = self.endings.get(tunnel_id)
        return ending is not None and ending.delete

    def _ended_at(self, stored: TunnelRecord | TunnelSummary, now: float) -> float | None:
        """Return when a tunnel has ended that the store has as OPEN."""
        if stored.status is not TunnelStatus.OPEN:
            return None
        ending = self.endings.get(stored.tunnel_id)
        if ending is not None:
            # Also if the clock was set back since.
            return min(ending.at, stored.expires_at)
        return stored.expires_at if stored.expires_at <= now else None
