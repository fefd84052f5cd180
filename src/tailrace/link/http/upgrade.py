"""The WebSocket upgrade (RFC 6455 section 4): request out, response in, result out. Pure.

The client sends an HTTP request with a random ``Sec-WebSocket-Key``. A server that agrees responds
with status 101, and from the byte after its head on both sides speak WebSocket. Before the client
believes it, section 4.1 asks for five checks, in :meth:`UpgradeParser._accept`:

* the response switches to WebSocket: fields ``Upgrade`` and ``Connection``;
* it answers this very request and comes from no cache: ``Sec-WebSocket-Accept`` is a hash of the
  key;
* it uses no extension, as none was offered: frames are not compressed, tunnels carry ciphertext;
* it chooses the subprotocol asked for, which is the version of the tunnel protocol.

The tokens travel in this request. Any other status refuses the link. 5xx, 408, 425 and 429 may
pass; other 4xx are final, as the same tokens would be refused again. 2xx, 3xx and pages of HTML
come from something that is no tunneling service. A 4xx that complains of what is always right in
our request, such as 426, tells that something on the way has changed it: the tokens may be good.
Both back ends use this module, so that a refusal reads the same over each of them.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Final, NoReturn

from ...errors import (
    AccessRefused,
    HandshakeAltered,
    HandshakeFailed,
    NotTunnelingService,
    RemoteProtocolError,
    ServiceUnavailable,
)
from ...wire import (
    CAPABILITIES_FIELD,
    FLOW,
    FLOW_FIELD,
    NO_CAPABILITIES,
    Capabilities,
    format_capabilities,
    parse_capabilities,
)
from ..endpoint import ServiceEndpoint
from .login_page import find_login_page, is_page, login_words
from .response import MAX_BODY, Response, ResponseReader, scrub

__all__ = [
    "UpgradeAccepted",
    "UpgradeParser",
    "accept_for",
    "build_request",
    "request_headers",
    "request_path",
]

_NOT_OF_TOKENS: Final = {405, 411, 413, 414, 415, 417, 421, 426, 431}
"""Statuses about method, size and form of a request, all of which are always the same in ours."""
_CHANGED: Final = re.compile(
    r"\b(upgrade|websocket|sec-websocket-\w+|subprotocol|http version|in between)\b", re.IGNORECASE
)
"""What a text is about that refuses a request for its form, not for its tokens."""
_CONTROL_API: Final = "UnknownOperationException"
"""In the response of the control API, AWS' or our own, to any GET."""
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


@dataclass(frozen=True, slots=True)
class UpgradeAccepted:
    """The service switched to WebSocket."""

    subprotocol: str
    channel_id: str
    leftover: bytes
    """Bytes behind the response: the beginning of the first frames."""
    capabilities: Capabilities = NO_CAPABILITIES
    """What the service passes on, and only to peers that can do the same."""


def accept_for(key: str) -> str:
    """Return the ``Sec-WebSocket-Accept`` that belongs to a ``Sec-WebSocket-Key``."""
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def request_path(endpoint: ServiceEndpoint) -> str:
    """Return path and query of the upgrade request (guide V3, handshake)."""
    return f"/tunnel?local-proxy-mode={endpoint.side}"


def request_headers(endpoint: ServiceEndpoint, agent: str) -> list[tuple[str, str]]:
    """Return the header fields of an upgrade request that are not those of every WebSocket.

    Holds the tokens in clear: for the wire only.
    """
    headers = [
        ("Sec-WebSocket-Protocol", endpoint.subprotocol),
        ("access-token", endpoint.access_token.reveal()),
    ]
    if endpoint.client_token:
        headers.append(("client-token", endpoint.client_token.reveal()))
    headers.append(("User-Agent", agent))
    if not endpoint.is_aws:
        headers.append((CAPABILITIES_FIELD, format_capabilities(endpoint.capabilities)))
    return headers


def build_request(endpoint: ServiceEndpoint, key: str, agent: str) -> bytes:
    """Return the whole upgrade request."""
    headers = [
        ("Host", endpoint.host_header),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", key),
        *request_headers(endpoint, agent),
    ]
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"GET {request_path(endpoint)} HTTP/1.1\r\n{fields}\r\n".encode("ascii")


def _agreed(response: Response, offered: Capabilities) -> Capabilities:
    """Return what the service passes on; some answer no offer, but know a proxy by its name."""
    agreed = parse_capabilities(response.values(CAPABILITIES_FIELD.lower()))
    if response.values(FLOW_FIELD.lower()) == ["1"]:
        agreed |= FLOW
    return agreed & offered


