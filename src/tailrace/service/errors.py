"""Errors of the service, below the form in which clients get them."""

from __future__ import annotations

from ..common.setting_errors import SettingsError, SettingUnusable
from ..errors import ListenError, TailraceError

__all__ = [
    "AddressUnusable",
    "EndNotStored",
    "InvalidCursor",
    "ServiceError",
    "SettingUnusable",
    "SettingsError",
    "StoreFailed",
    "TunnelClosed",
    "TunnelLimitReached",
    "TunnelNotFound",
]


class AddressUnusable(SettingsError, ListenError):
    """An address to listen on could not be bound."""


class ServiceError(TailraceError):
    """Base class of the service's own errors."""


class TunnelNotFound(ServiceError):
    """No tunnel has this id."""

    def __init__(self, tunnel_id: str) -> None:
        super().__init__(f"Tunnel {tunnel_id} does not exist")


class TunnelClosed(ServiceError):
    """The tunnel has ended; it can still be described, but not used."""

    def __init__(self, tunnel_id: str) -> None:
        super().__init__(f"Tunnel {tunnel_id} is closed")


class TunnelLimitReached(ServiceError):
    """The request would exceed a configured limit, possibly the ``quota`` of an access key."""

    def __init__(self, text: str, *, quota: str = "") -> None:
        super().__init__(text)
        self.quota = quota


class InvalidCursor(ServiceError):
    """The cursor of a page does not come from this store."""


class StoreFailed(ServiceError):
    """The store could not read or write its data.

    ``busy`` says that another process has locked it, and nothing else is wrong.
    """

    def __init__(self, text: str, *, busy: bool = False) -> None:
        super().__init__(text)
        self.busy = busy


class EndNotStored(StoreFailed):
    """A tunnel was closed, but the store could not write that; it is tried again."""

    def __init__(self, tunnel_id: str, *, busy: bool) -> None:
        super().__init__(
            f"Tunnel {tunnel_id} is closed, but the service could not store that yet; "
            "it tries again by itself",
            busy=busy,
        )
