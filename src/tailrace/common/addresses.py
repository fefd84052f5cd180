"""Network addresses: their types, parsed and printed. Pure.

What is parsed prints to a text that parses to the same again. Texts are what people write in
options and files: an IPv6 address that a port follows stands in brackets (RFC 3986 section 3.2.2).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from ..errors import ConfigurationError
from .escaping import cut, escape

__all__ = [
    "DEFAULT_APPLICATION_HOST",
    "DEFAULT_LISTEN_HOST",
    "MAX_UNIX_PATH",
    "AddressError",
    "AddressFault",
    "LocalAddress",
    "ServiceAddresses",
    "TCPAddress",
    "UnixAddress",
    "format_host",
    "format_host_port",
    "format_local_address",
    "format_service_map",
    "is_host_name",
    "is_ipv6",
    "is_unix_path",
    "parse_local_address",
    "parse_port",
    "parse_tcp_address",
    "refuse_url",
    "split_host_port",
]

DEFAULT_APPLICATION_HOST: Final = "127.0.0.1"
"""Host of an application that is given by its port alone: not "localhost", which may mean ::1."""
DEFAULT_LISTEN_HOST: Final = "localhost"
"""Host that clients are accepted on when none is given."""
_MAX_PORT: Final = 65_535
MAX_UNIX_PATH: Final = 107
"""Bytes in ``sun_path`` of Linux, less the NUL at the end (unix(7))."""

_UNIX: Final = "unix:"
_ANY_SCHEME: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_SCHEME_PORTS: Final = {"http": 80, "https": 443, "ssh": 22, "ws": 80, "wss": 443}
_PORT_AND_PATH: Final = re.compile(r"([^/]+:\d{1,5})/.*")
_SHOWN_LENGTH: Final = 64
_SPACE: Final = " \t\n\v\f\r"
_MAX_HOST: Final = 253
_LABEL: Final = re.compile(r"[a-zA-Z0-9_-]{1,63}")
_IPV6: Final = re.compile(r"[0-9a-fA-F:.]{2,45}(%[a-zA-Z0-9._-]{1,15})?")


@dataclass(frozen=True, slots=True)
class TCPAddress:
    """A TCP address; ``host`` "" means the default of the mode, ``port`` 0 "pick one".

    ``host`` is a name or a literal without brackets.

    Example: ``address = tailrace.TCPAddress("localhost", 22)``
    """

    host: str
    port: int

    def __str__(self) -> str:
        return format_host_port(self.host, self.port) if self.host else str(self.port)


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """The path of a unix stream socket.

    Example: ``address = tailrace.UnixAddress("/run/app.sock")``

    Raises:
        AddressError: this system has no unix sockets.
    """

    path: str

    def __post_init__(self) -> None:
        if sys.platform == "win32":
            raise AddressError(self.path, AddressFault.SYSTEM)

    def __str__(self) -> str:
        return self.path


LocalAddress: TypeAlias = TCPAddress | UnixAddress

ServiceAddresses: TypeAlias = Mapping[str, LocalAddress]
"""Service id -> local address; the id "" stands for a lone address without a service id."""


class AddressFault(Enum):
    """What is wrong with the text of an address."""

    HOST = "has no valid host name or IP address"
    PORT_MISSING = "has no port"
    PORT = "is not a port number"
    PATH = f"is not the path of a unix socket (1 to {MAX_UNIX_PATH} bytes)"
    SYSTEM = "is the path of a unix socket, which this system does not have"


class AddressError(ConfigurationError):
    """A text is not an address; ``text`` is the part of it that ``fault`` is about."""

    def __init__(self, text: str, fault: AddressFault) -> None:
        super().__init__(f"{text!r} {fault.value}")
        self.text = text
        self.fault = fault


def format_host(host: str) -> str:
    """Return ``host`` as it stands in front of a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def format_host_port(host: str, port: int) -> str:
    """Return ``HOST:PORT``, with brackets around an IPv6 address."""
    return f"{format_host(host)}:{port}"


def is_host_name(text: str) -> bool:
    """Return whether a resolver can be asked for ``text``: labels of 1 to 63 characters.

    IPv4 addresses pass too; a dot at the end is allowed (RFC 1034 section 3.1).
    """
    labels = text.removesuffix(".").split(".")
    return 0 < len(text) <= _MAX_HOST and all(_LABEL.fullmatch(label) for label in labels)


