"""Which application serves which service of a destination's tunnels, changed while they run."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from types import MappingProxyType
from typing import Final

from ..common.addresses import DEFAULT_APPLICATION_HOST, TCPAddress
from ..errors import ConfigurationError
from ..localproxy.capped_end import MIN_BANDWIDTH, Bandwidth
from ..localproxy.routes import LocalService, Network, Refusal, Route, is_within
from ..localproxy.validation import validate_service_id
from .application import Application, local_service

__all__ = ["MIN_BANDWIDTH", "ServiceMap", "ServiceRule", "check_mapping"]

_ANY: Final = "*"


@dataclass(frozen=True, slots=True)
class ServiceRule:
    """Where the connections of a service go, and within which bounds.

    The bounds are those of the rule: they hold for all its connections together, over all
    tunnels that use the map, and where it is for several services over all of these.

    Args:
        target: ``"HOST:PORT"``, a port of this machine, ``"unix:PATH"``, or
            ``async def handler(reader, writer)``.
        allow: networks and addresses, as ``("10.0.0.0/8", "fd00::1")``, that ``target`` may
            resolve to. They are compared with the address that is connected to, so DNS cannot
            lead elsewhere. ``None``: all.
        max_connections: how many there may be at a time, >= 1; one more is refused. ``None``: no
            bound but that of 12,000 for a service of a tunnel.
        bandwidth: bytes a second in each direction, >= 1000, which the connections share evenly;
            what is more waits, and nothing is lost. ``None``: no cap.

    Raises:
        ConfigurationError: an argument is not valid.

    Example::

        rule = tailrace.ServiceRule("camera.local:80", allow=["10.0.0.0/8"], bandwidth=500_000)
    """

    target: Application
    _: KW_ONLY
    allow: Sequence[str] | None = None
    max_connections: int | None = None
    bandwidth: int | None = None

    def __post_init__(self) -> None:
        service = local_service(self.target)
        if self.allow is not None:
            _check_target(service, _networks(self.allow))
            # Nobody else's list, which could change.
            object.__setattr__(self, "allow", tuple(self.allow))
        if self.max_connections is not None and self.max_connections < 1:
            raise ConfigurationError(f"max_connections={self.max_connections} is less than 1")
        if self.bandwidth is not None and self.bandwidth < MIN_BANDWIDTH:
            raise ConfigurationError(
                f"bandwidth={self.bandwidth} is less than {MIN_BANDWIDTH} bytes a second"
            )


def check_mapping(services: object) -> None:
    """Refuse services that come without what serves them.

    Raises:
        ConfigurationError: they are not a mapping.
    """
    if not isinstance(services, Mapping):
        raise ConfigurationError(
            "services are a dictionary of service ids and what serves them, as {'SSH': 22}"
        )


def _networks(texts: Sequence[str]) -> tuple[Network, ...]:
    if isinstance(texts, str) or not texts:
        raise ConfigurationError("allow= is a list of networks or addresses, at least one")
    return tuple(map(_network, texts))


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigurationError(
            f"allow={text!r} is not a network or an address, as 10.0.0.0/8 ({error})"
        ) from None


def _check_target(service: LocalService, networks: Sequence[Network]) -> None:
    """Refuse networks that say nothing about a target, or exclude it."""
    if not isinstance(service, TCPAddress):
        raise ConfigurationError("allow= is for targets with a host")
    host = service.host or DEFAULT_APPLICATION_HOST
    try:
        is_allowed = is_within(host, networks)
    except ValueError:
        return  # a name, which is judged when it is resolved
    if not is_allowed:
        raise ConfigurationError(f"allow= does not have the target {service}")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A rule as the engine uses it."""

    key: str
    rule: ServiceRule
    service: LocalService
    networks: tuple[Network, ...] | None
    bandwidth: Bandwidth | None


