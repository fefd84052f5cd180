"""Whether a tunneling service answers, and whether what is sent arrives: no token is spent.

The request for an upgrade is that of a local proxy, but for the token, which is made up: a service
judges a request as a whole before it looks at the token. It refuses, and how it does tells whether
it is a tunneling service, and whether the request came there as it was sent.
"""

from __future__ import annotations

import asyncio
import base64
import os
import socket
from contextlib import suppress
from typing import Final, NoReturn

from ..common.escaping import cut
from ..common.secret import Secret
from ..errors import (
    AccessRefused,
    HandshakeAltered,
    HandshakeFailed,
    NotTunnelingService,
    RemoteProtocolError,
    ServiceUnavailable,
)
from ..link.endpoint import ServiceEndpoint, user_agent
from ..link.http.response import Response, ResponseReader
from ..link.http.upgrade import UpgradeAccepted, UpgradeParser, build_request
from ..wire import Side
from .findings import Finding, failed, ok, warning
from .runner import Check
from .server import AnyResponse, Server, clock_advice

__all__ = ["packets_check", "upgrade_check"]

_MADE_UP: Final = Secret("tailrace-doctor-asks-without-a-token")
_SHOWN: Final = 80
_PADDING: Final = 3000
"""Bytes that take three packets of Ethernet, and are allowed in a request: 4 KB (guide V3)."""
_NOT_FOUND: Final = 404
# From linux/in.h and linux/in6.h: what the path to the other side takes, as far as is known.
_IP_MTU: Final = 14
_IPV6_MTU: Final = 24


def upgrade_check(server: Server, needs: tuple[str, ...]) -> Check:
    """Return the check of a data endpoint; its name is ``LABEL upgrade``."""
    return Check(f"{server.label} upgrade", lambda: _check_upgrade(server), needs)


def packets_check(server: Server, needs: tuple[str, ...]) -> Check:
    """Return the check that large packets arrive; its name is ``LABEL MTU``."""
    return Check(f"{server.label} MTU", lambda: _check_packets(server), needs)


# -- upgrade --------------------------------------------------------------------------------------


async def _check_upgrade(server: Server) -> Finding:
    at = server.endpoint
    endpoint = ServiceEndpoint(
        host=at.host, port=at.port, tls=at.tls, side=Side.SOURCE, access_token=_MADE_UP
    )
    key = base64.b64encode(os.urandom(16)).decode()
    request = build_request(endpoint, key, user_agent())
    parser = _Parser(endpoint, key)
    try:
        await server.ask(request, parser)
    except AccessRefused as error:
        return _judge(error, parser.response, server)
    except HandshakeFailed as error:
        return failed(str(error), _fix(error, server), cause=error)
    text = f"{at.authority} accepted a token that was made up"
    fix = f"this is no tunneling service, or one that lets anybody in: check {_option(server)}"
    return failed(text, fix, cause=RemoteProtocolError(text))


class _Parser:
    """Judges as a local proxy does, and keeps the response, too."""

    def __init__(self, endpoint: ServiceEndpoint, key: str) -> None:
        self.response: Response | None = None
        self._reader = ResponseReader("GET")
        self._parser = UpgradeParser(endpoint, key)

    def feed(self, data: bytes) -> UpgradeAccepted | None:
        with suppress(RemoteProtocolError):  # which the other one words
            self.response = self.response or self._reader.feed(data)
        return self._parser.feed(data)

    def finish(self, cause: str) -> NoReturn:
        self._parser.finish(cause)


def _judge(error: AccessRefused, response: Response | None, server: Server) -> Finding:
    """Return what a refusal tells, which was to come."""
    said = cut(error.body or error.reason, _SHOWN)
    text = f'answered {error.status} "{said}" to a token that was made up; no token was spent'
    channel = response is not None and response.values("channel-id")
    if not channel and "token" not in f"{error.body} {error.reason}".lower():
        text = f'something answered {error.status} "{said}", and nothing about a token'
        fix = f"check that {_option(server)} is the data endpoint of a tunneling service"
        if error.status == _NOT_FOUND:
            return failed(text, fix, cause=NotTunnelingService(text))
        return warning(text, fix)
    skew = None if response is None else clock_advice(response)
    return warning(f"{text}; {skew[0]}", skew[1]) if skew else ok(text)


def _fix(error: HandshakeFailed, server: Server) -> str:
    match error:
        case NotTunnelingService(login_page=str()):
            return "log in to the network with a browser"
        case NotTunnelingService():
            return f"check {_option(server)}: it has to be the data endpoint, not the control API's"
        case HandshakeAltered():
            return (
                "a proxy in between has to pass WebSocket upgrades on: "
                "docs/guides/intermediaries.md"
            )
        case ServiceUnavailable():
            return "the service is there, but refuses for now: try again later"
        case _:
            return (
                f"check {_option(server)}, and what stands in between: "
                "docs/guides/intermediaries.md"
            )


def _option(server: Server) -> str:
    return server.address_option or server.endpoint.host


# -- packets --------------------------------------------------------------------------------------


async def _check_packets(server: Server) -> Finding:
    endpoint, known = server.endpoint, ""
    padding = "x" * _PADDING
    request = (
        f"GET /healthz HTTP/1.1\r\nHost: {endpoint.authority}\r\nX-Padding: {padding}\r\n"
        f"User-Agent: {user_agent()}\r\nConnection: close\r\n\r\n"
    ).encode()

    def look(transport: asyncio.Transport) -> None:
        nonlocal known
        mtu = _path_mtu(transport.get_extra_info("socket"))
        known = f"; path MTU {mtu}" if mtu else ""

    try:
        await server.ask(request, AnyResponse(endpoint.authority), look)
    except HandshakeFailed as error:
        fix = (
            "large packets get lost: lower the MTU (ip link set dev INTERFACE mtu 1400), or have"
            " the VPN or firewall in between pass on ICMP"
        )
        return failed(f"{len(request)} bytes at once: {error}", fix, cause=error)
    return ok(f"{len(request)} bytes at once were answered{known}")


def _path_mtu(sock: socket.socket | None) -> int:
    """Return the largest packet for the other side, 0 where the system does not tell."""
    if sock is None or os.name != "posix":
        return 0
    is_ipv6 = sock.family == socket.AF_INET6
    level, name = (socket.IPPROTO_IPV6, _IPV6_MTU) if is_ipv6 else (socket.IPPROTO_IP, _IP_MTU)
    try:
        return sock.getsockopt(level, name)
    except OSError:
        return 0
