"""What is known of the far end on one link: the service, and the peer behind it."""

from __future__ import annotations

from typing import Final

from ..wire import (
    FLOW,
    NO_CAPABILITIES,
    PEER_LISTENS,
    RESUME,
    Capabilities,
    Capability,
    Message,
    MessageType,
    parse_capabilities,
)
from .dialect import V3, Dialect

__all__ = ["FarEnd"]

_TELLING: Final = FLOW | RESUME
"""A service that can do any of these tells whether the other side is connected."""


class FarEnd:
    """What a session knows of the service, of its peer and of how that one speaks.

    ``dialect`` is ``None`` where it is to be learned from the peer's answers.
    """

    __slots__ = (
        "_fixed_dialect",
        "_learns",
        "capabilities",
        "dialect",
        "may_learn",
        "peer_capabilities",
        "peer_present",
    )

    def __init__(self, dialect: Dialect | None, *, learns: bool) -> None:
        self.capabilities = NO_CAPABILITIES
        """What the service passes on, and only to clients that can do the same."""
        self._fixed_dialect = dialect
        self._learns = learns
        self.begin()

    def begin(self) -> None:
        """Know nothing yet of a new link but what its service passes on."""
        self.dialect = self._fixed_dialect or V3
        self.may_learn = self._learns and self._fixed_dialect is None
        """Whether answers may still show that the peer speaks an older dialect."""
        self.peer_present: bool | None = None
        """Whether the other side is connected; ``None`` as long as the service has not said."""
        self.peer_capabilities = NO_CAPABILITIES
        """What the service has said that the other side can do."""

    @property
    def has_flow(self) -> bool:
        """Whether the service passes on flow messages."""
        return Capability.FLOW in self.capabilities

    @property
    def passes_offers(self) -> bool:
        """Whether the service passes on what lets connections outlive a link."""
        return Capability.RESUME in self.capabilities

    @property
    def tells_presence(self) -> bool:
        """Whether the service tells of the other side."""
        return not _TELLING.isdisjoint(self.capabilities)

    @property
    def peer_resumes(self) -> bool:
        """Whether the other side is connected, and goes on with connections over lost links."""
        return Capability.RESUME in self.peer_capabilities

    def note_presence(self, message: Message) -> bool:
        """Take PEER_JOINED or PEER_LEFT; return whether the other side has come or gone."""
        present = message.type == MessageType.PEER_JOINED
        self.peer_capabilities = self._told_by(message) if present else NO_CAPABILITIES
        changes = present is not self.peer_present
        self.peer_present = present
        return changes

    def peer_agreed(self) -> None:
        """Note that the peer goes on with connections over lost links: it speaks V3."""
        self.dialect = V3
        self.may_learn = False

    def _told_by(self, message: Message) -> Capabilities:
        """Return what PEER_JOINED says that the other side can do."""
        if self.passes_offers:
            return parse_capabilities((bytes(message.payload).decode(errors="replace"),))
        return FLOW if message.payload == PEER_LISTENS else NO_CAPABILITIES
