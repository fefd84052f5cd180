"""Errors of settings that each reader knows by other names: arguments, options, keys of a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from ..errors import ConfigurationError, TailraceError

__all__ = ["SettingUnusable", "SettingsError"]


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
