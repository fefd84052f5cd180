"""Parse and print the addresses that stand in options and files. Pure.

What is parsed prints to a text that parses to the same again.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Final

from ...errors import ConfigurationError
from ...localproxy.settings import LocalAddress, ServiceMap, TCPAddress, UnixAddress
from ...wire import Side
from .validation import (
    RejectedInput,
    is_host_name,
    is_ipv6,
    validate_address_characters,
    validate_path,
    validate_port,
    validate_service_id,
)
from .values import printable

__all__ = [
    "DEFAULT_PORT",
    "format_endpoint",
    "format_local_address",
    "format_service_map",
    "parse_bind_address",
    "parse_endpoint",
    "parse_local_address",
    "parse_service_map",
]

logger = logging.getLogger(__name__)

DEFAULT_PORT: Final = 443
"""Port of the service's data endpoint."""

_SCHEME: Final = "wss://"
_PATHS: Final = ("", "/", "/tunnel")
_UNIX: Final = "unix:"
_MAX_UNIX_PATH: Final = 107
"""Bytes in ``sun_path`` of Linux, less the NUL at the end (unix(7))."""
_SPACE: Final = " \t\n\v\f\r"


def parse_endpoint(text: str) -> tuple[str, int]:
    """Return host and port of the service that ``text`` names.

    ``text`` is ``HOST``, ``HOST:PORT``, ``[IPV6]``, ``[IPV6]:PORT`` or a ``wss://`` URL of
    one of these. The host is in lower case and without brackets; the port is 443 when
    none is given.

    Raises:
        ConfigurationError: it names no endpoint.
    """
    place = text
    if text[: len(_SCHEME)].lower() == _SCHEME:
        place, slash, path = text[len(_SCHEME) :].partition("/")
        if slash + path not in _PATHS:
            raise ConfigurationError(f"Invalid endpoint specified: {printable(text)}")
    validate_address_characters(place, "proxy-endpoint", "Proxy endpoint")
    host, port_text = _split_host(place)
    if host is None or port_text == "":
        hint = "; put IPv6 addresses in brackets, [::1]:443" if place.count(":") > 1 else ""
        raise ConfigurationError(f"Invalid endpoint specified: {printable(text)}{hint}")
    if port_text is None:
        return host.lower(), DEFAULT_PORT
    try:
        return host.lower(), validate_port(port_text)
    except RejectedInput as error:
        raise ConfigurationError(
            f"Invalid endpoint specified: {printable(text)} ({error})"
        ) from None


