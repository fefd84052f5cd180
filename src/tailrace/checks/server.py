"""The way to one server, step by step: name, TCP, web proxy, TLS, and what it answers to HTTP.

Each step is made of what connections are made of, so that it fails as they would. Nothing is
shown to the server but, where there is one, the certificate of this machine.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
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
from ..link.endpoint import NetworkEndpoint, TLSOptions, user_agent
from ..link.exchange import Accepted, Exchange, ResponseParser
from ..link.http.response import Response, ResponseReader
from ..link.proxy.settings import WebProxy, web_proxy_for
from ..link.tcp import SocketAddress, connect_any, resolve
from ..link.tls.context import build_trust
from ..link.tls.transport import start_tls
from ..link.tls.x509_names import (
    end_of_validity,
    leaf_certificate,
    presented_certificates,
)
from .findings import Finding, failed, ok, skipped, warning
from .runner import Check

__all__ = [
    "AnyResponse",
    "Server",
    "clock_advice",
    "http_check",
    "path_checks",
    "server_at",
]

_SOON: Final = timedelta(days=14)
"""Time before a server's certificate expires in which that is worth a warning."""
_MAX_SKEW: Final = 300.0
"""Seconds by which two clocks may differ."""
_SHOWN_ADDRESSES: Final = 16
_SLOW: Final = 2.0
"""Seconds from which on a name server makes people wait."""
_PATIENCE: Final = 3.0
"""Seconds for the other addresses once one has accepted a connection."""
_SILENCE: Final = f"no answer within {_PATIENCE:g} s"
_AUTHORITIES_OF_AWS: Final = ("Amazon", "Starfield", "DigiCert")
"""Whose certificates AWS has had."""

T = TypeVar("T")
A = TypeVar("A", bound=Accepted)


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

    async def ask(
        self,
        request: bytes,
        parser: ResponseParser[A],
        look: Callable[[asyncio.Transport], object] = lambda transport: None,
    ) -> A:
        """Return what a server responds to one request over TLS.

        ``look`` is called with the connection before that.

        Raises:
            LinkError: it does not, or the parser refuses it; the class says which step has failed.
            ConfigurationError: certificates or the web proxy cannot be used.
        """
        trust = await asyncio.to_thread(build_trust, self.endpoint.tls)
        exchange, ending = Exchange(), _Ending()
        transport = await start_tls(await self.connect(()), self.endpoint, trust, exchange)
        look(transport)
        response = await exchange.run(request, parser, self.endpoint.connect_timeout)
        if not exchange.hand_over(ending).lost:
            await ending.end(transport)
        return response

    async def connect(self, addresses: Sequence[SocketAddress]) -> socket.socket:
        """Return a TCP connection, through the web proxy if there is one.

        ``addresses`` are those of the server; empty: they are looked up.
        """
        endpoint = self.endpoint
        if self.web_proxy is not None:
            from ..link.proxy.through_proxy import open_through_proxy

            return await open_through_proxy(endpoint, self.web_proxy)
        timeout = endpoint.connect_timeout
        found = addresses or await resolve(endpoint.host, endpoint.port, timeout)
        return await connect_any(found, endpoint.authority, timeout)


