"""No tunnel at all: the ceiling."""

from __future__ import annotations

from collections.abc import Mapping

from ..processes import Supervisor
from ..site import Address, Site
from .base import Contender, Running

__all__ = ["Direct"]


class Direct(Contender):
    """Clients connect to the applications themselves."""

    name = "direct"
    description = "no tunnel: plain TCP, the ceiling"

    def missing(self) -> str | None:
        return None

    def start(
        self, supervisor: Supervisor, site: Site, applications: Mapping[str, Address]
    ) -> Running:
        endpoints = {
            name: site.gate(Address(site.hub_host, address.port))
            for name, address in applications.items()
        }
        return Running(endpoints, {})
