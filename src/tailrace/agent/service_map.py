"""The agent's services as people write them: options, bandwidths, and what a change changes; pure.

A rule is :class:`tailrace.ServiceRule`; which one a service gets is the matter of
:class:`tailrace.ServiceMap`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from ..common.addresses import TCPAddress, UnixAddress
from ..common.escaping import cut, escape
from ..errors import ConfigurationError
from ..library.application import local_service
from ..library.service_map import ServiceMap, ServiceRule

__all__ = [
    "MAX_SERVICES",
    "check_services",
    "describe_changes",
    "parse_bandwidth",
    "parse_services",
    "rule_of",
]

MAX_SERVICES: Final = 1000
_SHOWN: Final = 64
_BANDWIDTH: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?(k|M|G|Ki|Mi|Gi)?(B|bit)/s")
_UNITS: Final = {
    None: 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
}


def parse_services(options: Iterable[str]) -> dict[str, ServiceRule]:
    """Return the rules of options: ``SSH=22``, ``WEB=10.0.0.5:80``, ``DB=/run/db.sock``, ``*=80``.

    Raises:
        ConfigurationError: one of them is not valid, or two are for one service.
    """
    rules: dict[str, ServiceRule] = {}
    for text in options:
        service_id, equals, target = text.partition("=")
        if not equals or not service_id:
            raise ConfigurationError(
                f"service {_shown(text)}: write ID=TARGET, as SSH=22, WEB=10.0.0.5:80, "
                "DB=/run/db.sock or *=22"
            )
        if service_id in rules:
            raise ConfigurationError(f"service {_shown(service_id)} is given twice")
        try:
            rules[service_id] = rule_of(service_id, target)
        except ConfigurationError as error:
            raise ConfigurationError(f"service {_shown(service_id)}: {error}") from None
    check_services(rules)
    return rules


def rule_of(
    service_id: str,
    target: str,
    *,
    allow: list[str] | None = None,
    max_connections: int | None = None,
    bandwidth: int | None = None,
) -> ServiceRule:
    """Return a rule for a service id or a pattern.

    Raises:
        ConfigurationError: an argument is not valid.
    """
    # As an address, two ways to write one target are the same target.
    address = local_service(target)
    assert isinstance(address, TCPAddress | UnixAddress)
    rule = ServiceRule(address, allow=allow, max_connections=max_connections, bandwidth=bandwidth)
    ServiceMap({service_id: rule})  # refuses an id that is none
    return rule


def check_services(rules: Mapping[str, ServiceRule]) -> None:
    """Bound the number of rules.

    Raises:
        ConfigurationError: there are more than 1000.
    """
    if len(rules) > MAX_SERVICES:
        raise ConfigurationError(f"there are {len(rules)} services, more than {MAX_SERVICES}")


def parse_bandwidth(text: str) -> int:
    """Return the bytes a second that ``800kB/s``, ``1.5 MiB/s`` or ``8Mbit/s`` stands for.

    Raises:
        ConfigurationError: it is not a bandwidth.
    """
    found = _BANDWIDTH.fullmatch(text)
    if found is None:
        raise ConfigurationError(
            f"{_shown(text)} is not a bandwidth: write it as 800kB/s, 1.5MiB/s or 8Mbit/s"
        )
    number, prefix, unit = found.groups()
    return int(float(number) * _UNITS[prefix] / (8 if unit == "bit" else 1))


def describe_changes(before: Mapping[str, ServiceRule], after: Mapping[str, ServiceRule]) -> str:
    """Return what is different, as ``+WEB, -DB, SSH 22 -> 2222``; empty without a difference."""
    changes = [f"+{key}" for key in after if key not in before]
    changes += [f"-{key}" for key in before if key not in after]
    for key, rule in after.items():
        if key in before and before[key] != rule:
            changes.append(f"{key} {_difference(before[key], rule)}")
    return ", ".join(changes)


def _difference(before: ServiceRule, after: ServiceRule) -> str:
    old, new = _facts(before), _facts(after)
    return " ".join(f"{name}{old[name]} -> {new[name]}" for name in new if old[name] != new[name])


def _facts(rule: ServiceRule) -> dict[str, str]:
    """Return the parts of a rule as they are shown, each with what stands before it."""
    target = rule.target
    is_address = isinstance(target, TCPAddress | UnixAddress)
    return {
        "": str(target) if is_address else "in process",
        "allow ": "/".join(rule.allow) if rule.allow is not None else "all",
        "max-connections ": str(rule.max_connections or "unlimited"),
        "bandwidth ": f"{rule.bandwidth} B/s" if rule.bandwidth is not None else "unlimited",
    }


def _shown(text: str) -> str:
    return escape(repr(cut(text, _SHOWN)))
