"""What the service remembers: tunnels and tokens, behind one port.

A :class:`TunnelStore` holds plain records and changes them atomically; the rules of
tunnels and tokens live in :mod:`tailrace.service.tunnels.rules`. Times are seconds since
the epoch. Tokens are known by their SHA-256 only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from ...wire import Side

__all__ = [
    "ConnectionState",
    "ConnectionStatus",
    "TokenRecord",
    "TunnelPage",
    "TunnelRecord",
    "TunnelStatus",
    "TunnelStore",
]


class TunnelStatus(StrEnum):
    """Life of a tunnel; there is no way back from CLOSED."""

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
    """One tunnel as stored.

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
    tags: tuple[tuple[str, str], ...] = ()
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
class TunnelPage:
    """Some tunnels, newest first; ``cursor`` asks for the next page, ``None`` at the end."""

    tunnels: tuple[TunnelRecord, ...]
    cursor: str | None


class TunnelStore(Protocol):
    """Where tunnels and tokens are kept. Every method is atomic and durable on return.

    All methods raise :class:`~tailrace.service.errors.StoreFailed` when the store
    cannot be read or written.
    """

    def add_tunnel(self, tunnel: TunnelRecord, tokens: Sequence[TokenRecord]) -> None:
        """Keep a new tunnel together with its tokens."""

    def tunnel(self, tunnel_id: str) -> TunnelRecord | None:
        """Return a tunnel, open or closed."""

    def list_tunnels(self, thing_name: str | None, cursor: str | None, limit: int) -> TunnelPage:
        """Return up to ``limit`` tunnels, newest first, of one thing or of all.

        Raises:
            InvalidCursor: ``cursor`` does not come from an earlier page.
        """

    def close_tunnel(self, tunnel_id: str, now: float) -> bool:
        """Turn an OPEN tunnel CLOSED; false when it is not there or closed already."""

    def count_open(self, now: float) -> int:
        """Return how many tunnels are OPEN and have lifetime left."""

    def set_tags(self, tunnel_id: str, tags: Sequence[tuple[str, str]], now: float) -> bool:
        """Replace all tags of a tunnel; false when it is not there."""

    def delete_tunnel(self, tunnel_id: str) -> bool:
        """Forget a tunnel and its tokens; false when it is not there."""

    def token(self, digest: str) -> TokenRecord | None:
        """Return the token with this SHA-256 (hex)."""

    def mark_token_used(self, digest: str, client_digest: str | None, now: float) -> bool:
        """Record the first use of a token; false when another use came first."""

    def client_token_elsewhere(self, client_digest: str, tunnel_id: str, now: float) -> bool:
        """Say whether another tunnel, OPEN and with lifetime left, knows this client token."""

    def replace_tokens(self, tunnel: TunnelRecord, tokens: Sequence[TokenRecord]) -> bool:
        """Forget the tokens of the sides that ``tokens`` are for, and keep these instead.

        Services, thing name and time of update of ``tunnel`` are kept along with them.
        Nothing changes, and false is returned, unless the tunnel is there and OPEN.
        """

    def set_connection(self, tunnel_id: str, side: Side, state: ConnectionState) -> None:
        """Replace the connection state of one side; nothing happens to unknown tunnels."""

    def reset_connections(self, now: float) -> None:
        """Turn every CONNECTED side DISCONNECTED: no connection outlives the service."""

    def due_tunnels(self, now: float) -> tuple[str, ...]:
        """Return the ids of OPEN tunnels whose lifetime has ended."""

    def next_expiry(self) -> float | None:
        """Return when the next OPEN tunnel expires, ``None`` without one."""

    def count_by_status(self) -> dict[TunnelStatus, int]:
        """Return how many tunnels there are of each status."""

    def purge_closed(self, closed_before: float) -> int:
        """Forget tunnels closed before that time; return how many."""

    def close(self) -> None:
        """Release files and locks."""
