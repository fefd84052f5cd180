"""The two sides of a tunnel."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Side"]


class Side(StrEnum):
    """A side of a tunnel, spelled as in the query parameter ``local-proxy-mode`` (guide V3).

    Example: ``if tunnel.status().side is tailrace.Side.SOURCE: ...``
    """

    SOURCE = "source"
    """Clients connect to it."""
    DESTINATION = "destination"
    """It connects to applications."""

    @property
    def other(self) -> Side:
        """The side this one talks to."""
        return Side.DESTINATION if self is Side.SOURCE else Side.SOURCE