class UpgradeParser:
    """Judges the response to one upgrade request, in pieces of any size."""

    __slots__ = ("_endpoint", "_key", "_reader")

    def __init__(self, endpoint: ServiceEndpoint, key: str) -> None:
        self._endpoint = endpoint
        self._key = key
        self._reader = ResponseReader("GET", endpoint.secrets)

    def feed(self, data: bytes) -> UpgradeAccepted | None:
        """Take the next bytes; return the acceptance, or ``None`` while more are needed.

        Raises:
            ServiceUnavailable: the service answered 5xx, 408, 425 or 429.
            NotTunnelingService: something answered 2xx, 3xx or with a page of HTML, or as the
                control API does.
            HandshakeAltered: the service complains of what only a proxy in between can have done.
            AccessRefused: the service answered with any other status but 101.
            HandshakeFailed: the response breaks the rules of HTTP or WebSocket.
        """
        try:
            response = self._reader.feed(data)
        except RemoteProtocolError as error:
            self._fail(str(error))
        if response is None:
            return None
        if response.status != 101:
            self._refuse(response)
        return self._accept(response)

    def finish(self, cause: str) -> NoReturn:
        """Judge a response of which no more will come: the connection ended, or time ran out.

        ``cause`` completes "WebSocket upgrade with HOST:PORT failed: ". A refusal whose text
        is incomplete is still that refusal.

        Raises:
            HandshakeFailed: or one derived from it, as :meth:`feed`.
        """
        try:
            response = self._reader.finish(cause)
        except RemoteProtocolError as error:
            self._fail(str(error))
        self._refuse(response)

    def _accept(self, response: Response) -> UpgradeAccepted:
        if "websocket" not in response.tokens("upgrade"):
            self._fail("the answer does not switch to WebSocket (header Upgrade)")
        if "upgrade" not in response.tokens("connection"):
            self._fail("the answer does not switch to WebSocket (header Connection)")
        if response.values("sec-websocket-accept") != [accept_for(self._key)]:
            self._fail("the answer does not fit the request (header Sec-WebSocket-Accept)")
        if any(response.values("sec-websocket-extensions")):
            self._fail("the answer uses an extension that was not offered")
        chosen = response.values("sec-websocket-protocol")
        if not chosen:
            self._fail("the answer names no subprotocol (header Sec-WebSocket-Protocol)")
        wanted = self._endpoint.subprotocol
        if chosen != [wanted]:
            names = self._scrub(", ".join(chosen))
            self._fail(f'the answer names the subprotocol "{names}", not {wanted}')
        channel = self._scrub(", ".join(response.values("channel-id")))
        return UpgradeAccepted(
            wanted, channel, response.leftover, _agreed(response, self._endpoint.capabilities)
        )

    def _refuse(self, response: Response) -> NoReturn:
        reason = response.shown_reason(self._endpoint.secrets)
        page = response.body[:MAX_BODY].decode("utf-8", "replace")
        body = self._scrub(page, cut=response.cut or len(response.body) > MAX_BODY)
        if not body:
            # Some servers explain a refusal in this header field only.
            body = self._scrub(", ".join(response.values("x-status-reason")))
        text = f'HTTP/1.1 {response.status} {reason}: "{body}"'
        if response.may_pass:
            site = find_login_page(response)
            login = "" if site is None else f"; {login_words(site)}"
            raise ServiceUnavailable(f"{text}{login}", retry_after=response.retry_after)
        where = self._endpoint.authority
        if response.status < 400 or is_page(response) or _CONTROL_API in body:
            raise NotTunnelingService(
                f"something else answered for {where}, not a tunneling service: {text}",
                login_page=find_login_page(response),
            )
        if response.status in _NOT_OF_TOKENS or (response.status == 400 and _CHANGED.search(body)):
            raise HandshakeAltered(
                f"{where} got another upgrade request than was sent: {text}",
                response.status,
                reason,
                body,
            )
        raise AccessRefused(response.status, reason, body)

    def _scrub(self, text: str, *, cut: bool = False) -> str:
        return scrub(text, self._endpoint.secrets, cut=cut)

    def _fail(self, cause: str) -> NoReturn:
        raise HandshakeFailed(f"WebSocket upgrade with {self._endpoint.authority} failed: {cause}")
