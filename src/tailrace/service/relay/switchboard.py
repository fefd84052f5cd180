"""Where the two sides of a tunnel meet.

The relay's ends do not know each other. An end joins the switchboard and gets an
:class:`Attachment`, through which it reaches the end on the other side of the same tunnel;
the switchboard calls the end's :class:`Inbox`. Each side has one place, which the newest
connection takes: an attachment that has lost it is dead, reaches nothing, and its inbox is
not called again.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final, Protocol

from ...wire import NO_CAPABILITIES, Capabilities, Message, Side

__all__ = ["Attachment", "Inbox", "Switchboard"]

_FORGOTTEN: Final = 1000
"""Tunnels without connected sides that are remembered until they end."""


class Inbox(Protocol):
    """One connected side of a tunnel, as the switchboard sees it."""

    @property
    def capabilities(self) -> Capabilities:
        """What the client can do."""

    def deliver(self, messages: memoryview, control: Message | None) -> None:
        """Called with whole messages from the other side, length prefixes included.

        ``messages`` dies when this returns. ``control`` is the decoded message when they
        are a single STREAM_START, STREAM_RESET or flow message, ``None`` for anything else.
        """

    def peer_joined(self) -> None:
        """Called when the other side has connected, and this side was there before."""

    def peer_left(self) -> None:
        """Called when the other side's connection is gone."""

    def peer_blocked(self) -> None:
        """Called when the other side cannot pass on any more: take in no messages."""

    def peer_unblocked(self) -> None:
        """Called when messages may be taken in again."""

    def replaced(self) -> None:
        """Called when a newer connection has taken this side; the attachment is dead."""

    def revoked(self, reason: str) -> None:
        """Called when this side may no longer be connected; the attachment is dead."""

    def tunnel_closed(self, reason: str) -> None:
        """Called when the tunnel has ended; the attachment is dead."""


class Switchboard:
    """Connects the sides of tunnels; both sides of each are connected to this process.

    It knows when the tunnels end that were joined, so that their links can be ended in time
    whether or not the store can be asked.
    """

    __slots__ = ("_attachments", "_by_expiry", "_expiries")

    def __init__(self) -> None:
        self._attachments: dict[tuple[str, Side], Attachment] = {}
        self._expiries: dict[str, float] = {}
        """When tunnels end that were joined, in seconds since the epoch; their sides may have
        left since."""
        self._by_expiry: list[tuple[float, str]] = []
        """A heap of the same."""

    def join(self, tunnel_id: str, side: Side, inbox: Inbox, expires_at: float) -> Attachment:
        """Make ``inbox`` the current connection of one side of a tunnel that ends then.

        A previous one learns that it was :meth:`Inbox.replaced`, and the other side
        that its peer has left, before this returns.
        """
        previous = self._attachments.get((tunnel_id, side))
        if previous is not None:
            previous.leave()
            previous.inbox.replaced()
        attachment = Attachment(self._attachments, (tunnel_id, side), inbox)
        self._attachments[tunnel_id, side] = attachment
        if tunnel_id not in self._expiries:
            self._expiries[tunnel_id] = expires_at
            heappush(self._by_expiry, (expires_at, tunnel_id))
            if len(self._expiries) > 2 * len(self._attachments) + _FORGOTTEN:
                self._forget_expiries()
        peer = self._attachments.get((tunnel_id, side.other))
        if peer is not None:
            attachment.peer, peer.peer = peer, attachment
            peer.inbox.peer_joined()
            if peer.blocks_peer:
                inbox.peer_blocked()
        return attachment

    def disconnect(self, tunnel_id: str, side: Side, reason: str) -> None:
        """Disconnect ``side``, if it is connected; the other side learns that it has left."""
        attachment = self._attachments.get((tunnel_id, side))
        if attachment is not None:
            attachment.leave()
            attachment.inbox.revoked(reason)

    def is_connected(self, tunnel_id: str) -> bool:
        """Return whether any side of a tunnel is connected."""
        return any((tunnel_id, side) in self._attachments for side in Side)

    def connected_tunnels(self) -> set[str]:
        """Return the ids of all tunnels with connected sides."""
        return {tunnel_id for tunnel_id, _ in self._attachments}

    @property
    def next_expiry(self) -> float | None:
        """When the next of the joined tunnels ends, in seconds since the epoch."""
        return self._by_expiry[0][0] if self._by_expiry else None

    def take_expired(self, now: float, limit: int) -> list[str]:
        """Return up to ``limit`` joined tunnels that have ended by ``now``, each of them once."""
        taken: list[str] = []
        while self._by_expiry and self._by_expiry[0][0] <= now and len(taken) < limit:
            _, tunnel_id = heappop(self._by_expiry)
            del self._expiries[tunnel_id]
            taken.append(tunnel_id)
        return taken

    def _forget_expiries(self) -> None:
        connected = self.connected_tunnels()
        self._expiries = {
            tunnel_id: at for tunnel_id, at in self._expiries.items() if tunnel_id in connected
        }
        self._by_expiry = [(at, tunnel_id) for tunnel_id, at in self._expiries.items()]
        heapify(self._by_expiry)

    def close_tunnel(self, tunnel_id: str, reason: str) -> None:
        """End a tunnel: both sides learn that it was closed."""
        attachments = [self._attachments.pop((tunnel_id, side), None) for side in Side]
        for attachment in attachments:
            if attachment is not None:
                attachment.peer = None
        for attachment in attachments:
            if attachment is not None:
                attachment.inbox.tunnel_closed(reason)


class Attachment:
    """The place of one connection at a switchboard; made by :meth:`Switchboard.join`."""

    __slots__ = ("_attachments", "_key", "blocks_peer", "inbox", "peer")

    def __init__(
        self,
        attachments: dict[tuple[str, Side], Attachment],
        key: tuple[str, Side],
        inbox: Inbox,
    ) -> None:
        self._attachments = attachments
        self._key = key
        self.inbox = inbox
        self.peer: Attachment | None = None
        """The attachment of the other side; ``None`` without one, and when this one is dead."""
        self.blocks_peer = False

    @property
    def peer_present(self) -> bool:
        """Whether the other side is connected."""
        return self.peer is not None

    @property
    def peer_capabilities(self) -> Capabilities:
        """What the other side can do; nothing unless it is connected."""
        return NO_CAPABILITIES if self.peer is None else self.peer.inbox.capabilities

    def forward(self, messages: memoryview, control: Message | None) -> None:
        """Pass messages to the other side; without one they are dropped.

        Arguments as in :meth:`Inbox.deliver`. Order is kept.
        """
        if self.peer is not None:
            self.peer.inbox.deliver(messages, control)

    def block_peer(self) -> None:
        """Ask the other side to send nothing more for now (what is under way still comes)."""
        self.blocks_peer = True
        if self.peer is not None:
            self.peer.inbox.peer_blocked()

    def unblock_peer(self) -> None:
        """Let the other side send again."""
        self.blocks_peer = False
        if self.peer is not None:
            self.peer.inbox.peer_unblocked()

    def leave(self) -> None:
        """Give up the place; does nothing if it is lost already."""
        if self._attachments.get(self._key) is self:
            del self._attachments[self._key]
        peer, self.peer = self.peer, None
        if peer is not None:
            peer.peer = None
            if self.blocks_peer:
                peer.inbox.peer_unblocked()
            peer.inbox.peer_left()
