"""The options of ``tailrace serve`` that limit what clients may have."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from ..errors import ConfigurationError
from ..service.limits import PRESETS, RANGES, Limits, Quotas, Range

__all__ = ["add_limit_options", "add_quota_options", "read_limits", "read_quotas"]

_FACTORS: Final = {"": 1, "k": 1000, "M": 1000**2, "G": 1000**3}


@dataclass(frozen=True, slots=True)
class _Option:
    """One option: the limit it sets and what its value may be."""

    field: str
    range: Range
    metavar: str
    help: str

    @property
    def flag(self) -> str:
        return "--max-" + self.field.replace("_", "-")

    @property
    def dest(self) -> str:
        return f"limit_{self.field}"


_OPTIONS: Final = (
    _Option("services", RANGES["services"], "N", "services per tunnel"),
    _Option("open_tunnels", RANGES["open_tunnels"], "N", "tunnels open at the same time"),
    _Option(
        "bandwidth",
        RANGES["bandwidth"],
        "BYTES",
        "bytes per second of one tunnel, both directions together; the suffixes k, M and G work",
    ),
    _Option(
        "connection_rate",
        RANGES["connection_rate"],
        "N",
        "new connections per second from one address",
    ),
    _Option(
        "connections",
        RANGES["connections"],
        "N",
        "connections open at each port, besides the links of local proxies; never more than an "
        "eighth of the file descriptors that the process may have",
    ),
    _Option(
        "address_connections",
        RANGES["address_connections"],
        "N",
        "as many of them from one address",
    ),
    _Option(
        "handshake_seconds",
        RANGES["handshake_seconds"],
        "SECONDS",
        "time allowed for TLS, and again for the upgrade request",
    ),
    _Option("handshake_bytes", RANGES["handshake_bytes"], "BYTES", "size of an upgrade request"),
    _Option(
        "idle_seconds",
        RANGES["idle_seconds"],
        "SECONDS",
        "drop a link when its client has sent nothing, not even a ping, for this long",
    ),
    _Option("request_bytes", RANGES["request_bytes"], "BYTES", "size of an API request"),
    _Option(
        "request_rate", RANGES["request_rate"], "N", "API requests per second of one access key"
    ),
    _Option(
        "waiting_things",
        RANGES["waiting_things"],
        "N",
        "connections on which things wait for notifications; half as many of one access key",
    ),
    _Option(
        "key_open_tunnels",
        RANGES["key_open_tunnels"],
        "N",
        "tunnels of one access key open at the same time; ten times as many for a key that "
        "nothing else limits",
    ),
    _Option(
        "key_opened_per_hour",
        RANGES["key_opened_per_hour"],
        "N",
        "tunnels that one access key opens in an hour; ten times as many likewise",
    ),
    _Option(
        "key_stored_bytes",
        RANGES["key_stored_bytes"],
        "BYTES",
        "bytes of tunnels and tags of one access key, closed tunnels included; ten times as many "
        "likewise",
    ),
)

_QUOTAS: Final = (
    _Option("open_tunnels", RANGES["key_open_tunnels"], "N", "tunnels open at the same time"),
    _Option("opened_per_hour", RANGES["key_opened_per_hour"], "N", "tunnels opened in an hour"),
    _Option(
        "stored_bytes",
        RANGES["key_stored_bytes"],
        "BYTES",
        "bytes of tunnels and tags, closed tunnels included; the suffixes k, M and G work",
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
    fault = option.range.fault(value)
    if fault:
        raise ConfigurationError(f"{option.flag} {text!r} {fault}")
    return int(value) if option.range.is_whole else value