def is_ipv6(text: str) -> bool:
    """Return whether ``text`` is an IPv6 address, perhaps with a scope (``fe80::1%eth0``)."""
    if not _IPV6.fullmatch(text):
        return False
    from ipaddress import AddressValueError, IPv6Address

    try:
        IPv6Address(text)
    except AddressValueError:
        return False
    return True


def split_host_port(text: str) -> tuple[str, str | None]:
    """Split ``HOST``, ``HOST:PORT``, ``[IPV6]`` or ``[IPV6]:PORT``.

    The host is returned without brackets, the port as it stands, ``None`` without a colon.

    Raises:
        AddressError: the host is neither a name nor an address.
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if bracket and is_ipv6(host) and rest[:1] in ("", ":"):
            return host, rest[1:] if rest else None
    else:
        host, colon, port = text.partition(":")
        if ":" not in port and is_host_name(host):
            return host, port if colon else None
    raise AddressError(text, AddressFault.HOST)


def parse_port(text: str, minimum: int = 1) -> int:
    """Return the port, ``minimum`` to 65535, that ``text`` writes in decimal digits.

    Raises:
        AddressError: it writes none.
    """
    digits = text.lstrip("0") or "0"
    is_number = text.isascii() and text.isdigit() and len(digits) <= len(str(_MAX_PORT))
    if not is_number or not minimum <= int(digits) <= _MAX_PORT:
        raise AddressError(text, AddressFault.PORT)
    return int(digits)


def parse_tcp_address(text: str, default_host: str = "", minimum_port: int = 1) -> TCPAddress:
    """Return the address that ``PORT``, ``HOST:PORT`` or ``[IPV6]:PORT`` names.

    ``default_host`` is the host of a lone port.

    Raises:
        AddressError: it names none.
    """
    if text.isascii() and text.isdigit():
        return TCPAddress(default_host, parse_port(text, minimum_port))
    host, port = split_host_port(text)
    if not port:
        raise AddressError(text, AddressFault.PORT_MISSING)
    return TCPAddress(host, parse_port(port, minimum_port))


def parse_local_address(text: str) -> LocalAddress:
    """Return the local address that ``text`` names.

    ``text`` is ``PORT``, ``HOST:PORT``, ``[IPV6]:PORT``, ``unix:PATH`` or anything with a
    slash, which is the path of a unix socket.

    Raises:
        AddressError: it names none.
    """
    if not is_unix_path(text):
        return parse_tcp_address(text)
    path = text.removeprefix(_UNIX).strip(_SPACE)
    try:
        encoded = path.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        encoded = b""
    if not 0 < len(encoded) <= MAX_UNIX_PATH or b"\0" in encoded:
        raise AddressError(path, AddressFault.PATH)
    return UnixAddress(path)


def refuse_url(text: str) -> None:
    """Refuse what would be taken for the path of a unix socket, but is meant for a host and port.

    Raises:
        ConfigurationError: it begins with a scheme, or is ``HOST:PORT/...``.
    """
    scheme = _ANY_SCHEME.match(text)
    if scheme and scheme[0] != "unix://":
        name = scheme[0].removesuffix("://").lower()
        place = re.split("[/?#]", text[scheme.end() :])[0].rpartition("@")[2]
        shown = scheme[0] + place
        if place and ":" not in place.rpartition("]")[2]:
            place += f":{_SCHEME_PORTS.get(name, 'PORT')}"
        raise ConfigurationError(
            f"Address '{_shown(shown)}' is a URL; write {_shown(place or 'HOST:PORT')}"
        )
    behind = _PORT_AND_PATH.fullmatch(text)
    if behind and not is_unix_path(behind[1]):
        raise ConfigurationError(
            f"Address '{_shown(text)}' has a path behind the port; write {_shown(behind[1])}"
        )


def _shown(text: str) -> str:
    return escape(cut(text, _SHOWN_LENGTH))


def is_unix_path(text: str) -> bool:
    """Return whether ``text`` stands for the path of a unix socket, valid or not."""
    return text.startswith(_UNIX) or "/" in text


def format_local_address(address: LocalAddress) -> str:
    """Return the text that :func:`parse_local_address` understands as ``address``."""
    if isinstance(address, TCPAddress):
        return str(address)
    plain = "/" in address.path and ":" not in address.path
    return address.path if plain else _UNIX + address.path


def format_service_map(services: ServiceAddresses) -> str:
    """Return ``ID=ADDRESS[,ID=ADDRESS...]``, or the address alone of the id ""."""
    return ",".join(
        f"{service_id}={format_local_address(address)}"
        if service_id
        else format_local_address(address)
        for service_id, address in services.items()
    )
