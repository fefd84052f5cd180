"""The rules of tunnels and access tokens. No sockets, no clock: callers pass ``now``.

``now`` is in seconds since the epoch. Sources: AWS IoT Secure Tunneling developer guide
(tunnel lifecycle, concepts), and guide V3, "Handshake", for the use of tokens.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from ...common.secret import Secret
from ...wire import Side
from ..errors import ServiceError, TunnelClosed, TunnelLimitReached, TunnelNotFound
from ..limits import Limits
from .records import (
    ConnectionState,
    ConnectionStatus,
    TokenRecord,
    TunnelRecord,
    TunnelStatus,
)
from .store import TunnelStore

__all__ = [
    "CLOSED_VISIBLE_SECONDS",
    "DEFAULT_LIFETIME_MINUTES",
    "MAX_TAGS",
    "AdmissionRefused",
    "Destination",
    "OpenedTunnel",
    "RandomIds",
    "Refusal",
    "RotatedTunnel",
    "TunnelSpec",
    "Tunnels",
]

DEFAULT_LIFETIME_MINUTES: Final = 720
"""Lifetime of a tunnel that was opened without one, and the longest possible."""

CLOSED_VISIBLE_SECONDS: Final = 3 * 3600
"""How long a CLOSED tunnel can still be described and listed."""

MAX_TAGS: Final = 200
"""Tags of one tunnel; one request can bring as many."""


class RandomIds:
    """Ids from the operating system's random source."""

    def tunnel_id(self) -> str:
        """Return a UUIDv4."""
        return str(uuid.uuid4())

    def access_token(self) -> Secret:
        """Return 256 random bits as text that is safe in URLs, headers and cookies.

        The prefix keeps a token from starting with a dash, which a command line
        would take for an option, and tells secret scanners what it is.
        """
        return Secret("trt_" + secrets.token_urlsafe(32))

    def channel_id(self) -> str:
        """Return the id of one WebSocket connection."""
        return secrets.token_hex(12)

    def request_id(self) -> str:
        """Return the id of one API request."""
        return str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class TunnelSpec:
    """The properties of a new tunnel; already validated against the service model."""

    description: str | None = None
    thing_name: str | None = None
    services: tuple[str, ...] = ()
    lifetime_minutes: int = DEFAULT_LIFETIME_MINUTES
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class OpenedTunnel:
    """A new tunnel and the only copy of its tokens."""

    tunnel: TunnelRecord
    source_token: Secret
    destination_token: Secret


@dataclass(frozen=True, slots=True)
class Destination:
    """Thing and services of a tunnel; already validated against the service model."""

    services: tuple[str, ...]
    thing_name: str | None = None


@dataclass(frozen=True, slots=True)
class RotatedTunnel:
    """A tunnel after a rotation, and the only copy of its new tokens."""

    tunnel: TunnelRecord
    tokens: Mapping[Side, Secret]
    """One for each side that was rotated."""
    disconnect: tuple[Side, ...]
    """Sides to disconnect: their token, or the service ids they were told, are outdated."""


class Refusal(Enum):
    """Why an access token was refused."""

    UNKNOWN_TOKEN = "unknown token"  # noqa: S105 - not a password
    WRONG_SIDE = "token of the other side"
    TOKEN_USED = "token was used before"  # noqa: S105 - not a password
    CLIENT_TOKEN_DIFFERS = "client token differs"  # noqa: S105 - not a password
    CLIENT_TOKEN_TAKEN = "client token of another tunnel"  # noqa: S105 - not a password
    TUNNEL_CLOSED = "tunnel is closed"


class AdmissionRefused(ServiceError):
    """A local proxy may not connect; ``refusal`` says why.

    ``tunnel`` is the one that the access token belongs to, ``None`` when it is unknown.
    """

    def __init__(self, refusal: Refusal, tunnel: TunnelRecord | None = None) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal
        self.tunnel = tunnel