def format_endpoint(host: str, port: int) -> str:
    """Return ``HOST:PORT``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_bind_address(text: str) -> str:
    """Return the address of ``-b``: a host name or an IP address, without brackets.

    "" stands for the default of the mode.

    Raises:
        ConfigurationError: it is neither.
    """
    if not text or is_ipv6(text):
        return text
    inner = text[1:-1] if text[0] == "[" and text[-1] == "]" else ""
    if inner and is_ipv6(inner):
        return inner
    validate_address_characters(text, "bind-address", "Bind address")
    if ":" in text or not is_host_name(text):
        raise ConfigurationError(
            f"Bind address '{printable(text)}' is neither a host name nor an IP address;"
            " ports stand in -s and -d"
        )
    return text


def parse_local_address(text: str, side: Side) -> LocalAddress:
    """Return the local address that ``text`` names.

    ``text`` is ``PORT``, ``HOST:PORT``, ``[IPV6]:PORT``, ``unix:PATH`` or anything with a
    slash, which is the path of a unix socket.

    Raises:
        ConfigurationError: it names none.
    """
    if not text:
        raise RejectedInput("endpoint", "empty endpoint", "Endpoint cannot be empty")
    if text.startswith(_UNIX):
        return _parse_unix(text[len(_UNIX) :])
    if text.isascii() and text.isdigit():
        return TCPAddress("", validate_port(text))
    scoped = text.startswith("[") and is_ipv6(text[1:].partition("]")[0])
    if "/" in text:
        return _parse_unix(text)
    if not scoped:
        validate_address_characters(text, "bind-address", "Bind address")
    host, port_text = _split_host(text)
    if host is None:
        hint = "; put IPv6 addresses in brackets, [::1]:22" if text.count(":") > 1 else ""
        raise ConfigurationError(f"Invalid address '{printable(text)}'{hint}")
    if not port_text:
        option = "-s" if side is Side.SOURCE else "-d"
        raise ConfigurationError(
            f"Address '{printable(text)}' has no port; {option} takes PORT, HOST:PORT or the path"
            " of a unix socket"
        )
    return TCPAddress(host, validate_port(port_text))


def format_local_address(address: LocalAddress) -> str:
    """Return the text that :func:`parse_local_address` understands as ``address``."""
    if isinstance(address, TCPAddress):
        return str(address)
    plain = "/" in address.path and not address.path.startswith(_UNIX)
    return address.path if plain else _UNIX + address.path


def parse_service_map(text: str, side: Side) -> dict[str, LocalAddress]:
    """Return the map of ``-s`` or ``-d``: service id -> local address, in the order given.

    ``text`` is one address, which stands under the id "", or ``ID=ADDRESS[,ID=ADDRESS...]``.
    Empty items are skipped; of an id given twice the first counts, with a warning.

    Raises:
        ConfigurationError: an item has another form, an id or an address is not valid,
            or two services are to listen on one address.
    """
    items = [item for item in text.split(",") if item]
    services: dict[str, LocalAddress] = {}
    for item in items:
        parts = re.split("=+", item)
        if len(parts) == 1 and len(items) == 1:
            return {"": parse_local_address(item.strip(_SPACE), side)}
        if len(parts) != 2:
            raise ConfigurationError(
                "Wrong format for the port mappings! Example: SSH1=5555,SSH2=6666."
            )
        service_id, address_text = (part.strip(_SPACE) for part in parts)
        if not service_id or not address_text:
            raise ConfigurationError(
                f"Wrong format for the port mappings: {printable(item)} .Example: SSH1=5555"
            )
        validate_service_id(service_id)
        address = parse_local_address(address_text, side)
        if service_id in services:
            logger.warning(
                "Duplicate mappings, ignore. This mapping already exists: %s : %s",
                service_id,
                format_local_address(services[service_id]),
            )
            continue
        services[service_id] = address
    if side is Side.SOURCE:
        _refuse_shared_addresses(services)
    return services


def format_service_map(services: ServiceMap) -> str:
    """Return the text that :func:`parse_service_map` understands as ``services``."""
    return ",".join(
        f"{service_id}={format_local_address(address)}"
        if service_id
        else format_local_address(address)
        for service_id, address in services.items()
    )


def _refuse_shared_addresses(services: Mapping[str, LocalAddress]) -> None:
    owners: dict[LocalAddress, str] = {}
    for service_id, address in services.items():
        owner = owners.setdefault(address, service_id)
        if owner != service_id:
            raise ConfigurationError(
                f"Services {owner} and {service_id} cannot both listen on"
                f" {printable(format_local_address(address))}"
            )


def _parse_unix(text: str) -> UnixAddress:
    path = text.strip(_SPACE)
    validate_path(path)
    if len(path.encode(errors="surrogateescape")) > _MAX_UNIX_PATH:
        raise ConfigurationError(
            f"The path of a unix socket has at most {_MAX_UNIX_PATH} bytes: {printable(path)}"
        )
    return UnixAddress(path)


def _split_host(text: str) -> tuple[str | None, str | None]:
    """Split ``HOST``, ``HOST:PORT``, ``[IPV6]`` or ``[IPV6]:PORT``.

    The host is ``None`` when it is not one; the port is ``None`` when there is no colon
    for it.
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or not is_ipv6(host) or (rest and rest[0] != ":"):
            return None, None
        return host, rest[1:] if rest else None
    host, colon, port = text.partition(":")
    if ":" in port or not is_host_name(host):
        return None, None
    return host, port if colon else None
