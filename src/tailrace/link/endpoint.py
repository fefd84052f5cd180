"""Where a link goes, and what it says about itself there."""

from __future__ import annotations

import ipaddress
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path

from .. import __version__
from ..common.addresses import format_host, format_host_port
from ..common.secret import Secret
from ..errors import ConfigurationError
from ..wire import OFFER, SUBPROTOCOL_V3, Capabilities, Side
from .proxy.settings import WebProxy

__all__ = ["NetworkEndpoint", "ServiceEndpoint", "TLSOptions", "user_agent"]

_HTTPS_PORT = 443
_HOST_NAME = re.compile(r"(?=.{1,254}\Z)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_AWS_DOMAINS = (".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu", ".api.aws")
"""Of AWS' endpoints in all public partitions, those of VPCs and with IPv6 included."""
_HTTP_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_TEXT = re.compile(r"[\x20-\x7e]+")


@dataclass(frozen=True, slots=True)
class TLSOptions:
    """Which certificates of a server are accepted, and what is shown to it."""

    capath: Path | None = None
    """More certificates besides the system's: a PEM file, a directory of PEM files, or a
    directory hashed the way OpenSSL looks certificates up."""
    verify: bool = True
    """``False`` accepts any certificate for any host: for tests only."""
    authorities: Path | None = None
    """A PEM file of the only certificates to trust, instead of the system's and ``capath``."""
    certificate: Path | None = None
    """Our own certificate with its chain, in PEM, for servers that ask for one."""
    key: Path | None = None
    """Its private key, if it is not in the same file."""
    alpn: tuple[str, ...] = ()
    """Protocols to offer (RFC 7301)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkEndpoint:
    """A server that is reached over TCP, perhaps through a web proxy, and TLS.

    Raises:
        ConfigurationError: host, port or timeout is not one.
    """

    host: str
    """Name, IPv4 address, or IPv6 address without brackets."""
    port: int = _HTTPS_PORT
    tls: TLSOptions = field(default_factory=TLSOptions)
    connect_timeout: float = 10.0
    """Seconds for each of name resolution, TCP, TLS and upgrade."""

    def __post_init__(self) -> None:
        _check_host(self.host)
        if not 1 <= self.port <= 65_535:
            raise ConfigurationError(f"port {self.port} of the endpoint is not in 1..65535")
        if not self.connect_timeout > 0:
            raise ConfigurationError(f"connect timeout {self.connect_timeout} is not positive")

    @property
    def authority(self) -> str:
        """``host:port``, for requests to a web proxy and for people."""
        return format_host_port(self.host, self.port)

    @property
    def server_name(self) -> str:
        """The name the certificate has to carry: without the dot that ends a rooted name."""
        return self.host.rstrip(".")

    @property
    def is_aws(self) -> bool:
        """Return whether it is AWS' own, by its name."""
        return self.server_name.lower().endswith(_AWS_DOMAINS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceEndpoint(NetworkEndpoint):
    """One side of one tunnel at one service. No field can add a line to a request.

    Raises:
        ConfigurationError: a field cannot be sent as it is. The text never shows a token.
    """

    side: Side
    access_token: Secret
    client_token: Secret | None = None
    subprotocol: str = SUBPROTOCOL_V3
    capabilities: Capabilities = OFFER
    """What is offered to a service, unless it is AWS' own."""
    web_proxy: WebProxy | None = None
    """Reach the service through this proxy; ``None``: directly."""

    def __post_init__(self) -> None:
        NetworkEndpoint.__post_init__(self)
        if not _HTTP_TOKEN.fullmatch(self.subprotocol):
            raise ConfigurationError(f"subprotocol {self.subprotocol!r} is not an HTTP token")
        _check_token("access token", self.access_token)
        if self.client_token:
            _check_token("client token", self.client_token)

    @property
    def host_header(self) -> str:
        """The ``Host`` header: with any port but the default (RFC 9110 section 7.2)."""
        return format_host(self.host) if self.port == _HTTPS_PORT else self.authority

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """The tokens, which no message may show."""
        return tuple(token for token in (self.access_token, self.client_token) if token)


def user_agent() -> str:
    """Return the value of User-Agent: system, libraries and version, as in the reference."""
    import ssl  # not above: the endpoint alone is used by programs that never connect

    system = platform.system().lower() or "unknown"
    bits = platform.architecture()[0].removesuffix("bit")
    openssl = ssl.OPENSSL_VERSION.split()[1]
    return (
        f"localproxy {system} {bits}-bit/python-{platform.python_version()}"
        f"/openssl-{openssl}/tailrace-{__version__}"
    )


def _check_host(host: str) -> None:
    if ":" in host:
        try:
            # A zone means something on this machine only, and may hold any character.
            plain = ipaddress.IPv6Address(host).scope_id is None
        except ValueError:
            plain = False
        if not plain:
            raise ConfigurationError(f"host {host!r} is not a valid IPv6 address")
    elif not _HOST_NAME.fullmatch(host):
        raise ConfigurationError(f"host {host!r} is not a host name or an address")


def _check_token(what: str, token: Secret) -> None:
    text = token.reveal()
    if not text:
        raise ConfigurationError(f"the {what} is empty")
    if not _HEADER_TEXT.fullmatch(text) or text != text.strip(" "):
        raise ConfigurationError(
            f"the {what} holds a control character, a blank at an end or a character outside"
            " ASCII; was it copied in one piece?"
        )
