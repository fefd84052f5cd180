"""What carries messages between the two sides of one tunnel.

The relay's ends never hold each other: an end joins the fabric and gets a
:class:`Port`, and the fabric calls the end's :class:`Inbox`. :class:`LocalFabric`
connects ends of one process; one that spans processes fits behind the same port.
"""

from __future__ import annotations

from typing import Protocol

from ...wire import Message, Side

__all__ = ["Fabric", "Inbox", "LocalFabric", "Port"]


class Inbox(Protocol):
    """One connected side of a tunnel, as the fabric sees it."""

    def deliver(self, run: memoryview, control: Message | None) -> None:
        """Take whole messages from the other side, length prefixes included.

        ``run`` dies when this returns. ``control`` is the decoded message when the
        run is a single STREAM_START, STREAM_RESET or flow message, ``None`` for anything else.
        """

    def peer_left(self) -> None:
        """Learn that the other side's connection is gone."""

    def peer_stalled(self) -> None:
        """Stop taking in messages: the other side cannot pass them on."""

    def peer_drained(self) -> None:
        """Take in messages again."""

    def replaced(self) -> None:
        """Learn that a newer connection has taken this side; the port is dead."""

    def revoked(self, reason: str) -> None:
        """Learn that this side may no longer be connected; the port is dead."""

    def tunnel_closed(self, reason: str) -> None:
        """Learn that the tunnel has ended; the port is dead."""


class Port(Protocol):
    """The fabric, as one connected side of a tunnel sees it."""

    @property
    def peer_present(self) -> bool:
        """Whether the other side is connected."""

    def forward(self, run: memoryview, control: Message | None) -> None:
        """Hand messages to the other side; without one they are dropped.

        Arguments as in :meth:`Inbox.deliver`. Order is kept.
        """

    def stall(self) -> None:
        """Ask the other side to send nothing more for now (what is under way still comes)."""

    def drain(self) -> None:
        """Let the other side send again."""

    def leave(self) -> None:
        """Give up this side; a port that is dead already stays as it is."""


class Fabric(Protocol):
    """Connects the sides of tunnels."""

    def join(self, tunnel_id: str, side: Side, inbox: Inbox) -> Port:
        """Make ``inbox`` the current connection of one side.

        A previous one learns that it was :meth:`Inbox.replaced`, and the other side
        that its peer has left, before this returns.
        """

    def disconnect(self, tunnel_id: str, side: Side, reason: str) -> None:
        """Turn out whoever is connected as ``side``; the other side learns that it has left."""

    def close_tunnel(self, tunnel_id: str, reason: str) -> None:
        """End a tunnel: both sides learn that it was closed."""


class LocalFabric:
    """Both sides of every tunnel hold their connections in this process."""

    def __init__(self) -> None:
        self._ports: dict[tuple[str, Side], _LocalPort] = {}

    def join(self, tunnel_id: str, side: Side, inbox: Inbox) -> Port:
        previous = self._ports.get((tunnel_id, side))
        if previous is not None:
            previous.leave()
            previous.inbox.replaced()
        port = _LocalPort(self._ports, (tunnel_id, side), inbox)
        self._ports[tunnel_id, side] = port
        peer = self._ports.get((tunnel_id, side.other))
        if peer is not None:
            port.peer, peer.peer = peer, port
            if peer.stalling:
                inbox.peer_stalled()
        return port

    def disconnect(self, tunnel_id: str, side: Side, reason: str) -> None:
        port = self._ports.get((tunnel_id, side))
        if port is not None:
            port.leave()
            port.inbox.revoked(reason)

    def close_tunnel(self, tunnel_id: str, reason: str) -> None:
        ports = [self._ports.pop((tunnel_id, side), None) for side in Side]
        for port in ports:
            if port is not None:
                port.peer = None
        for port in ports:
            if port is not None:
                port.inbox.tunnel_closed(reason)


class _LocalPort:
    __slots__ = ("_key", "_ports", "inbox", "peer", "stalling")

    def __init__(
        self, ports: dict[tuple[str, Side], _LocalPort], key: tuple[str, Side], inbox: Inbox
    ) -> None:
        self._ports = ports
        self._key = key
        self.inbox = inbox
        self.peer: _LocalPort | None = None
        self.stalling = False

    @property
    def peer_present(self) -> bool:
        return self.peer is not None

    def forward(self, run: memoryview, control: Message | None) -> None:
        if self.peer is not None:
            self.peer.inbox.deliver(run, control)

    def stall(self) -> None:
        self.stalling = True
        if self.peer is not None:
            self.peer.inbox.peer_stalled()

    def drain(self) -> None:
        self.stalling = False
        if self.peer is not None:
            self.peer.inbox.peer_drained()

    def leave(self) -> None:
        if self._ports.get(self._key) is self:
            del self._ports[self._key]
        peer, self.peer = self.peer, None
        if peer is not None:
            peer.peer = None
            if self.stalling:
                peer.inbox.peer_drained()
            peer.inbox.peer_left()
