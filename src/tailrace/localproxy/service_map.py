"""Which local service belongs to which service id of the tunnel. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..common.addresses import LocalAddress, TCPAddress, UnixAddress
from ..errors import ServiceIdMismatch
from .settings import ProxySettings

if TYPE_CHECKING:
    from .routes import LocalService

__all__ = [
    "address_of",
    "destination_services",
    "is_port_picked",
    "missing_services",
    "source_addresses",
]


def address_of(service: LocalService | None) -> LocalAddress | None:
    """Return the address of a local service, ``None`` if it has none."""
    return service if isinstance(service, TCPAddress | UnixAddress) else None


def source_addresses(
    settings: ProxySettings, service_ids: tuple[str, ...]
) -> dict[str, LocalAddress]:
    """Return where to listen for each service: anywhere, where nothing was given."""
    return {
        service_id: address_of(_given(settings, service_id)) or TCPAddress("", 0)
        for service_id in service_ids
    }


def is_port_picked(settings: ProxySettings, service_id: str) -> bool:
    """Return whether the system picks the port that a source listens on for a service."""
    given = address_of(_given(settings, service_id))
    return not isinstance(given, TCPAddress) or given.port == 0


def destination_services(
    settings: ProxySettings, service_ids: tuple[str, ...]
) -> dict[str, LocalService]:
    """Return the application of each service.

    Raises:
        ServiceIdMismatch: nothing was given for some of them.
    """
    found = {service_id: _given(settings, service_id) for service_id in service_ids}
    missing = [service_id for service_id, service in found.items() if service is None]
    if missing:
        raise missing_services(service_ids, missing)
    return {service_id: service for service_id, service in found.items() if service is not None}


def missing_services(service_ids: tuple[str, ...], missing: Iterable[str]) -> ServiceIdMismatch:
    """Return the error of a tunnel for whose services there is no application."""
    return ServiceIdMismatch(
        f"the tunnel has the services [{', '.join(service_ids)}], but there is no "
        f"destination for [{', '.join(missing)}]",
        setting="destinations",
        service_ids=service_ids,
    )


def _given(settings: ProxySettings, service_id: str) -> LocalService | None:
    """Return what was given for a service id; a lone port serves the only id."""
    services = settings.services or {}
    if service_id in services:
        return services[service_id]
    if "" in services:
        return services[""]
    return settings.fallback_services.get(service_id)
