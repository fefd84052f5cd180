"""The interface of the stores that keep tunnels and tokens.

A store holds plain records and changes them atomically; the rules of tunnels and tokens
are in :mod:`tailrace.service.tunnels.rules`. What two callers may race for is decided by
the return value of one method: who closed a tunnel, who used a token first, whether
tokens were replaced before the tunnel was closed.

The methods are synchronous, so that on one node an admission is judged between two reads
of a socket, with nothing to interleave. A store in another process needs the same methods
as coroutines. Their callers are few and all are awaited, or can be, where an answer is
due: :class:`~.rules.Tunnels` and :class:`~.queries.TunnelQueries`, through them the
control plane, the requests of the control API, the expiry sweep, and the admission of the
data listener, whose upgrade request has to be held meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from ...wire import Side
from .records import ConnectionState, TokenRecord, TunnelRecord, TunnelSummary, Usage

__all__ = ["NEWEST", "Things", "TunnelStore"]

NEWEST: Final = 2**63 - 1
"""More than the sequence of any tunnel."""


@dataclass(frozen=True, slots=True)
class Things:
    """Things whose tunnels are meant: by default all, and tunnels without a thing."""

    name: str | None = None
    """One thing."""
    patterns: tuple[str, ...] | None = None
    """Patterns with ``*`` and ``?``, one of which a name must match."""


class TunnelStore(Protocol):
    """Keeps tunnels and tokens. Every method is atomic, and durable when it returns.

    All methods raise :class:`~tailrace.service.errors.StoreFailed` when the store
    cannot be read or written.
    """

    def add_tunnel(
        self,
        tunnel: TunnelRecord,
        tokens: Sequence[TokenRecord],
        tags: Sequence[tuple[str, str]],
    ) -> None:
        """Keep a new tunnel together with its tokens and tags."""

    def tunnel(self, tunnel_id: str) -> TunnelRecord | None:
        """Return a tunnel, open or closed."""

    def tags(self, tunnel_id: str) -> tuple[tuple[str, str], ...]:
        """Return the tags of a tunnel, none of an unknown one."""

    def list_tunnels(
        self, things: Things, before: int, limit: int
    ) -> tuple[list[TunnelSummary], int]:
        """Return up to ``limit`` tunnels of some things, newest first.

        Only tunnels with a sequence less than ``before`` are looked at, and a bounded number of
        them, so that there may be more even if ``limit`` is not reached: ask again with
        ``before`` as returned, until it is 0.
        """

    def close_tunnel(self, tunnel_id: str, now: float) -> bool:
        """Turn an OPEN tunnel CLOSED; return whether this call did it."""

    def set_expiry(self, tunnel_id: str, at: float) -> bool:
        """Let the lifetime of an OPEN tunnel end at that time; return whether there is one."""

    def usage(self, key_id: str | None, now: float) -> Usage:
        """Return what an access key has, ``None`` for all of them."""

    def count_due(self, key_id: str | None, now: float) -> int:
        """Return how many tunnels of a key are OPEN although their lifetime has ended."""

    def set_tags(
        self, tunnel_id: str, tags: Sequence[tuple[str, str]], key_id: str | None, now: float
    ) -> None:
        """Replace all tags of a tunnel, which count for ``key_id`` then.

        With ``None`` they count for the same key as before. Unknown tunnels are ignored.
        """

    def size_of_tags(self, tunnel_id: str, key_id: str) -> int:
        """Return the bytes of a tunnel's tags if they count for ``key_id``, otherwise 0."""

    def delete_tunnel(self, tunnel_id: str) -> None:
        """Remove a tunnel and its tokens; unknown tunnels are ignored."""

    def token(self, digest: str) -> TokenRecord | None:
        """Return the token with this SHA-256 (hex)."""

    def mark_token_used(self, digest: str, client_digest: str | None, now: float) -> bool:
        """Record the first use of a token; return whether this use was the first."""

    def client_token_elsewhere(self, client_digest: str, tunnel_id: str, now: float) -> bool:
        """Return whether another tunnel, OPEN and with lifetime left, has this client token."""

    def replace_tokens(self, tunnel: TunnelRecord, tokens: Sequence[TokenRecord]) -> bool:
        """Replace the tokens of the sides that ``tokens`` are for, if the tunnel is OPEN.

        Services, thing name and time of update of ``tunnel`` are stored with them.
        Return whether that was done.
        """

    def set_connection(self, tunnel_id: str, side: Side, state: ConnectionState) -> None:
        """Replace the connection state of one side; unknown tunnels are ignored."""

    def reset_connections(self, now: float) -> None:
        """Turn every CONNECTED side DISCONNECTED: no connection outlives its service."""

    def due_tunnels(self, now: float, limit: int) -> tuple[str, ...]:
        """Return the ids of up to ``limit`` OPEN tunnels whose lifetime has ended."""

    def next_expiry(self) -> float | None:
        """Return when the next OPEN tunnel expires, ``None`` without one."""

    def purge_closed(self, closed_before: float, limit: int) -> int:
        """Remove up to ``limit`` tunnels closed before that time; return how many."""

    def changed_elsewhere(self) -> bool:
        """Return whether another user of the data has changed it since the last call."""

    def is_open(self, tunnel_id: str) -> bool:
        """Return whether a tunnel is OPEN; one that is unknown is not."""

    def close(self) -> None:
        """Release files and locks."""
