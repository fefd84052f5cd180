"""From the arguments of a program and its environment to the settings of the engine."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias

from ..aws import find_joined, find_running
from ..common.secret import Secret, is_client_token
from ..errors import ConfigurationError
from ..link.proxy.settings import web_proxy_for
from ..localproxy.endpoints import (
    ENDPOINT_VARIABLE,
    REGION_VARIABLE,
    endpoint_of,
    parse_endpoint,
)
from ..localproxy.routes import LocalService, SocketFactory
from ..localproxy.settings import PeerVersion, ProxySettings
from ..localproxy.validation import validate_region, validate_service_id
from ..wire import Side
from .application import Application, local_service
from .service_map import ServiceMap, check_mapping

__all__ = [
    "RESUME_TIMEOUT",
    "DialectName",
    "check_seconds",
    "endpoint_in",
    "proxy_settings",
    "secret",
]

RESUME_TIMEOUT: Final = 120.0
"""Seconds for which open connections wait for a lost link unless something else is given."""
_LONGEST_WAIT: Final = 86_400.0

DialectName: TypeAlias = Literal["V1", "V2", "V3"]
"""A version of the tunnel protocol."""

_DIALECTS: Final[Mapping[str | None, PeerVersion]] = {
    None: PeerVersion.AUTO,
    "V1": PeerVersion.V1,
    "V2": PeerVersion.V2,
    "V3": PeerVersion.V3,
}


def proxy_settings(
    side: Side,
    token: str | Secret,
    environ: Mapping[str, str],
    *,
    services: Mapping[str, Application | SocketFactory] | ServiceMap | None = None,
    region: str | None = None,
    endpoint: str | None = None,
    ca: str | os.PathLike[str] | None = None,
    client_token: str | Secret | None = None,
    dialect: DialectName | None = None,
    renewal_timeout: float = 0.0,
    resume_timeout: float = RESUME_TIMEOUT,
    control: str | None = None,
) -> ProxySettings:
    """Return the settings of one end of a tunnel.

    Where neither arguments nor the environment say which service has it, it is the one that this
    machine has joined, or that this user runs here, unless the tunnel was made at another control
    API (``control``).

    Raises:
        ConfigurationError: an argument or a variable of the environment is not valid.
    """
    host, port, authority = _endpoint(region, endpoint, environ, control)
    check_seconds("renewal_timeout", renewal_timeout)
    check_seconds("resume_timeout", resume_timeout)
    if resume_timeout is None or not 0 <= resume_timeout <= _LONGEST_WAIT:
        raise ConfigurationError(
            f"resume_timeout={resume_timeout!r} is not 0 to {_LONGEST_WAIT:.0f} seconds"
        )
    if dialect not in _DIALECTS:
        raise ConfigurationError(f"dialect={dialect!r} is none of 'V1', 'V2' and 'V3'")
    fixed, routes = None, None
    if isinstance(services, ServiceMap):
        routes = services
    elif services is not None:
        fixed = _local_services(services)
    return ProxySettings(
        side=side,
        host=host,
        port=port,
        access_token=secret("token", token),
        client_token=_client_token(client_token),
        services=fixed,
        routes=routes,
        listen=False,
        peer_version=_DIALECTS[dialect],
        renewal_timeout=renewal_timeout,
        resume_timeout=resume_timeout,
        capath=_authority(ca) or authority,
        web_proxy=web_proxy_for(host, port, environ),
    )


def check_seconds(name: str, value: object) -> None:
    """Refuse what is no number of seconds; ``None`` is for ever.

    Raises:
        ConfigurationError: it is none, such as a text of the environment.
    """
    if value is not None and (not isinstance(value, int | float) or math.isnan(value)):
        raise ConfigurationError(f"{name}={value!r} is not a number of seconds")


def endpoint_in(environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the region and the endpoint that the environment names."""
    return environ.get(REGION_VARIABLE) or None, environ.get(ENDPOINT_VARIABLE) or None


def _endpoint(
    region: str | None, endpoint: str | None, environ: Mapping[str, str], control: str | None
) -> tuple[str, int, Path | None]:
    """Return host, port and certificates; arguments go before the environment."""
    names = "region=", "endpoint="
    _check_text("region", region)
    _check_text("endpoint", endpoint)
    if region is None and endpoint is None:
        names = REGION_VARIABLE, ENDPOINT_VARIABLE
        region, endpoint = endpoint_in(environ)
    if region is not None and endpoint is not None:
        raise ConfigurationError(f"{' and '.join(names)} exclude each other; leave out one")
    if region is not None:
        validate_region(region)
        return *parse_endpoint(endpoint_of(region)), None
    if endpoint is None:
        found = find_joined(environ) or find_running(environ)
        if found is not None and control in (None, found.api_endpoint):
            return *parse_endpoint(found.data_endpoint), found.ca_file
        raise ConfigurationError(
            "which service has the tunnel? give region= or endpoint=, or set "
            f"{ENDPOINT_VARIABLE}, which tailrace env prints"
        )
    return *parse_endpoint(endpoint), None


def secret(name: str, text: object) -> Secret:
    """Return a secret argument, which no error shows.

    Raises:
        ConfigurationError: it is neither a string nor a secret, as a variable that is not set.
    """
    if isinstance(text, Secret):
        return text
    if not isinstance(text, str):
        given = "None" if text is None else f"of type {type(text).__name__}"
        raise ConfigurationError(f"{name} is {given}: give a string or a tailrace.Secret")
    return Secret(text)


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str | None):
        raise ConfigurationError(f"{name}={value!r} is not a string")


def _client_token(text: str | Secret | None) -> Secret | None:
    if text is None:
        return None
    token = secret("client_token", text)
    if not is_client_token(token.reveal()):
        raise ConfigurationError("client_token= is not 32 to 128 letters, digits and hyphens")
    return token


def _authority(ca: str | os.PathLike[str] | None) -> Path | None:
    if ca is None:
        return None
    if not isinstance(ca, str | os.PathLike):
        raise ConfigurationError(f"ca={ca!r} is not a path")
    path = Path(ca)
    if not path.exists():
        raise ConfigurationError(f"ca={str(path)!r}: there is no such file or directory")
    return path


def _local_services(services: Mapping[str, Application | SocketFactory]) -> dict[str, LocalService]:
    check_mapping(services)
    if not services:
        raise ConfigurationError("a destination needs at least one service")
    for service_id in services:
        validate_service_id(service_id)
    return {service_id: local_service(each) for service_id, each in services.items()}
