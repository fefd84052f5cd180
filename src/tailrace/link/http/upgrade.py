"""The WebSocket upgrade (RFC 6455 section 4): bytes in, result out.

Both back ends ask and judge through this module, so a refusal reads the same whichever of
them met it. Nothing here touches a socket or a clock.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Final, NoReturn

from ...errors import AccessRefused, HandshakeFailed, RemoteProtocolError, ServiceUnavailable
from ..endpoint import ServiceEndpoint
from .response import MAX_BODY, Response, ResponseReader, scrub

__all__ = [
    "UpgradeAccepted",
    "UpgradeParser",
    "accept_for",
    "build_request",
    "request_headers",
    "request_path",
]

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


@dataclass(frozen=True, slots=True)
class UpgradeAccepted:
    """The service switched to WebSocket."""

    subprotocol: str
    channel_id: str
    leftover: bytes
    """Bytes that followed the answer: the beginning of the first frames."""
    flow_messages: bool = False
    """Whether the service passes on flow messages, and only to whoever understands them."""


def accept_for(key: str) -> str:
    """Return the ``Sec-WebSocket-Accept`` that answers a ``Sec-WebSocket-Key``."""
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def request_path(endpoint: ServiceEndpoint) -> str:
    """Return path and query of the upgrade request (guide V3, handshake)."""
    return f"/tunnel?local-proxy-mode={endpoint.side}"


def request_headers(endpoint: ServiceEndpoint, agent: str) -> list[tuple[str, str]]:
    """Return what follows the header fields that every WebSocket upgrade has.

    Holds the tokens in clear: for the wire only.
    """
    headers = [
        ("Sec-WebSocket-Protocol", endpoint.subprotocol),
        ("access-token", endpoint.access_token.reveal()),
    ]
    if endpoint.client_token:
        headers.append(("client-token", endpoint.client_token.reveal()))
    headers.append(("User-Agent", agent))
    return headers


def build_request(endpoint: ServiceEndpoint, key: str, agent: str) -> bytes:
    """Return the whole upgrade request. No extension is offered: tunnels carry ciphertext."""
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


class UpgradeParser:
    """Collects the answer to one upgrade request, in pieces of any size."""

    __slots__ = ("_key", "_peer", "_reader", "_secrets", "_wanted")

    def __init__(self, endpoint: ServiceEndpoint, key: str) -> None:
        self._key = key
        self._wanted = endpoint.subprotocol
        self._peer = endpoint.authority
        self._secrets = endpoint.secrets
        self._reader = ResponseReader("GET", self._secrets)

    def feed(self, data: bytes) -> UpgradeAccepted | None:
        """Take the next bytes; return the acceptance, or ``None`` while more are needed.

        Raises:
            ServiceUnavailable: the service answered 5xx.
            AccessRefused: the service answered with another status that is no acceptance.
            HandshakeFailed: the other side does not speak HTTP or WebSocket as it should.
        """
        try:
            answer = self._reader.feed(data)
        except RemoteProtocolError as error:
            self._fail(str(error))
        if answer is None:
            return None
        if answer.status != 101:
            self._refuse(answer)
        return self._accept(answer)

    def finish(self, cause: str) -> NoReturn:
        """Judge an answer that will not go on: the connection ended, or patience did.

        ``cause`` completes "WebSocket upgrade with HOST:PORT failed: ". A refusal whose text
        is incomplete is still that refusal.

        Raises:
            ServiceUnavailable, AccessRefused, HandshakeFailed: as :meth:`feed`.
        """
        try:
            answer = self._reader.finish(cause)
        except RemoteProtocolError as error:
            self._fail(str(error))
        self._refuse(answer)

    def _accept(self, answer: Response) -> UpgradeAccepted:
        if "websocket" not in answer.tokens("upgrade"):
            self._fail("the answer does not switch to WebSocket (header Upgrade)")
        if "upgrade" not in answer.tokens("connection"):
            self._fail("the answer does not switch to WebSocket (header Connection)")
        if answer.values("sec-websocket-accept") != [accept_for(self._key)]:
            self._fail("the answer does not fit the request (header Sec-WebSocket-Accept)")
        if any(answer.values("sec-websocket-extensions")):
            self._fail("the answer uses an extension that was not offered")
        chosen = answer.values("sec-websocket-protocol")
        if not chosen:
            self._fail("the answer names no subprotocol (header Sec-WebSocket-Protocol)")
        if chosen != [self._wanted]:
            names = self._scrub(", ".join(chosen))
            self._fail(f'the answer names the subprotocol "{names}", not {self._wanted}')
        channel = self._scrub(", ".join(answer.values("channel-id")))
        flow_messages = answer.values("x-tailrace-flow") == ["1"]
        return UpgradeAccepted(self._wanted, channel, answer.leftover, flow_messages)

    def _refuse(self, answer: Response) -> NoReturn:
        reason = self._scrub(answer.reason)
        text = answer.body[:MAX_BODY].decode("utf-8", "replace")
        body = self._scrub(text, cut=answer.cut or len(answer.body) > MAX_BODY)
        if not body:
            # The Go server of the field explains itself in this header alone.
            body = self._scrub(", ".join(answer.values("x-status-reason")))
        if answer.status >= 500:
            raise ServiceUnavailable(f'HTTP/1.1 {answer.status} {reason}: "{body}"')
        raise AccessRefused(answer.status, reason, body)

    def _scrub(self, text: str, *, cut: bool = False) -> str:
        return scrub(text, self._secrets, cut=cut)

    def _fail(self, cause: str) -> NoReturn:
        raise HandshakeFailed(f"WebSocket upgrade with {self._peer} failed: {cause}")