def server_at(
    label: str,
    host: str,
    port: int,
    environment: Mapping[str, str],
    *,
    ca: Path | None = None,
    timeout: float = 10.0,
    address_option: str = "",
    trust_option: str = "",
) -> Server:
    """Return a server with TLS, and the web proxy that the environment names for it.

    Raises:
        ConfigurationError: host, port or the web proxy is none.
    """
    tls = TLSOptions(capath=ca)
    return Server(
        label,
        NetworkEndpoint(host=host, port=port, tls=tls, connect_timeout=timeout),
        web_proxy=web_proxy_for(host, port, environment),
        address_option=address_option,
        trust_option=trust_option,
    )


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
            return failed(str(error), fix, cause=error)
        hosts = [str(each.address[0]) for each in self._addresses]
        more = f" and {len(hosts) - _SHOWN_ADDRESSES} more" if len(hosts) > _SHOWN_ADDRESSES else ""
        shown = ", ".join(hosts[:_SHOWN_ADDRESSES])
        if hosts == [endpoint.host]:
            return ok(f"{shown} is an address")
        text = f"{endpoint.host} is {shown}{more} ({_ms(took)})"
        if took > _SLOW:
            return warning(text, "the name server is slow: look at /etc/resolv.conf")
        return ok(text)

    async def check_tcp(self) -> Finding:
        endpoint = self._endpoint
        try:
            took, sock = await _timed(self._server.connect(self._addresses))
        except ConnectFailed as error:
            fix = (
                f"check {self._address}, and that the network lets this machine out to port"
                f" {endpoint.port}"
            )
            return failed(str(error), fix, cause=error)
        with sock:
            peer = sock.getpeername()
        others = [each for each in self._addresses if each.address[0] != peer[0]]
        outcomes = await asyncio.gather(*map(self._try, others))
        text = "; ".join([f"connected to {peer[0]} port {peer[1]} ({_ms(took)})", *outcomes])
        silent = [each for each, what in zip(others, outcomes, strict=True) if _SILENCE in what]
        if not silent:
            return ok(text)
        if all(each.family == socket.AF_INET6 for each in silent):
            return warning(text, "IPv6 leads nowhere from here: repair it, or switch it off")
        return warning(text, "let this machine out to these addresses, too, or take them off DNS")

    async def _try(self, address: SocketAddress) -> str:
        """Return what comes of connecting to one of several addresses."""
        name = self._endpoint.authority
        host = address.address[0]
        try:
            async with asyncio.timeout(_PATIENCE):
                took, sock = await _timed(connect_any([address], name, 2 * _PATIENCE))
        except TimeoutError:
            return f"{host}: {_SILENCE}"
        except ConnectFailed as error:
            return f"{host}: {str(error).rpartition(': ')[2]}"
        sock.close()
        return f"{host} ({_ms(took)})"

    async def check_no_web_proxy(self) -> Finding:
        if not self._server.is_encrypted:
            return skipped("none: they are used for TLS only")
        return skipped("none: https_proxy is not set, or no_proxy excepts the host")

    async def check_web_proxy(self) -> Finding:
        proxy = self._server.web_proxy
        assert proxy is not None
        try:
            took, sock = await _timed(self._server.connect(()))
        except ProxyRefused as error:
            fix = "let the proxy connect there, or set no_proxy for the host"
            return failed(str(error), fix, cause=error)
        except LinkError as error:
            return failed(str(error), "check https_proxy", cause=error)
        sock.close()
        return ok(f"{proxy.place} connects to {self._endpoint.authority} ({_ms(took)})")

    async def check_tls(self) -> Finding:
        trust = await asyncio.to_thread(build_trust, self._endpoint.tls)
        ending = _Ending()
        try:
            sock = await self._server.connect(self._addresses)
            took, transport = await _timed(start_tls(sock, self._endpoint, trust, ending))
        except TLSFailed as error:
            return failed(str(error), self._tls_fix(error), cause=error)
        tls = transport.get_extra_info("ssl_object")
        version, cipher = tls.version(), tls.cipher()[0]
        leaf, chain = leaf_certificate(tls), presented_certificates(tls)
        await ending.end(transport)
        text = f"{version}, {cipher} ({_ms(took)})"
        if chain:
            text += f"; {' < '.join(chain)}"
        text += f"; verified by {trust.description}"
        end = None if leaf is None else end_of_validity(leaf)
        if end is not None:
            text += f", good until {end:%Y-%m-%d}"
        stranger = self._endpoint.is_aws and bool(chain)
        if stranger and not any(each in chain[-1] for each in _AUTHORITIES_OF_AWS):
            return warning(
                text,
                "TLS is inspected on the way: who does it sees tokens and all that is not encrypted"
                " in itself; have this host excepted, or see docs/guides/intermediaries.md",
            )
        if end is not None and end - datetime.now(UTC) < _SOON:
            return warning(text, "renew the certificate of the server")
        return ok(text)

    async def check_answer(self, path: str) -> Finding:
        endpoint = self._endpoint
        request = (
            f"GET {path} HTTP/1.1\r\nHost: {endpoint.authority}\r\n"
            f"User-Agent: {user_agent()}\r\nConnection: close\r\n\r\n"
        )
        took, response = await _timed(
            self._server.ask(request.encode(), AnyResponse(endpoint.authority))
        )
        reason = cut(response.shown_reason(()), 60)
        text = f"HTTP {response.status} {reason}".rstrip() + f" ({_ms(took)}); no token was used"
        skew = clock_advice(response)
        return warning(f"{text}; {skew[0]}", skew[1]) if skew else ok(text)

    # -- parts --------------------------------------------------------------------------------

    def _tls_fix(self, error: TLSFailed) -> str:
        if not isinstance(error, CertificateRejected):
            if error.setting:  # it is a matter of time
                return (
                    f"check {self._address}, and that nothing in between drops large packets:"
                    " a lower MTU shows"
                )
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


class _Ending(asyncio.Protocol):
    """The last protocol of a connection, which is not needed any more."""

    def __init__(self) -> None:
        self._lost = asyncio.Event()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._lost.set()

    async def end(self, transport: asyncio.Transport) -> None:
        """End the connection, without waiting for the other side."""
        transport.abort()
        await self._lost.wait()


class AnyResponse:
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


async def _timed(action: Awaitable[T]) -> tuple[float, T]:
    """Return how many seconds something took, and its result."""
    began = time.monotonic()
    result = await action
    return time.monotonic() - began, result


def clock_advice(response: Response) -> tuple[str, str] | None:
    """Return that our clock and the server's differ, and what to do; ``None`` if they do not."""
    try:
        date = parsedate_to_datetime("".join(response.values("date"))).timestamp()
    except (ValueError, TypeError):
        return None
    skew = date - time.time()
    if abs(skew) <= _MAX_SKEW:
        return None
    way = "behind" if skew > 0 else "ahead of"
    return (
        f"the clock of this machine is {abs(skew) / 60:.0f} min {way} the server's",
        "set the clock, and have it kept: timedatectl set-ntp true",
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
