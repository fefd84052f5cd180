"""Errors of the service, below the form in which clients get them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from ..errors import ConfigurationError, ListenError, TailraceError

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


class SettingsError(TailraceError):
    """Settings cannot be used; ``setting`` is the one at fault.

    In ``template``, a format string, ``{0}`` is the name of the first of ``settings``, ``{1}``
    that of the second, and other fields are ``facts``. A command that has options for the
    settings prints :meth:`text`.
    """

    def __init__(self, template: str, *settings: str, **facts: object) -> None:
        super().__init__(template.format(*settings, **facts))
        self.setting = settings[0]
        self._template = template
        self._settings = settings
        self._facts = facts

    def text(self, names: Mapping[str, str]) -> str:
        """Return the text with other ``names`` for the settings."""
        return self._template.format(*map(names.__getitem__, self._settings), **self._facts)

    def renamed(self, names: Mapping[str, str]) -> Self:
        """Return the same error with other ``names`` for some settings."""
        settings = (names.get(setting, setting) for setting in self._settings)
        return type(self)(self._template, *settings, **self._facts)


class SettingUnusable(SettingsError, ConfigurationError):
    """The value of a setting is wrong."""


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
