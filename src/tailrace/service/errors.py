"""What can go wrong inside the service, below the shapes that clients see."""

from __future__ import annotations

from ..errors import TailraceError

__all__ = [
    "InvalidCursor",
    "ServiceError",
    "StoreFailed",
    "TunnelClosed",
    "TunnelLimitReached",
    "TunnelNotFound",
]


class ServiceError(TailraceError):
    """Base class of the service's own errors."""


class TunnelNotFound(ServiceError):
    """No tunnel has this id (any more)."""

    def __init__(self, tunnel_id: str) -> None:
        super().__init__(f"Tunnel {tunnel_id} does not exist")
        self.tunnel_id = tunnel_id


class TunnelClosed(ServiceError):
    """The tunnel has ended; it can be looked at, not used."""

    def __init__(self, tunnel_id: str) -> None:
        super().__init__(f"Tunnel {tunnel_id} is closed")
        self.tunnel_id = tunnel_id


class TunnelLimitReached(ServiceError):
    """A configured limit does not allow what was asked for."""


class InvalidCursor(ServiceError):
    """A page was asked for with a cursor that this store did not hand out."""


class StoreFailed(ServiceError):
    """The store could not read or write its data."""
