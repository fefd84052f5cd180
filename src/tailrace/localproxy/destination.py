"""What a destination serves, over all its links: a fixed map of services, or routes that change.

With a fixed map, each service of the tunnel needs an application, or the proxy ends. Routes are
asked for each connection: a service that has none is refused and the others are served, and the
tunnel is of no use only if none of its services has a route when they first become known. Later,
routes may come and go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .log import TunnelLog
from .routes import LocalService, Refusal, Route
from .service_map import destination_services, missing_services
from .settings import ProxySettings

__all__ = ["Destination"]


class Destination:
    """Finds the routes of connections."""

    def __init__(self, settings: ProxySettings, log: TunnelLog) -> None:
        self._settings = settings
        self._routes = settings.routes
        self._log = log
        self._settled = False
        self._refused: set[str] = set()
        """Services without a route, of which the log has told."""

    def settle(
        self, service_ids: tuple[str, ...]
    ) -> tuple[Mapping[str, LocalService], Callable[[str], Route | Refusal]]:
        """Return the applications of a link's services, and what finds routes of connections.

        Raises:
            ServiceIdMismatch: nothing was given for a service, or no service has a route.
        """
        if self._routes is None:
            fixed = destination_services(self._settings, service_ids)
            return fixed, {name: Route(service) for name, service in fixed.items()}.__getitem__
        found = {name: self._routes.local_service(name) for name in service_ids}
        served = {name: service for name, service in found.items() if service is not None}
        if not served and not self._settled:
            raise missing_services(service_ids, service_ids)
        self._settled = True
        for service_id in found.keys() - served.keys():
            self._tell(service_id)
        return served, self._find

    def _find(self, service_id: str) -> Route | Refusal:
        assert self._routes is not None
        route = self._routes.route(service_id)
        if route is not None:
            return route
        self._tell(service_id)
        return Refusal("not mapped", f"the destination has no service {service_id!r}")

    def _tell(self, service_id: str) -> None:
        if service_id not in self._refused:
            self._refused.add(service_id)
            self._log.warning(
                "Service '%s' of the tunnel is not mapped: its connections are refused", service_id
            )
