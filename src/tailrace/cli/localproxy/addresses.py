"""The addresses of options and files, with the checks and the texts of the C++ command. Pure.

:mod:`tailrace.common.addresses` knows what an address is; here is what the C++ command allows of
it, and what it says about the rest.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Final

from ...common import addresses
from ...common.addresses import (
    MAX_UNIX_PATH,
    AddressError,
    AddressFault,
    LocalAddress,
    TCPAddress,
    format_local_address,
    is_host_name,
    is_ipv6,
    is_unix_path,
    refuse_url,
)
from ...errors import ConfigurationError
from ...localproxy.endpoints import brackets_hint
from ...localproxy.validation import (
    RejectedInput,
    rejected_port,
    validate_address_characters,
    validate_path,
    validate_service_id,
)
from ...wire import Side
from .values import WHITESPACE, printable

__all__ = ["parse_bind_address", "parse_local_address", "parse_service_map"]

logger = logging.getLogger(__name__)

_LIKE_A_SERVICE: Final = re.compile(r"[A-Z][A-Z0-9_-]*|[0-9]{1,5}")
"""A host that is rather meant for a service id or a port: names are seldom in capitals."""


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
    if not is_host_name(text):
        raise ConfigurationError(
            f"Bind address '{printable(text)}' is neither a host name nor an IP address;"
            " give ports with -s and -d"
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
    refuse_url(text)
    is_port = text.isascii() and text.isdigit()
    may_have_scope = text[0] == "[" and is_ipv6(text[1:].partition("]")[0])
    if not (is_port or may_have_scope or is_unix_path(text)):
        validate_address_characters(text, "bind-address", "Bind address")
    try:
        return addresses.parse_local_address(text)
    except AddressError as error:
        raise _reworded(error, text, side) from None


def _reworded(error: AddressError, text: str, side: Side) -> ConfigurationError:
    """Return what the C++ command says, or would say, about an address."""
    match error.fault:
        case AddressFault.PORT:
            return rejected_port(error.text)
        case AddressFault.PATH:
            validate_path(error.text)
            return ConfigurationError(
                f"The path of a unix socket has at most {MAX_UNIX_PATH} bytes:"
                f" {printable(error.text)}"
            )
        case AddressFault.SYSTEM:
            return error
        case AddressFault.HOST:
            return ConfigurationError(
                f"Invalid address '{printable(text)}'{brackets_hint(text, 22)}"
            )
        case AddressFault.PORT_MISSING:
            option = "-s" if side is Side.SOURCE else "-d"
            return ConfigurationError(
                f"Address '{printable(text)}' has no port; {option} takes PORT, HOST:PORT or the"
                " path of a unix socket"
            )


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
            address = parse_local_address(item.strip(WHITESPACE), side)
            _warn_of_a_service_id(address, side)
            return {"": address}
        if len(parts) != 2:
            raise ConfigurationError(
                "Wrong format for the port mappings! Example: SSH1=5555,SSH2=6666."
            )
        service_id, address_text = (part.strip(WHITESPACE) for part in parts)
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


def _warn_of_a_service_id(address: LocalAddress, side: Side) -> None:
    if isinstance(address, TCPAddress) and _LIKE_A_SERVICE.fullmatch(address.host):
        logger.warning(
            "%s %s means port %d of a host named %s; write %s=%d for a service of that name, or a"
            " port alone",
            "-s" if side is Side.SOURCE else "-d",
            address,
            address.port,
            address.host,
            address.host,
            address.port,
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
