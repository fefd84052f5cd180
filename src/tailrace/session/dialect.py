"""The dialects of the tunnel protocol as data: what the messages of each version carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["V1", "V2", "V3", "Dialect"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One version's message format (guide V3, backward compatibility)."""

    name: str
    has_service_id: bool
    """Messages carry the service id."""
    has_connection_id: bool
    """Messages carry a connection id, and a stream may have many connections."""


V1: Final = Dialect("V1", has_service_id=False, has_connection_id=False)
V2: Final = Dialect("V2", has_service_id=True, has_connection_id=False)
V3: Final = Dialect("V3", has_service_id=True, has_connection_id=True)
