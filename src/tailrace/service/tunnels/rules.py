"""The rules of tunnels and access tokens. No sockets, no clock: callers pass ``now``.

``now`` is in seconds since the epoch. Sources: AWS IoT Secure Tunneling developer guide
(tunnel lifecycle, concepts), and guide V3, "Handshake", for the use of tokens.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from itertools import islice
from typing import Final

from ...common.secret import Secret
from ...wire import Side
from ..errors import (
    EndNotStored,
    ServiceError,
    StoreFailed,
    TunnelClosed,
    TunnelLimitReached,
    TunnelNotFound,
)
from ..limits import COMMON_QUOTAS, Limits, Quotas
from .records import (
    ConnectionState,
    ConnectionStatus,
    TokenRecord,
    TunnelRecord,
    TunnelStatus,
    size_of_tags,
)
from .store import TunnelStore
from .unstored import Ending, Unstored

__all__ = [
    "CLOSED_VISIBLE_SECONDS",
    "DEFAULT_LIFETIME_MINUTES",
    "MAX_TAGS",
    "AdmissionRefused",
    "Destination",
    "OpenedTunnel",
    "Owner",
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
class Owner:
    """An access key, as its quotas are concerned."""

    key_id: str = ""
    quotas: Quotas = COMMON_QUOTAS
    privileged: bool = False
    """Whether nothing else limits the key."""


@dataclass(frozen=True, slots=True)
class TunnelSpec:
    """The properties of a new tunnel; already validated against the service model."""

    description: str | None = None
    thing_name: str | None = None
    services: tuple[str, ...] = ()
    lifetime_minutes: int = DEFAULT_LIFETIME_MINUTES
    tags: tuple[tuple[str, str], ...] = ()
    owner: Owner = Owner()


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
    """Opens, admits to, and closes tunnels; every change is stored when a method returns.

    What has happened in any case, and could not be stored, is in ``unstored`` then.
    """

    def __init__(
        self, store: TunnelStore, unstored: Unstored, ids: RandomIds, limits: Limits
    ) -> None:
        self._store = store
        self._unstored = unstored
        self._ids = ids
        self._limits = limits

    def open(self, spec: TunnelSpec, now: float) -> OpenedTunnel:
        """Open a tunnel and issue one access token for each side.

        Raises:
            TunnelLimitReached: the tunnel would have too many services, too many tunnels
                are open, or its owner has no quota left.
        """
        self._check_services(spec.services)
        if self._has_open(None, self._limits.open_tunnels, now):
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
            key_id=spec.owner.key_id,
        )
        self._check_quotas(spec.owner, tunnel.size + size_of_tags(spec.tags), now)
        tokens = {side: self._ids.access_token() for side in Side}
        records = [
            TokenRecord(token.digest, tunnel.tunnel_id, side, now) for side, token in tokens.items()
        ]
        self._store.add_tunnel(tunnel, records, spec.tags)
        return OpenedTunnel(tunnel, tokens[Side.SOURCE], tokens[Side.DESTINATION])

    def _check_services(self, services: tuple[str, ...]) -> None:
        if len(services) > self._limits.services:
            raise TunnelLimitReached(
                f"A tunnel can have at most {self._limits.services} services, "
                f"{len(services)} were given"
            )

    def _check_quotas(self, owner: Owner, size: int, now: float) -> None:
        """Refuse one more tunnel of that size to an owner who has no quota left."""
        quotas = self._limits.quotas(owner.quotas, privileged=owner.privileged)
        key = f"Access key {owner.key_id}"
        if quotas.open_tunnels and self._has_open(owner.key_id, quotas.open_tunnels, now):
            raise TunnelLimitReached(
                f"{key} can have at most {quotas.open_tunnels} open tunnels; close one first",
                quota="open_tunnels",
            )
        opened = self._store.usage(owner.key_id, now).opened
        if quotas.opened_per_hour and opened >= quotas.opened_per_hour:
            raise TunnelLimitReached(
                f"{key} can open at most {quotas.opened_per_hour} tunnels in an hour; "
                "try again in the next one",
                quota="opened_per_hour",
            )
        self._check_stored(owner, size, now)

    def _has_open(self, key_id: str | None, count: int, now: float) -> bool:
        """Return whether that many tunnels are open and have lifetime left."""
        is_open = self._store.usage(key_id, now).open
        # Counted only where it matters.
        return is_open >= count and is_open - self._store.count_due(key_id, now) >= count

    def _check_stored(self, owner: Owner, growth: int, now: float) -> None:
        """Refuse to let the data of an owner grow by ``growth`` bytes beyond the quota."""
        limit = self._limits.quotas(owner.quotas, privileged=owner.privileged).stored_bytes
        if not limit or growth <= 0:
            return
        if self._store.usage(owner.key_id, now).stored_bytes + growth > limit:
            raise TunnelLimitReached(
                f"Access key {owner.key_id} can have at most {limit} bytes of tunnels and tags; "
                "closed tunnels count for three hours, unless CloseTunnel deletes them",
                quota="stored_bytes",
            )

    def rotate(
        self,
        tunnel_id: str,
        sides: Iterable[Side],
        destination: Destination | None,
        rotator: Owner,
        now: float,
    ) -> RotatedTunnel:
        """Replace the access tokens of ``sides``; the old ones are refused from now on.

        The lifetime does not change. ``destination`` replaces services and thing name.
        The caller disconnects the rotated sides, because their token no longer opens the
        tunnel; when the service ids have changed, both sides.

        Raises:
            TunnelNotFound: there is no such tunnel.
            TunnelClosed: it has ended.
            TunnelLimitReached: it would have too many services, or is the rotator's own, who
                has no quota left.
        """
        tunnel = self._existing(tunnel_id, now)
        services, thing_name = tunnel.services, tunnel.thing_name
        if destination is not None:
            services, thing_name = destination.services, destination.thing_name
            self._check_services(services)
        changed = replace(tunnel, services=services, thing_name=thing_name, last_updated_at=now)
        if rotator.key_id == tunnel.key_id:
            self._check_stored(rotator, changed.size - tunnel.size, now)
        tokens = {side: self._ids.access_token() for side in sides}
        records = [
            TokenRecord(token.digest, tunnel_id, side, now) for side, token in tokens.items()
        ]
        closed = tunnel.status is TunnelStatus.CLOSED
        if closed or not self._store.replace_tokens(changed, records):
            raise TunnelClosed(tunnel_id)
        same = set(services) == set(tunnel.services)
        return RotatedTunnel(changed, tokens, tuple(tokens) if same else tuple(Side))

    def tag(self, tunnel_id: str, tags: Mapping[str, str], tagger: Owner, now: float) -> None:
        """Add tags to a tunnel, or replace the values of its tags.

        All of its tags count for the ``tagger`` from then on, also if another key has opened it.

        Raises:
            TunnelNotFound: there is no such tunnel.
            TunnelLimitReached: it would have more than :data:`MAX_TAGS`, or the tagger has no
                quota left.
        """
        self._existing(tunnel_id, now)
        merged = tuple((dict(self._store.tags(tunnel_id)) | dict(tags)).items())
        if len(merged) > MAX_TAGS:
            raise TunnelLimitReached(f"A tunnel can have at most {MAX_TAGS} tags")
        before = self._store.size_of_tags(tunnel_id, tagger.key_id)
        self._check_stored(tagger, size_of_tags(merged) - before, now)
        self._store.set_tags(tunnel_id, merged, tagger.key_id, now)

    def untag(self, tunnel_id: str, keys: Iterable[str], now: float) -> None:
        """Remove tags from a tunnel; keys that it does not have are ignored.

        Raises:
            TunnelNotFound: there is no such tunnel.
        """
        removed = set(keys)
        self._existing(tunnel_id, now)
        tags = tuple(tag for tag in self._store.tags(tunnel_id) if tag[0] not in removed)
        self._store.set_tags(tunnel_id, tags, None, now)

    def _existing(self, tunnel_id: str, now: float) -> TunnelRecord:
        tunnel = self._current(tunnel_id, now)
        if tunnel is None:
            raise TunnelNotFound(tunnel_id)
        return tunnel

    def _current(self, tunnel_id: str, now: float) -> TunnelRecord | None:
        stored = self._store.tunnel(tunnel_id)
        return None if stored is None else self._unstored.current(stored, now)

    def close(self, tunnel_id: str, now: float, *, connected: bool, delete: bool = False) -> None:
        """Close a tunnel; closing a closed one changes nothing.

        ``delete`` removes the tunnel at once instead of leaving it visible as CLOSED. One with
        ``connected`` sides exists, so that the store need not be asked.

        Raises:
            TunnelNotFound: there is no such tunnel.
            EndNotStored: the tunnel is closed all the same.
        """
        if not connected and tunnel_id not in self._unstored.endings:
            self._existing(tunnel_id, now)
        ending = Ending(now, delete)
        try:
            self._store_ending(tunnel_id, ending)
        except StoreFailed as failed:
            # Never less than was asked for before.
            known = self._unstored.endings.get(tunnel_id)
            if known is None or delete:
                self._unstored.endings[tunnel_id] = ending
            raise EndNotStored(tunnel_id, busy=failed.busy) from None

    def _store_ending(self, tunnel_id: str, ending: Ending) -> None:
        if ending.delete:
            self._store.delete_tunnel(tunnel_id)
        else:
            self._store.close_tunnel(tunnel_id, ending.at)
        self._unstored.endings.pop(tunnel_id, None)

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
        tunnel = self._current(record.tunnel_id, now)
        if tunnel is None:
            raise AdmissionRefused(Refusal.UNKNOWN_TOKEN)
        if record.side is not side:
            raise AdmissionRefused(Refusal.WRONG_SIDE, tunnel)
        if tunnel.status is TunnelStatus.CLOSED:
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
        """Record that a local proxy of ``side`` has connected or disconnected.

        Raises:
            StoreFailed: it is recorded later.
        """
        status = ConnectionStatus.CONNECTED if connected else ConnectionStatus.DISCONNECTED
        state = ConnectionState(status, now)
        try:
            self._store_connection(tunnel_id, side, state)
        except StoreFailed:
            self._unstored.connections[tunnel_id, side] = state
            raise

    def _store_connection(self, tunnel_id: str, side: Side, state: ConnectionState) -> None:
        self._store.set_connection(tunnel_id, side, state)
        self._unstored.connections.pop((tunnel_id, side), None)

    def reset_connections(self, now: float) -> None:
        """Record that no local proxy is connected: the service starts or stops."""
        self._store.reset_connections(now)

    # What the sweep does: a bounded part at a time, and all of it may fail with StoreFailed

    def store_again(self, limit: int) -> bool:
        """Store up to ``limit`` changes that could not be stored; return whether more are left."""
        for tunnel_id, ending in tuple(islice(self._unstored.endings.items(), limit)):
            self._store_ending(tunnel_id, ending)
        for place, state in tuple(islice(self._unstored.connections.items(), limit)):
            self._store_connection(*place, state)
        return bool(self._unstored.endings or self._unstored.connections)

    def end_lifetime(self, tunnel_id: str, now: float) -> None:
        """Let the lifetime of an open tunnel end now; :meth:`expire` closes it.

        Raises:
            TunnelNotFound: there is no such tunnel.
            TunnelClosed: it has ended.
        """
        tunnel = self._existing(tunnel_id, now)
        if tunnel.status is TunnelStatus.CLOSED or not self._store.set_expiry(tunnel_id, now):
            raise TunnelClosed(tunnel_id)

    def expire(self, now: float, limit: int) -> Iterator[str]:
        """Close up to ``limit`` tunnels whose lifetime has ended.

        One that cannot be closed does not keep the others from it.

        Yields:
            The id of each tunnel that was closed here, as soon as that is stored.
        """
        failed: StoreFailed | None = None
        for tunnel_id in self._store.due_tunnels(now, limit):
            try:
                closed = self._store.close_tunnel(tunnel_id, now)
            except StoreFailed as failure:
                failed = failure
            else:
                if closed:
                    yield tunnel_id
        if failed is not None:
            raise failed

    def purge(self, now: float, limit: int) -> bool:
        """Remove up to ``limit`` tunnels CLOSED long ago; return whether more may be left."""
        return self._store.purge_closed(now - CLOSED_VISIBLE_SECONDS, limit) >= limit

    def next_expiry(self) -> float | None:
        """Return when the next open tunnel expires."""
        return self._store.next_expiry()

    def changed_elsewhere(self) -> bool:
        """Return whether another process has changed the store since the last call."""
        return self._store.changed_elsewhere()

    def is_open(self, tunnel_id: str) -> bool:
        """Return whether a tunnel is OPEN in the store."""
        return self._store.is_open(tunnel_id)