class ServiceMap:
    """Maps services to applications for any number of destinations, and may change meanwhile.

    :meth:`Tunnel.destination` takes it in place of a dictionary. It is asked for each new
    connection. What is open stays as it is when the map changes: a tunnel, a connection, and the
    bandwidth that it was opened with. A service of a tunnel that is not in the map is refused, and
    the others are served; its clients' connections are reset, with the reason where both ends
    and the service are of this project. If none of the services of a new tunnel is in the map,
    entering the tunnel raises :class:`ServiceIdMismatch`.

    Args:
        rules: service id -> rule, or its target alone. An id that ends in ``*`` is for all ids
            with that beginning, ``"*"`` for all, and for tunnels without service ids. The longest
            one wins, and an id as it is before all of them.

    Everything belongs to one event loop, as a :class:`Tunnel` does.

    Raises:
        ConfigurationError: a service id or a target is not valid.

    Example::

        services = tailrace.ServiceMap({"SSH": 22, "PLC-*": "10.0.0.5:502"})
        async with tailrace.Tunnel.destination(token, services) as tunnel:
            services.replace({"SSH": 2222})
            await tunnel.wait_closed()
    """

    def __init__(self, rules: Mapping[str, Application | ServiceRule]) -> None:
        self._entries: dict[str, _Entry] = {}
        self._prefixes: tuple[str, ...] = ()
        """What stands before the ``*`` of the keys that have one, longest first."""
        self._connections: Counter[str] = Counter()
        """Open connections, by the key of the rule they were opened by."""
        self.replace(rules)

    @property
    def rules(self) -> Mapping[str, ServiceRule]:
        """The rules as they are now; what is returned does not change.

        Example: ``services.replace({**services.rules, "WEB": 80})``
        """
        return MappingProxyType({key: entry.rule for key, entry in self._entries.items()})

    def replace(self, rules: Mapping[str, Application | ServiceRule]) -> None:
        """Use other rules for connections from now on; nothing changes if they are not valid.

        A rule whose bandwidth stays the same goes on sharing it with the connections that are open.

        Raises:
            ConfigurationError: a service id or a target is not valid.

        Example: ``services.replace({"SSH": 2222})``
        """
        check_mapping(rules)
        entries = {key: self._entry(key, each) for key, each in rules.items()}
        prefixes = [key.removesuffix(_ANY) for key in entries if key.endswith(_ANY)]
        self._prefixes = tuple(sorted(prefixes, key=len, reverse=True))
        self._entries = entries

    def find(self, service_id: str) -> ServiceRule | None:
        """Return the rule for a service, ``None`` without one.

        Example: ``rule = services.find("SSH")``
        """
        entry = self._find(service_id)
        return None if entry is None else entry.rule

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {', '.join(self._entries) or 'nothing'}>"

    # -- what tunnels ask for -----------------------------------------------------------------

    def local_service(self, service_id: str) -> LocalService | None:
        """Return where connections of a service go at present, ``None`` if it is not served."""
        entry = self._find(service_id)
        return None if entry is None else entry.service

    def route(self, service_id: str) -> Route | Refusal | None:
        """Return the route of a new connection, which is counted until it has ended."""
        entry = self._find(service_id)
        if entry is None:
            return None
        most = entry.rule.max_connections
        if most is not None and self._connections[entry.key] >= most:
            reason = f"the limit of {most} connections for {entry.key} is reached"
            return Refusal(reason, f"{reason} at the destination")
        self._connections[entry.key] += 1
        return Route(
            entry.service, entry.networks, entry.bandwidth, partial(self._ended, entry.key)
        )

    def _ended(self, key: str) -> None:
        self._connections[key] -= 1
        if not self._connections[key]:
            del self._connections[key]

    def _find(self, service_id: str) -> _Entry | None:
        entry = self._entries.get(service_id)
        if entry is None:
            for prefix in self._prefixes:
                if service_id.startswith(prefix):
                    return self._entries[prefix + _ANY]
        return entry

    def _entry(self, key: str, given: Application | ServiceRule) -> _Entry:
        if key != _ANY:
            validate_service_id(key.removesuffix(_ANY))
        rule = given if isinstance(given, ServiceRule) else ServiceRule(given)
        return _Entry(
            key,
            rule,
            local_service(rule.target),
            None if rule.allow is None else _networks(rule.allow),
            self._bandwidth(key, rule.bandwidth),
        )

    def _bandwidth(self, key: str, rate: int | None) -> Bandwidth | None:
        """Return the bandwidth of a rule, the one of the rule before it if that has the same."""
        if rate is None:
            return None
        before = self._entries.get(key)
        if before is not None and before.bandwidth is not None and before.bandwidth.rate == rate:
            return before.bandwidth
        return Bandwidth(rate)
