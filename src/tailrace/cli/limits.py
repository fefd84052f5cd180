"""The options of ``tailrace serve`` that limit what clients may have."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from ..errors import ConfigurationError
from ..service.limits import PRESETS, Limits, Quotas

__all__ = ["add_limit_options", "add_quota_options", "read_limits", "read_quotas"]

_FACTORS: Final = {"": 1, "k": 1000, "M": 1000**2, "G": 1000**3}


@dataclass(frozen=True, slots=True)
class _Option:
    """One option: the limit it sets and what its value may be."""

    field: str
    minimum: float
    maximum: float
    metavar: str
    help: str
    can_be_off: bool = False
    """Whether 0 is allowed, too, and turns the limit off."""
    is_whole: bool = True

    @property
    def flag(self) -> str:
        return "--max-" + self.field.replace("_", "-")

    @property
    def dest(self) -> str:
        return f"limit_{self.field}"


_OPTIONS: Final = (
    _Option("services", 1, 450, "N", "services per tunnel"),
    _Option("open_tunnels", 1, 10**9, "N", "tunnels open at the same time"),
    _Option(
        "bandwidth",
        1000,
        10**12,
        "BYTES",
        "bytes per second of one tunnel, both directions together; the suffixes k, M and G work",
        can_be_off=True,
    ),
    _Option(
        "connection_rate",
        0.01,
        10**6,
        "N",
        "new connections per second from one address",
        can_be_off=True,
        is_whole=False,
    ),
    _Option(
        "connections",
        1,
        10**6,
        "N",
        "connections open at each port, besides the links of local proxies; never more than "
        "an eighth of the file descriptors that the process may have",
        can_be_off=True,
    ),
    _Option(
        "address_connections",
        1,
        10**6,
        "N",
        "as many of them from one address",
        can_be_off=True,
    ),
    _Option(
        "handshake_seconds",
        0.1,
        600,
        "SECONDS",
        "time allowed for TLS, and again for the upgrade request",
        is_whole=False,
    ),
    _Option("handshake_bytes", 256, 16 * 1024, "BYTES", "size of an upgrade request"),
    _Option(
        "idle_seconds",
        1,
        10**6,
        "SECONDS",
        "drop a link when its client has sent nothing, not even a ping, for this long",
        can_be_off=True,
        is_whole=False,
    ),
    _Option("request_bytes", 1024, 64 * 1024**2, "BYTES", "size of an API request"),
    _Option(
        "request_rate",
        0.01,
        10**6,
        "N",
        "API requests per second of one access key",
        can_be_off=True,
        is_whole=False,
    ),
    _Option(
        "key_open_tunnels",
        1,
        10**9,
        "N",
        "tunnels of one access key open at the same time; ten times as many for a key that nothing "
        "else limits",
        can_be_off=True,
    ),
    _Option(
        "key_opened_per_hour",
        1,
        10**9,
        "N",
        "tunnels that one access key opens in an hour; ten times as many likewise",
        can_be_off=True,
    ),
    _Option(
        "key_stored_bytes",
        1000,
        10**12,
        "BYTES",
        "bytes of tunnels and tags of one access key, closed tunnels included; ten times as many "
        "likewise",
        can_be_off=True,
    ),
)

_QUOTAS: Final = (
    _Option("open_tunnels", 1, 10**9, "N", "tunnels open at the same time", can_be_off=True),
    _Option("opened_per_hour", 1, 10**9, "N", "tunnels opened in an hour", can_be_off=True),
    _Option(
        "stored_bytes",
        1000,
        10**12,
        "BYTES",
        "bytes of tunnels and tags, closed tunnels included; the suffixes k, M and G work",
        can_be_off=True,
    ),
)


def add_limit_options(parser: argparse.ArgumentParser) -> None:
    """Add the options; :func:`read_limits` reads them."""
    group = parser.add_argument_group("limits", "Where 0 is allowed, it means no limit.")
    group.add_argument(
        "--limits",
        choices=sorted(PRESETS),
        default="default",
        help="preset to start from: generous limits, or those of AWS (default: %(default)s); the "
        "options below override single ones",
    )
    for option in _OPTIONS:
        group.add_argument(option.flag, dest=option.dest, metavar=option.metavar, help=option.help)


def read_limits(args: argparse.Namespace) -> Limits:
    """Return the limits that the options ask for.

    Raises:
        ConfigurationError: a value is not a number or out of range.
    """
    return replace(PRESETS[args.limits], **_given(_OPTIONS, args))


def add_quota_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the quotas of one key; :func:`read_quotas` reads them."""
    group = parser.add_argument_group(
        "quotas", "0 means no limit; the default is what tailrace serve has for all keys."
    )
    for option in _QUOTAS:
        group.add_argument(option.flag, dest=option.dest, metavar=option.metavar, help=option.help)


def read_quotas(args: argparse.Namespace) -> Quotas:
    """Return the quotas that the options ask for.

    Raises:
        ConfigurationError: a value is not a number or out of range.
    """
    return Quotas(**_given(_QUOTAS, args))


def _given(options: Iterable[_Option], args: argparse.Namespace) -> dict[str, Any]:
    return {
        option.field: _read(option, text)
        for option in options
        if (text := getattr(args, option.dest)) is not None
    }


def _read(option: _Option, text: str) -> float:
    suffix = text[-1:] if text[-1:] in _FACTORS else ""
    try:
        value = float(text.removesuffix(suffix)) * _FACTORS[suffix]
    except ValueError:
        value = math.nan
    fits = option.minimum <= value <= option.maximum or (option.can_be_off and value == 0)
    if not fits or (option.is_whole and value != int(value)):
        kind = "a whole number" if option.is_whole else "a number"
        off = ", or 0 for no limit" if option.can_be_off else ""
        bounds = f"from {option.minimum:g} to {option.maximum:g}"
        raise ConfigurationError(f"{option.flag} {text!r} is not {kind} {bounds}{off}")
    return int(value) if option.is_whole else value
