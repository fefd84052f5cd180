"""What is remembered of tunnels and tokens, as plain records.

Times are seconds since the epoch. Tokens are known by their SHA-256 only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ...wire import Side

__all__ = [
    "ConnectionState",
    "ConnectionStatus",
    "TokenRecord",
    "TunnelRecord",
    "TunnelStatus",
    "TunnelSummary",
    "Usage",
    "size_of_tags",
]

_OVERHEAD: Final = 1000
"""Bytes of any tunnel: its times and states, two tokens, and what indexes hold of them."""

_TEXT_OVERHEAD: Final = 4
"""Bytes of what stands between texts."""


def size_of_tags(tags: Sequence[tuple[str, str]]) -> int:
    """Return the bytes that tags count."""
    return sum(len(text.encode()) + _TEXT_OVERHEAD for tag in tags for text in tag)


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
    key_id: str = ""
    """The access key that opened it; empty when it was opened before there were quotas."""

    @property
    def size(self) -> int:
        """Bytes that the tunnel counts, without its tags."""
        texts = (self.description or "", self.thing_name or "", *self.services)
        return _OVERHEAD + sum(len(text.encode()) + _TEXT_OVERHEAD for text in texts)

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


@dataclass(frozen=True, slots=True)
class Usage:
    """What one access key has, or all of them."""

    open: int
    """Tunnels that are OPEN in the store; of those that have just expired, some may be."""
    closed: int
    stored_bytes: int
    """Of tunnels and tags that can be described."""
    opened: int
    """Tunnels opened since the last full hour of the clock; the most of any key."""
