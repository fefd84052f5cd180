"""Judge a WebSocket upgrade request. Pure: a request in, an answer or a refusal out.

Rules: guide V3, "Handshake"; RFC 6455 section 4.2.1 for the upgrade itself. They are
all checked before a token is touched, because a handshake that fails later would
have used it up.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs

from ...common.secret import Secret, is_client_token
from ...errors import ConfigurationError, TailraceError
from ...wire import (
    CAPABILITIES_FIELD,
    FLOW_FIELD,
    NO_CAPABILITIES,
    PASSED_ON,
    SUBPROTOCOLS,
    Capabilities,
    Capability,
    Side,
    format_capabilities,
    parse_capabilities,
)
from ..tunnels.rules import Refusal

__all__ = [
    "MAX_REQUEST_HEAD",
    "Handshake",
    "HandshakeRefused",
    "RequestLine",
    "UpgradeRequest",
    "check_request_line",
    "parse_origin",
    "read_handshake",
    "read_request_line",
    "refuse_admission",
]

MAX_REQUEST_HEAD: Final = 4096
"""Bytes of request line and header fields, up to and with the empty line."""

_VERSION: Final = "HTTP/1.1"
_REQUEST_LINE: Final = re.compile(rb"([!-~]+) ([!-~]+) (HTTP/[0-9]\.[0-9])")
_IN_BETWEEN: Final = "a proxy in between may have"
"""What local proxies send is right, so this is the cause that an operator can do something about.
``localproxy`` looks for these words."""
_COOKIE: Final = "awsiot-tunnel-token"
_TAILRACE: Final = re.compile(r"/tailrace-\d")
"""In the ``User-Agent`` of a proxy of this project."""
_BEFORE_OFFERS: Final[Capabilities] = frozenset({Capability.FLOW, Capability.PINGS})
"""What such a proxy can do if it makes no offer."""
_ORIGIN: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.ASCII
)
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}
"""Left out of an origin (RFC 6454 section 6.1)."""
_TOKEN: Final = re.compile(r"[\x21-\x7e]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class RequestLine:
    """What a request begins with (RFC 9112 section 3)."""

    method: str
    target: str
    version: str = _VERSION


@dataclass(frozen=True, slots=True)
class UpgradeRequest:
    """The request as it came: target as sent, header fields in order, bytes of the head."""

    method: str
    target: str
    headers: Sequence[tuple[str, str]]
    head_size: int

    def values(self, name: str) -> list[str]:
        """Return the values of all fields called ``name`` (lower case)."""
        return [value for field, value in self.headers if field.lower() == name]


@dataclass(frozen=True, slots=True)
class Handshake:
    """What a well-formed upgrade request asks for."""

    side: Side
    token: Secret
    client_token: Secret | None
    subprotocol: str
    """The newest of the offered ones that is known here."""
    capabilities: Capabilities = NO_CAPABILITIES
    """What the client can do beyond the guides' protocol."""
    agreement: tuple[str, str] | None = None
    """The header field that answers a proxy of this project; nobody else gets one."""


