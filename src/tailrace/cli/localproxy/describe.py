"""The settings in effect, for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path

from ...common.addresses import TCPAddress, format_service_map
from ...common.secret import Secret
from ...link.proxy.settings import WebProxy
from .allow_list import format_allow_list
from .layers import Origin
from .resolve import Configuration
from .values import printable

__all__ = ["Effective", "describe"]


@dataclass(frozen=True, slots=True)
class Effective:
    """One setting in effect."""

    name: str
    value: str
    origin: Origin


def describe(configuration: Configuration) -> tuple[Effective, ...]:
    """Return every setting with its value as printable text and its origin, without secrets."""
    command = configuration.settings
    values = {item.name: getattr(command.proxy, item.name) for item in fields(command.proxy)}
    values |= {item.name: getattr(command, item.name) for item in fields(command)}
    del values["proxy"]
    texts = {name: _text(value) for name, value in values.items()}
    return tuple(
        Effective(name, printable(text, len(text)), configuration.origins.get(name, Origin()))
        for name, text in texts.items()
    )


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case Secret() if not value:
            return ""
        case bool():
            return "true" if value else "false"
        case Enum():
            return str(value.value)
        case WebProxy() | Secret() | str() | int() | Path() | TCPAddress():
            return str(value)
        case float():
            return f"{value:g}"
        case Mapping():
            return format_service_map(value)
        case tuple():
            return format_allow_list(value)
        case _:
            raise AssertionError(f"no way to print {type(value).__name__}")