class Tunnels:
    """Opens, admits to, and closes tunnels; every change is stored when a method returns."""

    def __init__(self, store: TunnelStore, ids: RandomIds, limits: Limits) -> None:
        self._store = store
        self._ids = ids
        self._limits = limits

    def open(self, spec: TunnelSpec, now: float) -> OpenedTunnel:
        """Open a tunnel and issue one access token for each side.

        Raises:
            TunnelLimitReached: the tunnel would have too many services, or too many
                tunnels are open.
        """
        self._check_services(spec.services)
        if self._store.count_open(now) >= self._limits.open_tunnels:
            raise TunnelLimitReached(
                f"There can be at most {self._limits.open_tunnels} open tunnels; close one first"
            )
        disconnected = ConnectionState(ConnectionStatus.DISCONNECTED, now)
        tunnel = TunnelRecord(
            tunnel_id=self._ids.tunnel_id(),
            status=TunnelStatus.OPEN,
            created_at=now,
            last_updated_at=now,
            expires_at=now + 60 * spec.lifetime_minutes,
            lifetime_minutes=spec.lifetime_minutes,
            source=disconnected,
            destination=disconnected,
            description=spec.description,
            thing_name=spec.thing_name,
            services=spec.services,
            tags=spec.tags,
        )
        tokens = {side: self._ids.access_token() for side in Side}
        records = [
            TokenRecord(token.digest, tunnel.tunnel_id, side, now) for side, token in tokens.items()
        ]
        self._store.add_tunnel(tunnel, records)
        return OpenedTunnel(tunnel, tokens[Side.SOURCE], tokens[Side.DESTINATION])

    def _check_services(self, services: tuple[str, ...]) -> None:
        if len(services) > self._limits.services:
            raise TunnelLimitReached(
                f"A tunnel can have at most {self._limits.services} services, "
                f"{len(services)} were given"
            )

    def rotate(
        self, tunnel_id: str, sides: Iterable[Side], destination: Destination | None, now: float
    ) -> RotatedTunnel:
        """Replace the access tokens of ``sides``; the old ones are refused from now on.

        The lifetime does not change. ``destination`` replaces services and thing name.
        The caller disconnects the rotated sides, because their token no longer opens the
        tunnel; when the service ids have changed, both sides.

        Raises:
            TunnelNotFound: there is no such tunnel.
            TunnelClosed: it has ended.
            TunnelLimitReached: it would have too many services.
        """
        tunnel = self._existing(tunnel_id)
        services, thing_name = tunnel.services, tunnel.thing_name
        if destination is not None:
            services, thing_name = destination.services, destination.thing_name
            self._check_services(services)
        changed = replace(tunnel, services=services, thing_name=thing_name, last_updated_at=now)
        tokens = {side: self._ids.access_token() for side in sides}
        records = [
            TokenRecord(token.digest, tunnel_id, side, now) for side, token in tokens.items()
        ]
        if tunnel.expires_at <= now or not self._store.replace_tokens(changed, records):
            raise TunnelClosed(tunnel_id)
        same = set(services) == set(tunnel.services)
        return RotatedTunnel(changed, tokens, tuple(tokens) if same else tuple(Side))

    def tag(self, tunnel_id: str, tags: Mapping[str, str], now: float) -> None:
        """Add tags to a tunnel, or replace the values of its tags.

        Raises:
            TunnelNotFound: there is no such tunnel.
            TunnelLimitReached: it would have more than :data:`MAX_TAGS`.
        """
        merged = dict(self._existing(tunnel_id).tags) | dict(tags)
        if len(merged) > MAX_TAGS:
            raise TunnelLimitReached(f"A tunnel can have at most {MAX_TAGS} tags")
        self._store.set_tags(tunnel_id, tuple(merged.items()), now)

    def untag(self, tunnel_id: str, keys: Iterable[str], now: float) -> None:
        """Remove tags from a tunnel; keys that it does not have are ignored.

        Raises:
            TunnelNotFound: there is no such tunnel.
        """
        removed = set(keys)
        tags = tuple(tag for tag in self._existing(tunnel_id).tags if tag[0] not in removed)
        self._store.set_tags(tunnel_id, tags, now)

    def _existing(self, tunnel_id: str) -> TunnelRecord:
        tunnel = self._store.tunnel(tunnel_id)
        if tunnel is None:
            raise TunnelNotFound(tunnel_id)
        return tunnel

    def close(self, tunnel_id: str, now: float, *, delete: bool = False) -> None:
        """Close a tunnel; closing a closed one changes nothing.

        ``delete`` removes the tunnel at once instead of leaving it visible as CLOSED.

        Raises:
            TunnelNotFound: there is no such tunnel.
        """
        self._existing(tunnel_id)
        if delete:
            self._store.delete_tunnel(tunnel_id)
        else:
            self._store.close_tunnel(tunnel_id, now)

    def admit(
        self, token: Secret, side: Side, client_token: Secret | None, now: float
    ) -> TunnelRecord:
        """Admit a local proxy to one side of a tunnel, and use its access token up.

        A token that was used without a client token is refused afterwards. One that was used
        with a client token admits the same client token again (guide V3, "Handshake"). No two
        open tunnels may have a client token in common; the two sides of one tunnel may.

        Raises:
            AdmissionRefused: the token does not open this side of an open tunnel.
        """
        # The token must be one, and open this side of an open tunnel.
        client_digest = client_token.digest if client_token else None
        record = self._store.token(token.digest)
        if record is None:
            raise AdmissionRefused(Refusal.UNKNOWN_TOKEN)
        tunnel = self._store.tunnel(record.tunnel_id)
        if tunnel is None:
            raise AdmissionRefused(Refusal.UNKNOWN_TOKEN)
        if record.side is not side:
            raise AdmissionRefused(Refusal.WRONG_SIDE, tunnel)
        if tunnel.status is TunnelStatus.CLOSED or tunnel.expires_at <= now:
            raise AdmissionRefused(Refusal.TUNNEL_CLOSED, tunnel)
        # Its first use decides which client token it belongs to.
        if record.first_used_at is None:
            if client_digest is not None and self._store.client_token_elsewhere(
                client_digest, tunnel.tunnel_id, now
            ):
                raise AdmissionRefused(Refusal.CLIENT_TOKEN_TAKEN, tunnel)
            if self._store.mark_token_used(record.digest, client_digest, now):
                return tunnel
            # Another service of the same store used it meanwhile.
            record = self._store.token(record.digest) or record
        # Later uses need that client token.
        if record.client_digest is None or client_digest is None:
            raise AdmissionRefused(Refusal.TOKEN_USED, tunnel)
        if not secrets.compare_digest(record.client_digest, client_digest):
            raise AdmissionRefused(Refusal.CLIENT_TOKEN_DIFFERS, tunnel)
        return tunnel

    def set_connected(self, tunnel_id: str, side: Side, connected: bool, now: float) -> None:
        """Record that a local proxy of ``side`` has connected or disconnected."""
        status = ConnectionStatus.CONNECTED if connected else ConnectionStatus.DISCONNECTED
        self._store.set_connection(tunnel_id, side, ConnectionState(status, now))

    def reset_connections(self, now: float) -> None:
        """Record that no local proxy is connected: the service starts or stops."""
        self._store.reset_connections(now)

    def expire(self, now: float) -> tuple[str, ...]:
        """Close tunnels whose lifetime has ended, and remove old CLOSED ones.

        Returns:
            The ids of the tunnels closed by this call.
        """
        due = self._store.due_tunnels(now)
        closed = tuple(tunnel_id for tunnel_id in due if self._store.close_tunnel(tunnel_id, now))
        self._store.purge_closed(now - CLOSED_VISIBLE_SECONDS)
        return closed

    def next_expiry(self) -> float | None:
        """Return when the next open tunnel expires."""
        return self._store.next_expiry()
