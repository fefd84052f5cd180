"""Which web proxy leads to the service: ``https_proxy`` and ``no_proxy``. Pure."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias
from urllib.parse import quote, unquote_to_bytes

from ...common.addresses import format_host_port
from ...common.secret import Secret
from ...errors import ConfigurationError

__all__ = [
    "NoProxy",
    "WebProxy",
    "parse_no_proxy",
    "parse_web_proxy",
    "web_proxy_for",
    "web_proxy_variable",
]

logger = logging.getLogger(__name__)

_DEFAULT_PORTS: Final = {"http": 3128, "https": 3128, "socks5": 1080, "socks5h": 1080}
_MAX_PORT: Final = 65_535
_MAX_CREDENTIALS: Final = 255
"""Bytes of a user name or a password (RFC 1929 section 2, for SOCKS)."""
_PERCENT: Final = re.compile(r"%(?![0-9a-fA-F]{2})")
_HOST: Final = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")

_Address: TypeAlias = IPv4Address | IPv6Address
_Network: TypeAlias = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class WebProxy:
    """A proxy that opens TCP connections for us.

    ``scheme`` is ``http`` or ``https`` (CONNECT over TCP or TLS), ``socks5`` or
    ``socks5h`` (the proxy resolves names). ``host`` is in lower case, without brackets.
    ``username`` is "" when the proxy asks for no credentials. ``str`` shows no password.
    """

    scheme: str
    host: str
    port: int
    username: str = ""
    password: Secret = field(default_factory=lambda: Secret(""))

    @property
    def place(self) -> str:
        """Scheme, host and port, without user and password."""
        return f"{self.scheme}://{format_host_port(self.host, self.port)}"

    @property
    def url(self) -> str:
        """All of it, with the password: keep it out of logs."""
        credentials = [quote(each, safe="") for each in (self.username, self.password.reveal())]
        return self.place.replace("://", f"://{':'.join(credentials)}@" if self.username else "://")

    def __str__(self) -> str:
        user = f"{quote(self.username, safe='')}:{self.password}@" if self.username else ""
        return self.place.replace("://", f"://{user}")


def parse_web_proxy(text: str) -> WebProxy:
    """Return the proxy that the URL ``text`` names.

    ``[SCHEME://][USER:PASSWORD@]HOST[:PORT][/…]``; the scheme is ``http`` and the port 3128
    (SOCKS: 1080) when they are missing. User and password are percent-encoded; ``+``
    stands for a space in them.

    Raises:
        ConfigurationError: it names none; the message repeats nothing of the text.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    scheme = scheme.lower()
    if not scheme:
        raise ConfigurationError("Invalid URL, missing protocol")
    if scheme not in _DEFAULT_PORTS:
        raise ConfigurationError(
            f"Unsupported protocol; a web proxy is one of {', '.join(_DEFAULT_PORTS)}"
        )
    # The last '@' counts: passwords are often left unencoded.
    credentials, at, place = rest.rpartition("@")
    username, password = _parse_credentials(credentials) if at else ("", "")
    host, port_text = _split_place(re.split("[/?#]", place, maxsplit=1)[0].lower())
    port = _parse_port(port_text)
    if not port:
        port = _DEFAULT_PORTS[scheme]
        logger.warning("No port was provided for the web proxy, using default: %d", port)
    return WebProxy(scheme, host, port, username, Secret(password))


def _parse_credentials(text: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not text:
        raise ConfigurationError("Empty credentials; without any, leave out the '@'")
    if not colon or not user:
        raise ConfigurationError("The credentials must be USER:PASSWORD")
    username = _unquote(user)
    if ":" in username:
        raise ConfigurationError("The user name has a colon (RFC 7617 section 2 forbids it)")
    return username, _unquote(password)


def _unquote(text: str) -> str:
    if _PERCENT.search(text):
        raise ConfigurationError("The credentials have a '%' that two hex digits do not follow")
    try:
        raw = unquote_to_bytes(text.replace("+", " "))
        decoded = raw.decode()
    except UnicodeError:
        raise ConfigurationError("The credentials are not UTF-8") from None
    if any(c < " " or c == "\x7f" for c in decoded):
        raise ConfigurationError("The credentials have a control character")
    if len(raw) > _MAX_CREDENTIALS:
        raise ConfigurationError(f"The credentials have more than {_MAX_CREDENTIALS} bytes")
    return decoded


def _split_place(place: str) -> tuple[str, str]:
    """Split the lower-case ``HOST[:PORT]`` or ``[IPV6][:PORT]``; the port may be ""."""
    if place.startswith("["):
        host, bracket, rest = place[1:].partition("]")
        if not bracket:
            raise ConfigurationError("The IPv6 address has no closing ']'")
        if not isinstance(_address(host), IPv6Address) or (rest and rest[0] != ":"):
            raise ConfigurationError("What stands in brackets must be an IPv6 address")
        return host, rest[1:]
    host, _, port = place.partition(":")
    if not host:
        raise ConfigurationError("The host is missing")
    if not _HOST.fullmatch(host):
        raise ConfigurationError("The host is neither a name nor an address")
    return host, port


def _parse_port(text: str) -> int:
    digits = text.lstrip("0") or "0"
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()) or len(digits) > 5 or int(digits) > _MAX_PORT:
        raise ConfigurationError("The port must be a number between 1 and 65535")
    return int(digits)


def _address(text: str) -> _Address | None:
    if "%" in text:  # no scope: neither a proxy URL nor a NO_PROXY rule has a use for one
        return None
    try:
        return ip_address(text)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class _Rule:
    """One rule of ``no_proxy``; ``port`` 0 means any."""

    target: str | _Network
    """``*``, a host name that stands for its subdomains too, or a network."""
    port: int = 0

    def matches(self, host: str, address: _Address | None, port: int) -> bool:
        if self.port not in (0, port):
            return False
        if isinstance(self.target, str):
            return self.target == "*" or host == self.target or host.endswith(f".{self.target}")
        return address is not None and address in self.target


@dataclass(frozen=True, slots=True)
class NoProxy:
    """Hosts that are reached without a proxy."""

    rules: tuple[_Rule, ...] = ()

    def matches(self, host: str, port: int) -> bool:
        """Return whether ``host`` (no brackets) on ``port`` is to be reached directly."""
        name = host.lower().removesuffix(".")
        address = _address(name)
        return any(rule.matches(name, address, port) for rule in self.rules)


def parse_no_proxy(text: str) -> NoProxy:
    """Return the rules in ``text``, separated by commas or spaces.

    ``*``; ``example.com``, ``.example.com`` or ``*.example.com``, each of which covers the
    name and all names below it; an IP address; a network (``10.0.0.0/8``). A port may
    follow all but networks. What is none of these is skipped: the variable is shared
    with other programs.
    """
    rules = (_parse_rule(item) for item in re.split(r"[,\s]+", text.lower()) if item)
    return NoProxy(tuple(rule for rule in rules if rule is not None))


def _parse_rule(item: str) -> _Rule | None:
    if item == "*":
        return _Rule("*")
    network = _network(item)
    if network is not None:
        return _Rule(network)
    try:
        host, port_text = _split_place(item.removeprefix("*").removeprefix("."))
        port = _parse_port(port_text)
    except ConfigurationError:
        return None
    host = host.removesuffix(".")
    network = _network(host)
    return _Rule(network if network is not None else host, port)


def _network(text: str) -> _Network | None:
    if "%" in text:
        return None
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def web_proxy_variable(environ: Mapping[str, str]) -> str:
    """Return the name of the variable that names the proxy, "" when none does.

    ``https_proxy`` goes before ``HTTPS_PROXY``, also when it is set and empty, which
    means that no proxy is to be used.
    """
    name = "https_proxy" if "https_proxy" in environ else "HTTPS_PROXY"
    return name if environ.get(name) else ""


def web_proxy_for(host: str, port: int, environ: Mapping[str, str]) -> WebProxy | None:
    """Return the proxy through which ``environ`` wants ``host`` to be reached.

    Raises:
        ConfigurationError: the variable names no proxy; the message names the variable.
    """
    variable = web_proxy_variable(environ)
    if not variable:
        return None
    exceptions = environ.get("no_proxy", environ.get("NO_PROXY", ""))
    if parse_no_proxy(exceptions).matches(host, port):
        return None
    try:
        return parse_web_proxy(environ[variable])
    except ConfigurationError as error:
        raise ConfigurationError(
            f"Failed to parse the value of environment variable {variable}: {error}"
        ) from None
