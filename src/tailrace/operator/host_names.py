"""Names of hosts that stand for things: what a person and ssh's configuration write.

``pump-7.tunnel`` is the service SSH of the thing pump-7, ``pump-7.ADMIN.tunnel`` another one. AWS
allows no dot in names of things and ids of services.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["HOST_SUFFIX", "USUAL_SERVICE", "Host", "host_name", "parse_host"]

HOST_SUFFIX: Final = ".tunnel"
USUAL_SERVICE: Final = "SSH"


@dataclass(frozen=True, slots=True)
class Host:
    """Whom a person wants to reach; what was not written is ``None``."""

    thing: str
    service: str | None = None
    user: str | None = None


def parse_host(text: str) -> Host:
    """Return what ``[USER@]THING[[.SERVICE].tunnel]`` stands for."""
    user, _, name = text.rpartition("@")
    service = None
    if name.endswith(HOST_SUFFIX):
        name, _, service = name.removesuffix(HOST_SUFFIX).partition(".")
    return Host(name, service or None, user or None)


def host_name(thing: str, service: str) -> str:
    """Return the name of a host that is a service of a thing: its keys are known by that."""
    return f"{thing}{'' if service == USUAL_SERVICE else f'.{service}'}{HOST_SUFFIX}"
