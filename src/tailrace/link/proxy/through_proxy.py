"""A socket connected to the service through a web proxy."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

from ...common.network_errors import network_error_text
from ...errors import ConnectFailed, LinkError, NameResolutionFailed, ProxyRefused, TLSFailed
from ..endpoint import NetworkEndpoint, TLSOptions, user_agent
from ..exchange import Exchange, run_exchange
from ..http.connect_method import ConnectParser, build_connect
from ..http.response import Response
from ..tcp import open_socket, resolve
from ..tls.context import build_trust
from ..tls.transport import start_tls
from .settings import WebProxy
from .socks import check_socks, open_socks
from .tls_in_tls import Bridge

__all__ = ["open_through_proxy"]

logger = logging.getLogger(__name__)

_READ_SIZE: Final = 4096

E = TypeVar("E", bound=LinkError)


async def open_through_proxy(endpoint: NetworkEndpoint, proxy: WebProxy) -> socket.socket:
    """Return a connected, non-blocking socket on which TLS with the service can begin.

    Name resolution, TCP, TLS with the proxy and the proxy's response may take
    ``endpoint.connect_timeout`` seconds each.

    Raises:
        NameResolutionFailed, ConnectFailed, TLSFailed: on the way to the proxy, which the text
            names; or the service has no address, and its name has to be resolved here.
        ProxyRefused: the proxy did not connect to the service.
        ConfigurationError: SOCKS5 without the extra ``[socks]``, or with what does not fit.
    """
    match proxy.scheme:
        case "http":
            return await _through_http(endpoint, proxy)
        case "https":
            return await _through_https(endpoint, proxy)
        case _:
            return await _through_socks(endpoint, proxy)


async def _through_http(endpoint: NetworkEndpoint, proxy: WebProxy) -> socket.socket:
    sock = await _reach(endpoint, proxy)
    loop = asyncio.get_running_loop()
    send, receive = partial(loop.sock_sendall, sock), partial(loop.sock_recv, sock, _READ_SIZE)
    try:
        await _connect(partial(run_exchange, send, receive), endpoint, proxy)
    except BaseException:
        sock.close()
        raise
    return sock


async def _through_https(endpoint: NetworkEndpoint, proxy: WebProxy) -> socket.socket:
    tls = TLSOptions(endpoint.tls.authorities or endpoint.tls.capath, endpoint.tls.verify)
    trust = build_trust(tls)
    sock = await _reach(endpoint, proxy)
    server = NetworkEndpoint(
        host=proxy.host, port=proxy.port, tls=tls, connect_timeout=endpoint.connect_timeout
    )
    exchange = Exchange()
    try:
        await start_tls(sock, server, trust, exchange)
    except TLSFailed as error:
        raise _met_at(proxy, error) from None
    await _connect(exchange.run, endpoint, proxy)
    try:
        return await Bridge(exchange).open()
    except OSError as error:
        raise ConnectFailed(
            f"web proxy {proxy.place}: no local socket: {network_error_text(error)}"
        ) from None


async def _through_socks(endpoint: NetworkEndpoint, proxy: WebProxy) -> socket.socket:
    check_socks(proxy)
    hosts = [endpoint.host]
    if proxy.scheme == "socks5":
        addresses = await resolve(endpoint.host, endpoint.port, endpoint.connect_timeout)
        hosts = [each.address[0] for each in addresses]
    while True:
        sock = await _reach(endpoint, proxy)
        try:
            await open_socks(sock, endpoint, proxy, hosts.pop(0))
            return sock
        except ProxyRefused as error:
            sock.close()
            if not hosts or not error.retryable:
                raise
            logger.debug("%s", error)
        except BaseException:
            sock.close()
            raise


async def _reach(endpoint: NetworkEndpoint, proxy: WebProxy) -> socket.socket:
    """Return a socket that is connected to the proxy."""
    name = f"web proxy {proxy.place}"
    try:
        return await open_socket(proxy.host, proxy.port, endpoint.connect_timeout, name)
    except NameResolutionFailed as error:
        raise _met_at(proxy, error) from None


async def _connect(
    run: Callable[[bytes, ConnectParser, float], Awaitable[Response]],
    endpoint: NetworkEndpoint,
    proxy: WebProxy,
) -> None:
    """Do CONNECT; ``run`` sends the request and returns the response."""
    request = build_connect(endpoint, proxy, user_agent())
    await run(request, ConnectParser(endpoint, proxy), endpoint.connect_timeout)
    logger.debug("%s connected to %s", proxy.place, endpoint.authority)


def _met_at(proxy: WebProxy, error: E) -> E:
    """Name the proxy in an error from the way to it."""
    error.args = (f"web proxy {proxy.place}: {error}",)
    return error
