"""What is known of a tunnel that a command holds: one frozen value, which crosses processes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

__all__ = ["HolderState", "Origin", "Phase"]


class Phase(Enum):
    """How far the way to the device is."""

    OPENING = "opening"
    """The control API is asked for a tunnel."""
    CONNECTING = "connecting"
    """There is a tunnel, and its source connects."""
    WAITING = "waiting"
    """The source is connected, and the device is not."""
    READY = "ready"
    """Connections can be made."""
    RECONNECTING = "reconnecting"
    """The link was lost or could not be set up; another attempt follows."""
    CLOSING = "closing"


class Origin(Enum):
    """Where a tunnel comes from."""

    OPENED = "opened"
    TAKEN = "taken"
    """It was open, and nobody used its source."""
    GIVEN = "given"
    """Nothing is known of it but its source token."""


@dataclass(frozen=True, slots=True)
class HolderState:
    """A tunnel and how far it is. Times are in seconds of the monotonic clock of this machine."""

    phase: Phase = Phase.OPENING
    origin: Origin | None = None
    """``None`` as long as there is no tunnel."""
    tunnel_id: str = ""
    waiting_since: float = 0.0
    """When the device was told, or the wait for it began."""
    retry_at: float = 0.0
    """When the link is tried again."""
    cause: str = ""
    """Why the link or the device has gone, "" if neither has."""
    hint: str = ""
    """What is known of a device that does not come."""
    notes: tuple[str, ...] = ()
    """What else a person should know, one line each."""
    waiting: int = 0
    """Connections that wait until link and device are back."""
    refusal: str = ""
    """Why the device has made nothing of the latest connection, "" if that is not so."""

    def to_document(self) -> dict[str, Any]:
        """Return it as a JSON document."""
        document = asdict(self)
        document["phase"] = self.phase.value
        document["origin"] = self.origin.value if self.origin is not None else None
        return document

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> HolderState:
        """Return the state that :meth:`to_document` has described."""
        origin = document["origin"]
        return cls(
            **document
            | {
                "phase": Phase(document["phase"]),
                "origin": Origin(origin) if origin is not None else None,
                "notes": tuple(document["notes"]),
            }
        )
