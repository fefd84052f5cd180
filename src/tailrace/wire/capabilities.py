"""What programs of this project can do beyond the guides' protocol, agreed in the upgrade.

A proxy offers what it can do in a header field of its upgrade request. The service answers with
the part of it that it passes on, to peers that can do the same. A proxy that makes no offer but
names this project in its ``User-Agent`` is answered with ``X-Tailrace-Flow: 1``, which says that
flow messages are passed on. Nobody else is sent either field (docs/internals/sessions.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final, TypeAlias

__all__ = [
    "CAPABILITIES_FIELD",
    "FLOW",
    "FLOW_FIELD",
    "NO_CAPABILITIES",
    "OFFER",
    "PASSED_ON",
    "RESUME",
    "Capabilities",
    "Capability",
    "format_capabilities",
    "parse_capabilities",
]

CAPABILITIES_FIELD: Final = "X-Tailrace-Capabilities"
"""The header field, of the request and of its answer, that lists capabilities."""
FLOW_FIELD: Final = "X-Tailrace-Flow"
"""The header field that answers a proxy of this project that makes no offer; always ``1``."""


class Capability(StrEnum):
    """Something that not every end or service can do, spelled as in the header field."""

    FLOW = "flow"
    """Understands flow messages, presence, and resets that say why (docs/internals/sessions.md)."""
    PINGS = "pings"
    """May be pinged at any time: C++ proxies answer from within whatever they are writing."""
    RESUME = "resume"
    """Goes on with its connections over lost links (:mod:`tailrace.session.resumption`)."""

    # Looked up for each buffered piece of data, and Enum hashes names in Python.
    __hash__ = str.__hash__


Capabilities: TypeAlias = frozenset[Capability]

NO_CAPABILITIES: Final[Capabilities] = frozenset()
FLOW: Final[Capabilities] = frozenset({Capability.FLOW})
"""That and nothing more."""
RESUME: Final[Capabilities] = frozenset({Capability.RESUME})
"""That and nothing more."""
OFFER: Final[Capabilities] = frozenset({Capability.FLOW, Capability.PINGS})
"""What a proxy of this version offers at least."""
PASSED_ON: Final[Capabilities] = frozenset({Capability.FLOW, Capability.RESUME})
"""What a service of this version passes on between two ends; the rest concerns its own link."""


def format_capabilities(capabilities: Capabilities) -> str:
    """Return the value of the header field."""
    return ", ".join(sorted(capabilities))


def parse_capabilities(values: Iterable[str]) -> Capabilities:
    """Return what the values of the header field list; names that are not known mean nothing."""
    names = {item.strip(" \t") for value in values for item in value.split(",")}
    return frozenset(capability for capability in Capability if capability.value in names)
