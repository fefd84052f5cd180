"""The way to one server, step by step: name, TCP, web proxy, TLS, and what it answers to HTTP.

Each step is made of what connections are made of, so that it fails as they would. Nothing is
shown to the server but, where there is one, the certificate of this machine.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final, NoReturn, TypeVar

from ..common.escaping import cut
from ..common.wall_clock import is_clock_set
from ..errors import (
    CertificateFault,
    CertificateRejected,
    ConnectFailed,
    HandshakeFailed,
    LinkError,
    NameResolutionFailed,
    ProxyRefused,
    RemoteProtocolError,
    TLSFailed,
)
from ..link.endpoint import NetworkEndpoint, user_agent
from ..link.exchange import Exchange
from ..link.http.response import Response, ResponseReader
from ..link.proxy.settings import WebProxy
from ..link.tcp import SocketAddress, connect_any, resolve
from ..link.tls.context import build_trust
from ..link.tls.transport import close_transport, start_tls
from ..link.tls.x509_names import end_of_validity, leaf_certificate
from .findings import Finding, failed, ok, skipped, warning
from .runner import Check

__all__ = ["Server", "http_check", "path_checks"]

_SOON: Final = timedelta(days=14)
"""Time before a server's certificate expires in which that is worth a warning."""
_MAX_SKEW: Final = 300.0
"""Seconds by which two clocks may differ."""
_SHOWN_ADDRESSES: Final = 4

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is, and what it is to its user."""

    label: str
    """Such as ``broker``, with which the names of its checks begin."""
    endpoint: NetworkEndpoint
    is_encrypted: bool = True
    web_proxy: WebProxy | None = None
    address_option: str = ""
    """Option that names the server, for advice."""
    trust_option: str = ""
    """Option that names certificates to trust, for advice."""


def path_checks(server: Server, needs: tuple[str, ...] = ()) -> list[Check]:
    """Return the steps to a server; the name of the last one is ``LABEL TLS`` or ``LABEL TCP``."""
    path = _Path(server)
    label = server.label
    name, tcp, proxy, tls = (f"{label} {step}" for step in ("name", "TCP", "web proxy", "TLS"))
    if server.web_proxy is not None:
        return [
            Check(proxy, path.check_web_proxy, needs),
            Check(tls, path.check_tls, (*needs, proxy)),
        ]
    checks = [
        Check(proxy, path.check_no_web_proxy),
        Check(name, path.check_name, needs),
        Check(tcp, path.check_tcp, (*needs, name)),
    ]
    if server.is_encrypted:
        checks.append(Check(tls, path.check_tls, (*needs, tcp)))
    return checks


def http_check(name: str, server: Server, path: str, needs: tuple[str, ...]) -> Check:
    """Return the check that a server answers to ``GET`` of a path, whatever it answers."""
    steps = _Path(server)
    return Check(name, lambda: steps.check_answer(path), needs)


class _Path:
    """The steps to one server; each begins anew, so that one does not wait for the next."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._endpoint = server.endpoint
        self._addresses: list[SocketAddress] = []

    # -- steps --------------------------------------------------------------------------------

    async def check_name(self) -> Finding:
        endpoint = self._endpoint
        try:
            took, self._addresses = await _timed(
                resolve(endpoint.host, endpoint.port, endpoint.connect_timeout)
            )
        except NameResolutionFailed as error:
            fix = f"check {self._address} and the name server of this machine (/etc/resolv.conf)"
            return failed(str(error), fix)
        hosts = [str(each.address[0]) for each in self._addresses]
        more = f" and {len(hosts) - _SHOWN_ADDRESSES} more" if len(hosts) > _SHOWN_ADDRESSES else ""
        shown = ", ".join(hosts[:_SHOWN_ADDRESSES])
        if hosts == [endpoint.host]:
            return ok(f"{shown} is an address")
        return ok(f"{endpoint.host} is {shown}{more} ({took})")

    async def check_tcp(self) -> Finding:
        endpoint = self._endpoint
        try:
            took, sock = await _timed(
                connect_any(self._addresses, endpoint.authority, endpoint.connect_timeout)
            )
        except ConnectFailed as error:
            fix = (
                f"check {self._address}, and that the network lets this machine out to port"
                f" {endpoint.port}"
            )
            return failed(str(error), fix)
        with sock:
            peer = sock.getpeername()
        return ok(f"connected to {peer[0]} port {peer[1]} ({took})")

    async def check_no_web_proxy(self) -> Finding:
        if not self._server.is_encrypted:
            return skipped("none: they are used for TLS only")
        return skipped("none: https_proxy is not set, or no_proxy excepts the host")

    async def check_web_proxy(self) -> Finding:
        proxy = self._server.web_proxy
        assert proxy is not None
        try:
            took, sock = await _timed(self._connect())
        except ProxyRefused as error:
            return failed(str(error), "let the proxy connect there, or set no_proxy for the host")
        except LinkError as error:
            return failed(str(error), "check https_proxy")
        sock.close()
        return ok(f"{proxy.place} connects to {self._endpoint.authority} ({took})")

    async def check_tls(self) -> Finding:
        try:
            took, transport = await _timed(self._start_tls(asyncio.Protocol()))
        except TLSFailed as error:
            return failed(str(error), self._tls_fix(error))
        tls = transport.get_extra_info("ssl_object")
        version, cipher = tls.version(), tls.cipher()[0]
        leaf = leaf_certificate(tls)
        close_transport(transport)
        text = f"{version}, {cipher}, certificate verified ({took})"
        end = None if leaf is None else end_of_validity(leaf)
        if end is None:
            return ok(text)
        text = f"{text}, good until {end:%Y-%m-%d}"
        if end - datetime.now(UTC) < _SOON:
            return warning(text, "renew the certificate of the server")
        return ok(text)

    async def check_answer(self, path: str) -> Finding:
        endpoint, exchange = self._endpoint, Exchange()
        request = (
            f"GET {path} HTTP/1.1\r\nHost: {endpoint.authority}\r\n"
            f"User-Agent: {user_agent()}\r\nConnection: close\r\n\r\n"
        )
        transport = await self._start_tls(exchange)
        parser = _AnyResponse(endpoint.authority)
        timeout = endpoint.connect_timeout
        took, response = await _timed(exchange.run(request.encode(), parser, timeout))
        close_transport(transport)
        reason = cut(response.shown_reason(()), 60)
        text = f"HTTP {response.status} {reason}".rstrip() + f" ({took}); no token was used"
        skew = _skew(response)
        if skew is not None and abs(skew) > _MAX_SKEW:
            way = "behind" if skew > 0 else "ahead of"
            text += f"; the clock of this machine is {abs(skew) / 60:.0f} min {way} the server's"
            return warning(text, "set the clock, and have it kept: timedatectl set-ntp true")
        return ok(text)

    # -- parts --------------------------------------------------------------------------------

    async def _connect(self) -> socket.socket:
        endpoint = self._endpoint
        if self._server.web_proxy is not None:
            from ..link.proxy.through_proxy import open_through_proxy

            return await open_through_proxy(endpoint, self._server.web_proxy)
        timeout = endpoint.connect_timeout
        addresses = self._addresses or await resolve(endpoint.host, endpoint.port, timeout)
        return await connect_any(addresses, endpoint.authority, timeout)

    async def _start_tls(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        trust = await asyncio.to_thread(build_trust, self._endpoint.tls)
        return await start_tls(await self._connect(), self._endpoint, trust, protocol)

    def _tls_fix(self, error: TLSFailed) -> str:
        if not isinstance(error, CertificateRejected):
            return f"check {self._address}, and that nothing in between cuts TLS"
        match error.fault:
            case CertificateFault.OUT_OF_DATE:
                now = time.time()
                if not is_clock_set(now):
                    return "set the clock of this machine: timedatectl set-ntp true"
                today = datetime.fromtimestamp(now, UTC)
                return (
                    f"renew the certificate of the server, or set the clock of this machine, which"
                    f" says {today:%Y-%m-%d %H:%M} UTC"
                )
            case CertificateFault.WRONG_NAME:
                return f"use the name that the certificate has: {self._address}"
            case CertificateFault.UNTRUSTED:
                option = self._server.trust_option
                return (
                    f"trust the authority that issued it: {option}, if it is the one that you know"
                )

    @property
    def _address(self) -> str:
        return self._server.address_option or self._endpoint.host


class _AnyResponse:
    """Takes any response of HTTP."""

    def __init__(self, authority: str) -> None:
        self._authority = authority
        self._reader = ResponseReader("GET")

    def feed(self, data: bytes) -> Response | None:
        """Take the next bytes; return the response when it is complete."""
        try:
            return self._reader.feed(data)
        except RemoteProtocolError as error:
            raise HandshakeFailed(f"{self._authority} does not speak HTTP: {error}") from None

    def finish(self, cause: str) -> NoReturn:
        """Say that there was no response, because of ``cause``."""
        raise HandshakeFailed(f"{self._authority} did not answer to HTTP: {cause}")


async def _timed(action: Awaitable[T]) -> tuple[str, T]:
    """Return how long something took, for people, and its result."""
    began = time.monotonic()
    result = await action
    return f"{(time.monotonic() - began) * 1000:.0f} ms", result


def _skew(response: Response) -> float | None:
    """Return by how many seconds the server's clock is ahead, ``None`` if it does not tell."""
    try:
        return parsedate_to_datetime("".join(response.values("date"))).timestamp() - time.time()
    except (ValueError, TypeError):
        return None
