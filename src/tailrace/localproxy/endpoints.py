"""Where the service is: the text of an endpoint, and the endpoints of AWS' regions. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from ..common.addresses import AddressError, AddressFault, parse_port, split_host_port
from ..common.escaping import cut, escape
from ..errors import ConfigurationError
from .validation import rejected_port, validate_address_characters

__all__ = [
    "ENDPOINT_FORMAT",
    "ENDPOINT_VARIABLE",
    "REGION_ENDPOINTS",
    "REGION_VARIABLE",
    "brackets_hint",
    "endpoint_of",
    "parse_endpoint",
]

ENDPOINT_FORMAT: Final = "data.tunneling.iot.%s.amazonaws.com"
"""Endpoint of a region, which takes the place of ``%s``."""
REGION_ENDPOINTS: Final[Mapping[str, str]] = {
    region: f"data.tunneling.iot.{region}.amazonaws.com.cn"
    for region in ("cn-north-1", "cn-northwest-1")
}
"""Region -> endpoint, for regions that do not have one of that form."""
ENDPOINT_VARIABLE: Final = "AWSIOT_TUNNEL_ENDPOINT"
REGION_VARIABLE: Final = "AWSIOT_TUNNEL_REGION"

_DEFAULT_PORT: Final = 443
"""Port of the service's data endpoint."""
_SCHEME: Final = "wss://"
_ANY_SCHEME: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_PATHS: Final = ("", "/", "/tunnel")
_SHOWN_LENGTH: Final = 64


def endpoint_of(
    region: str,
    overrides: Mapping[str, str] = REGION_ENDPOINTS,
    endpoint_format: str = ENDPOINT_FORMAT,
) -> str:
    """Return the endpoint, ``HOST`` or ``HOST:PORT``, of the service in ``region``."""
    return overrides.get(region) or endpoint_format.replace("%s", region)


def parse_endpoint(text: str) -> tuple[str, int]:
    """Return host and port of the service that ``text`` names.

    ``text`` is ``HOST``, ``HOST:PORT``, ``[IPV6]``, ``[IPV6]:PORT`` or a ``wss://`` URL of
    one of these. The host is in lower case and without brackets; the port is 443 when
    none is given.

    Raises:
        ConfigurationError: it names no endpoint.
    """
    place = text
    shown = escape(cut(text, _SHOWN_LENGTH))
    if text[: len(_SCHEME)].lower() == _SCHEME:
        place, slash, path = text[len(_SCHEME) :].partition("/")
        if slash + path not in _PATHS:
            raise ConfigurationError(f"Invalid endpoint specified: {shown}")
    hint = "; give HOST or HOST:PORT" if _ANY_SCHEME.match(place) else ""
    validate_address_characters(place, "proxy-endpoint", "Proxy endpoint", hint)
    try:
        host, port_text = split_host_port(place)
        port = _DEFAULT_PORT if port_text is None else parse_port(port_text)
    except AddressError as error:
        hint = brackets_hint(place, _DEFAULT_PORT)
        if error.fault is AddressFault.PORT and error.text:
            hint = f" ({rejected_port(error.text)})"
        raise ConfigurationError(f"Invalid endpoint specified: {shown}{hint}") from None
    return host.lower(), port


def brackets_hint(text: str, port: int) -> str:
    """Return what to say about an address that looks like an IPv6 one without brackets."""
    return f"; put IPv6 addresses in brackets, [::1]:{port}" if text.count(":") > 1 else ""
