"""What is remembered of tunnels and tokens, as plain records.

Times are seconds since the epoch. Tokens are known by their SHA-256 only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ...wire import Side

__all__ = [
    "ConnectionState",
    "ConnectionStatus",
    "TokenRecord",
    "TunnelRecord",
    "TunnelStatus",
    "TunnelSummary",
]


class TunnelStatus(StrEnum):
    """State of a tunnel; one that is CLOSED is never OPEN again."""

    OPEN = "OPEN"
    CLOSED = "CLOSED"


class ConnectionStatus(StrEnum):
    """Whether a local proxy of one side is connected."""

    CONNECTED = "CONNECTED"
    DISCONNECTED = "DISCONNECTED"


@dataclass(frozen=True, slots=True)
class ConnectionState:
    """Status of one side and when it last changed."""

    status: ConnectionStatus
    last_updated_at: float


@dataclass(frozen=True, slots=True)
class TunnelRecord:
    """One tunnel as stored, but for its tags, which may be many.

    ``services`` is empty when the tunnel was opened without a destination
    configuration. ``last_updated_at`` moves when the tunnel itself changes, not with
    its connections.
    """

    tunnel_id: str
    status: TunnelStatus
    created_at: float
    last_updated_at: float
    expires_at: float
    lifetime_minutes: int
    source: ConnectionState
    destination: ConnectionState
    description: str | None = None
    thing_name: str | None = None
    services: tuple[str, ...] = ()
    closed_at: float | None = None

    def connection(self, side: Side) -> ConnectionState:
        """Return the connection state of ``side``."""
        return self.source if side is Side.SOURCE else self.destination


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """One access token as stored.

    ``first_used_at`` is set by the first successful handshake, together with the
    digest of the client token that came with it (``None`` when there was none).
    """

    digest: str
    tunnel_id: str
    side: Side
    issued_at: float
    first_used_at: float | None = None
    client_digest: str | None = None


@dataclass(frozen=True, slots=True)
class TunnelSummary:
    """What lists show of a tunnel; ``sequence`` is greater the later it was opened."""

    sequence: int
    tunnel_id: str
    status: TunnelStatus
    created_at: float
    last_updated_at: float
    expires_at: float
    description: str | None
    thing_name: str | None
