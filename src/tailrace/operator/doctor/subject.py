"""What is examined: a data endpoint, the control API that belongs to it, and perhaps a tunnel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from ...aws import Client, aws_endpoint
from ...checks.findings import Finding, failed, ok, warning
from ...checks.server import Server, server_at
from ...common.secret import Secret
from ...errors import ConfigurationError
from ...library import Side
from ...library.connector import region_of
from ...library.settings import proxy_settings

__all__ = ["DoctorSettings", "Subject", "find_subject"]

_NONE: Final = Secret("none")
_HTTPS: Final = 443
_REGION: Final = re.compile(
    r"(?:data|api)\.(?:tunneling\.iot|iot-tunneling)(?:-fips)?\.([a-z0-9-]+)\."
    r"(?:amazonaws\.com(?:\.cn)?|api\.aws|api\.amazonwebservices\.com\.cn)"
)
"""Of the hosts of AWS, which have the region in their names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorSettings:
    """What a user asks about; ``None`` is what the environment says."""

    thing: str | None = None
    tunnel_id: str | None = None
    services: tuple[str, ...] = ()
    """Service ids that the tunnel is to have."""
    region: str | None = None
    endpoint: str | None = None
    """Data endpoint, ``HOST`` or ``HOST:PORT``."""
    control: str | None = None
    """Control API, an ``https`` URL."""
    profile: str | None = None
    ca: Path | None = None
    token_file: Path | None = None
    side: Side = Side.SOURCE
    """That of the token."""
    state_dir: Path | None = None
    """Where ``localproxy`` keeps its client tokens."""
    measure: bool = False
    timeout: float = 10.0
    """Seconds for each step of a connection."""

    @property
    def needs_control(self) -> bool:
        """Whether the control API has to be asked."""
        return bool(self.thing or self.tunnel_id or self.measure)


@dataclass(frozen=True, slots=True)
class Subject:
    """What was found to be meant."""

    data: Server | None
    """The data endpoint, ``None`` if it is not known which."""
    control: Server | None
    """The way to the control API."""
    client: Client | None
    """Calls it."""
    finding: Finding
    """What is said about the choice."""
    no_control: str = ""
    """Why there is no client."""


def find_subject(settings: DoctorSettings, environment: Mapping[str, str]) -> Subject:
    """Return what is meant by settings and environment; never raises for what is wrong there."""
    region = settings.region or _region_in(settings.endpoint or "")
    client, no_control = _find_client(settings, region)
    data, control = None, None
    try:
        control = None if client is None else _control_server(settings, client, environment)
        data = _find_data(settings, client, environment)
        finding = _judge(data, control)
    except ConfigurationError as error:
        text = _in_options(str(error))
        finding = failed(text, _WHICH, cause=error)
    return Subject(data, control, client, finding, no_control)


_WHICH: Final = "name the service: -r REGION or -e HOST:PORT, or eval the output of tailrace env"


def _find_client(settings: DoctorSettings, region: str | None) -> tuple[Client | None, str]:
    """Return the client of the control API, or ``None`` and why there is none."""
    try:
        client = Client(
            profile=settings.profile,
            region=region,
            endpoint=settings.control,
            ca=settings.ca,
            timeout=settings.timeout,
            attempts=1,
        )
    except ConfigurationError as error:
        return None, str(error)
    if settings.endpoint and region is None and client.endpoint == aws_endpoint(client.region):
        # Credentials of AWS are of no use to a service of one's own, nor any of its business.
        return None, f"no control API is known that belongs to {settings.endpoint}"
    return client, ""


def _find_data(
    settings: DoctorSettings, client: Client | None, environment: Mapping[str, str]
) -> Server:
    """Return the data endpoint, as the library finds it."""
    region = settings.region
    if region is None and settings.endpoint is None and client is not None:
        region = region_of(client)
    found = proxy_settings(
        Side.SOURCE,
        _NONE,
        environment,
        region=region,
        endpoint=settings.endpoint,
        ca=settings.ca,
        control=None if client is None else client.endpoint,
    )
    return server_at(
        "service",
        found.host,
        found.port,
        environment,
        ca=found.capath,
        timeout=settings.timeout,
        address_option="-r or -e",
        trust_option="--ca-bundle FILE",
    )


def _control_server(
    settings: DoctorSettings, client: Client, environment: Mapping[str, str]
) -> Server:
    parts = urlsplit(client.endpoint)
    return server_at(
        "control API",
        parts.hostname or "",
        parts.port or _HTTPS,
        environment,
        ca=client.ca,
        timeout=settings.timeout,
        address_option="--endpoint-url",
        trust_option="--ca-bundle FILE, or AWS_CA_BUNDLE",
    )


def _judge(data: Server, control: Server | None) -> Finding:
    """Say which service it is, and whether both halves belong together."""
    host = data.endpoint.authority
    if control is None:
        return ok(f"data endpoint {host}")
    text = f"data endpoint {host}, control API {control.endpoint.authority}"
    regions = [_region_in(each.endpoint.host) for each in (data, control)]
    if regions[0] == regions[1]:
        return ok(text)
    fix = "a tunnel is good only where it was opened: correct -r, -e, --endpoint-url or AWS_REGION"
    if None in regions:
        return warning(f"{text}: one is of AWS, the other is not", fix)
    text = f"{text}: of two regions, {regions[0]} and {regions[1]}"
    return failed(text, fix, cause=ConfigurationError(text))


def _in_options(text: str) -> str:
    """Word for a command line what the library words for programs."""
    for argument, option in (("region=", "-r"), ("endpoint=", "-e"), ("ca=", "--ca-bundle ")):
        text = text.replace(argument, option)
    return text


def _region_in(host: str) -> str | None:
    match = _REGION.match(host.lower())
    return None if match is None else match[1]