class HandshakeRefused(TailraceError):
    """The upgrade is answered with ``status`` and ``text`` as body and ``X-Status-Reason``.

    ``cause`` is a word for statistics; without one it is the name of the status.
    """

    def __init__(self, status: HTTPStatus, text: str, cause: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.cause = cause or status.name.lower()


def parse_origin(text: str, option: str) -> str:
    """Parse ``SCHEME://HOST[:PORT]``; return it as browsers write it in the field ``Origin``.

    Raises:
        ConfigurationError: it is not an origin; ``option`` is named.
    """
    match = _ORIGIN.fullmatch(text.lower())
    if match is None:
        raise ConfigurationError(
            f"{option} {text!r} is not an origin; give scheme, host and port,"
            " as in https://console.example or https://console.example:8443"
        )
    default = _DEFAULT_PORTS.get(match["scheme"], "")
    return match[0].removesuffix(default) if default else match[0]


def read_request_line(data: bytes) -> RequestLine | None:
    """Return the request line that ``data`` begins with, ``None`` if there is no such line."""
    match = _REQUEST_LINE.fullmatch(data.partition(b"\r\n")[0])
    return (
        None if match is None else RequestLine(*(part.decode("ascii") for part in match.groups()))
    )


def check_request_line(line: RequestLine | None) -> None:
    """Check what a request begins with, which may be no request line at all.

    Raises:
        HandshakeRefused: it cannot become an upgrade request.
    """
    if line is None:
        raise _bad("This is not a request of HTTP/1.1")
    if line.method != "GET":
        raise HandshakeRefused(HTTPStatus.METHOD_NOT_ALLOWED, "The upgrade request must be a GET")
    if line.version != _VERSION:
        # What nginx makes of a request unless it is told otherwise.
        raise HandshakeRefused(
            HTTPStatus.UPGRADE_REQUIRED,
            f"The request came as {line.version}, which cannot be upgraded to WebSocket"
            f"; {_IN_BETWEEN} changed it",
        )


def read_handshake(
    request: UpgradeRequest,
    max_head: int = MAX_REQUEST_HEAD,
    origins: Collection[str] = (),
) -> Handshake:
    """Check an upgrade request and return what it asks for.

    Args:
        max_head: bytes that the request may have.
        origins: of the web pages whose browsers may send a token in a cookie.

    Raises:
        HandshakeRefused: the request breaks a rule; always a 4xx.
    """
    if request.head_size > max_head:
        raise HandshakeRefused(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"The upgrade request is larger than {max_head} bytes",
        )
    side = _read_target(request)
    _check_upgrade(request)
    token = _read_access_token(request, origins)
    client_token = _read_client_token(request)
    subprotocol = _choose_subprotocol(request)
    return Handshake(side, token, client_token, subprotocol, *_read_offer(request))


def _bad(text: str) -> HandshakeRefused:
    return HandshakeRefused(HTTPStatus.BAD_REQUEST, text)


def _read_target(request: UpgradeRequest) -> Side:
    check_request_line(RequestLine(request.method, request.target))
    path, _, query = request.target.partition("?")
    if path != "/tunnel":
        raise _bad(f"The path of the upgrade request must be /tunnel; {_IN_BETWEEN} changed it")
    modes = parse_qs(query, keep_blank_values=True).get("local-proxy-mode", [])
    if len(modes) != 1 or modes[0] not in tuple(Side):
        raise _bad(
            "The query parameter local-proxy-mode must be source or destination, once"
            f"; {_IN_BETWEEN} changed it"
        )
    return Side(modes[0])


def _items(values: Iterable[str]) -> list[str]:
    """Return the items of a comma-separated list that may be spread over several fields."""
    return [item.strip(" \t") for value in values for item in value.split(",")]


def _check_upgrade(request: UpgradeRequest) -> None:
    if "websocket" not in [item.lower() for item in _items(request.values("upgrade"))]:
        raise HandshakeRefused(
            HTTPStatus.UPGRADE_REQUIRED,
            "This is a WebSocket endpoint, and the request has no header Upgrade: websocket"
            f"; {_IN_BETWEEN} removed it",
        )
    if "upgrade" not in [item.lower() for item in _items(request.values("connection"))]:
        raise _bad(f"The header Connection must contain Upgrade; {_IN_BETWEEN} removed it")
    if request.values("sec-websocket-version") != ["13"]:
        raise HandshakeRefused(
            HTTPStatus.UPGRADE_REQUIRED,
            f"The header Sec-WebSocket-Version must be 13; {_IN_BETWEEN} removed it",
        )
    keys = request.values("sec-websocket-key")
    try:
        valid = len(keys) == 1 and len(b64decode(keys[0].encode("ascii"), validate=True)) == 16
    except (UnicodeEncodeError, binascii.Error):
        valid = False
    if not valid:
        raise _bad(
            "The header Sec-WebSocket-Key must hold 16 bytes in base64, once"
            f"; {_IN_BETWEEN} removed it"
        )


def _cookie_tokens(request: UpgradeRequest) -> list[str]:
    tokens = []
    for field in request.values("cookie"):
        for pair in field.split(";"):
            name, _, value = pair.strip(" \t").partition("=")
            if name == _COOKIE:
                tokens.append(value.strip('"'))
    return tokens


def _read_access_token(request: UpgradeRequest, origins: Collection[str]) -> Secret:
    cookies = _cookie_tokens(request)
    tokens = request.values("access-token") + cookies
    if not tokens:
        raise _bad(
            f"An access token is required, in the header access-token or in the cookie {_COOKIE}"
            f"; {_IN_BETWEEN} removed it"
        )
    if len(tokens) > 1:
        raise _bad("More than one access token was given")
    # A browser adds its cookies to what any page asks for (RFC 6455 section 10.2). A page cannot
    # set the other field, and programs that are no browsers send no origin.
    if cookies and not all(origin.lower() in origins for origin in request.values("origin")):
        raise HandshakeRefused(
            HTTPStatus.FORBIDDEN,
            "The access token came in a cookie, and web pages of this origin are not allowed",
            "origin",
        )
    if not _TOKEN.fullmatch(tokens[0]):
        raise refuse_admission(Refusal.UNKNOWN_TOKEN)
    return Secret(tokens[0])


def _read_client_token(request: UpgradeRequest) -> Secret | None:
    tokens = request.values("client-token")
    if not tokens:
        return None
    if len(tokens) > 1:
        raise _bad("Invalid client token: More than one client token was given.")
    if not is_client_token(tokens[0]):
        raise _bad("Invalid client token: It must match ^[a-zA-Z0-9-]{32,128}$.")
    return Secret(tokens[0])


def _read_offer(request: UpgradeRequest) -> tuple[Capabilities, tuple[str, str] | None]:
    """Return what a client can do, and the field that tells it what is passed on."""
    offers = request.values(CAPABILITIES_FIELD.lower())
    if offers:
        offer = parse_capabilities(offers)
        return offer, (CAPABILITIES_FIELD, format_capabilities(offer & PASSED_ON))
    if any(_TAILRACE.search(agent) for agent in request.values("user-agent")):
        return _BEFORE_OFFERS, (FLOW_FIELD, "1")
    return NO_CAPABILITIES, None


def _choose_subprotocol(request: UpgradeRequest) -> str:
    offered = _items(request.values("sec-websocket-protocol"))
    for subprotocol in SUBPROTOCOLS:
        if subprotocol in offered:
            return subprotocol
    names = ", ".join(reversed(SUBPROTOCOLS))
    raise _bad(
        f"The header Sec-WebSocket-Protocol must contain one of {names}; {_IN_BETWEEN} removed it"
    )


# The sentences of USED and DIFFERS, and "Invalid access-token" with status 403, are
# those that AWS answers with: clients and people look for them.
_ADMISSION: Final = {
    Refusal.UNKNOWN_TOKEN: (HTTPStatus.FORBIDDEN, "Invalid access-token"),
    Refusal.WRONG_SIDE: (
        HTTPStatus.BAD_REQUEST,
        "Invalid access token: The access token is for the other local proxy mode.",
    ),
    Refusal.TOKEN_USED: (
        HTTPStatus.BAD_REQUEST,
        "Invalid access token: The access token was previously used and can not be used again.",
    ),
    Refusal.CLIENT_TOKEN_DIFFERS: (
        HTTPStatus.BAD_REQUEST,
        "Invalid client token: The provided client token does not match the client token "
        "that was previously set.",
    ),
    Refusal.CLIENT_TOKEN_TAKEN: (
        HTTPStatus.BAD_REQUEST,
        "Invalid client token: The provided client token belongs to another open tunnel.",
    ),
    Refusal.TUNNEL_CLOSED: (HTTPStatus.BAD_REQUEST, "Tunnel is closed"),
}


def refuse_admission(refusal: Refusal) -> HandshakeRefused:
    """Return the answer to a client that :meth:`Tunnels.admit` refused."""
    return HandshakeRefused(*_ADMISSION[refusal], refusal.name.lower())
