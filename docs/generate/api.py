"""The list of the library's names, whose docstrings Sphinx fills in."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Final

import tailrace
from tailrace import sync

from .markdown import first_paragraph, notice, table

__all__ = ["GROUPS", "page"]

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "Tunnels": (
        "connect",
        "Tunnel",
        "SourceTunnel",
        "DestinationTunnel",
        "TunnelListener",
        "ServiceMap",
        "ServiceRule",
        "StreamHandler",
        "Application",
        "Side",
    ),
    "What a tunnel is doing": (
        "TunnelStatus",
        "LinkStatus",
        "LinkPhase",
        "ConnectionStatus",
        "ConnectionState",
        "PeerPresence",
        "LocalAddress",
        "TCPAddress",
        "UnixAddress",
    ),
    "The control API": (
        "Client",
        "Credentials",
        "Secret",
        "OpenedTunnel",
        "RotatedTokens",
        "TunnelDescription",
        "TunnelSummary",
        "TunnelState",
        "SideState",
    ),
    "The device agent": (
        "Agent",
        "AgentStatus",
        "ServedStatus",
        "Notification",
        "notifications",
        "NotificationSource",
        "Delivery",
        "FileSource",
        "StdinSource",
    ),
    "The service": ("Service", "Endpoints", "Limits"),
}
"""All names but those of events, errors and the version, which have pages of their own."""

_INTRODUCTION: Final = """\
# Names of the library

All that `import tailrace` offers but for [events](events.md) and [errors](errors.md).
`tailrace.sync` has the same [without asyncio](sync.md). [The library](library.md) tells how they
are used; `help()` of Python shows what stands here.
"""


_MADE_BY_OTHERS: Final = ("Tunnel", "SourceTunnel", "DestinationTunnel", "TunnelListener")
"""Classes whose arguments concern nobody."""


def _directive(name: str) -> list[str]:
    value = getattr(tailrace, name)
    if inspect.isclass(value):
        arguments = "()" if name in _MADE_BY_OTHERS else ""
        return [f".. autoclass:: tailrace.{name}{arguments}", "   :members:"]
    if inspect.isroutine(value):
        return [f".. autofunction:: tailrace.{name}"]
    return [f".. autodata:: tailrace.{name}", "   :no-value:"]


def page() -> str:
    """Return the page."""
    parts = [notice("the names in src/tailrace/__init__.py"), _INTRODUCTION]
    for heading, names in GROUPS.items():
        parts += [f"## {heading}\n"]
        rows = [
            [f"`{name}`", _first_line(name), "yes" if name in sync.__all__ else ""]
            for name in names
        ]
        parts += [table(["Name", "Is", "In `tailrace.sync`"], rows)]
        directives = [line for name in names for line in (*_directive(name), "")]
        parts += ["```{eval-rst}", *directives[:-1], "```", ""]
    return "\n".join(parts)


def _first_line(name: str) -> str:
    value = getattr(tailrace, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        return first_paragraph(value)
    return "a type, for annotations"
