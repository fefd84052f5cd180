"""A socket that reaches the service through a web proxy."""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import replace
from typing import Final, TypeVar

from ...common.network_errors import network_error_text
from ...errors import ConnectFailed, LinkError, NameResolutionFailed, ProxyRefused, TLSFailed
from ..endpoint import ServiceEndpoint, user_agent
from ..http.connect_method import ConnectReply, build_connect
from ..tcp import connect_any, resolve
from ..tls.context import build_trust
from ..tls.transport import UpgradeTap, start_tls
from .settings import WebProxy
from .socks import check_socks, open_socks
from .tls_in_tls import Bridge

__all__ = ["open_through_proxy"]

logger = logging.getLogger(__name__)

_READ_SIZE: Final = 4096

E = TypeVar("E", bound=LinkError)


async def open_through_proxy(endpoint: ServiceEndpoint, proxy: WebProxy) -> socket.socket:
    """Return a connected, non-blocking socket on which TLS with the service can begin.

    Name resolution, TCP, TLS with the proxy and the proxy's answer may take
    ``endpoint.connect_timeout`` seconds each.

    Raises:
        NameResolutionFailed, ConnectFailed, TLSFailed: on the way to the proxy, which the text
            names; or the service has no address, and it is for us to resolve its name.
        ProxyRefused: the proxy gave no way to the service.
        ConfigurationError: SOCKS5 without the extra ``[socks]``, or with what does not fit.
    """
    if proxy.scheme == "https":
        return await _through_tls(endpoint, proxy)
    if proxy.scheme == "http":
        sock = await _reach(endpoint, proxy)
        try:
            await _ask(sock, endpoint, proxy)
        except BaseException:
            sock.close()
            raise
        return sock
    return await _through_socks(endpoint, proxy)


async def _reach(endpoint: ServiceEndpoint, proxy: WebProxy) -> socket.socket:
    """Return a socket that is connected to the proxy."""
    try:
        endpoints = await resolve(proxy.host, proxy.port, endpoint.connect_timeout)
    except NameResolutionFailed as error:
        raise _met_at(proxy, error) from None
    where = f"web proxy {proxy.place}"
    return await connect_any(endpoints, where, endpoint.connect_timeout)


async def _ask(
    sock: socket.socket, endpoint: ServiceEndpoint, proxy: WebProxy, bridge: Bridge | None = None
) -> None:
    """Do CONNECT on a socket that leads to the proxy."""
    loop = asyncio.get_running_loop()
    reply = ConnectReply(endpoint, proxy)
    try:
        async with asyncio.timeout(endpoint.connect_timeout):
            await loop.sock_sendall(sock, build_connect(endpoint, proxy, user_agent()))
            while data := await loop.sock_recv(sock, _READ_SIZE):
                if reply.feed(data):
                    logger.debug("%s opened the way to %s", proxy.place, endpoint.authority)
                    return
        error = bridge.error if bridge is not None else None
    except TimeoutError:
        reply.finish(f"no answer within {endpoint.connect_timeout:g} s")
    except OSError as lost:
        error = lost
    if error is None:
        reply.finish("the connection was closed")
    reply.finish(f"the connection was lost: {network_error_text(error)}")


async def _through_tls(endpoint: ServiceEndpoint, proxy: WebProxy) -> socket.socket:
    trust = build_trust(endpoint.tls)
    sock = await _reach(endpoint, proxy)
    tap = UpgradeTap()
    place = replace(endpoint, host=proxy.host, port=proxy.port, web_proxy=None)
    try:
        transport = await start_tls(sock, place, trust, tap)
    except TLSFailed as error:
        raise _met_at(proxy, error) from None
    bridge = Bridge(transport)
    try:
        inner = await bridge.open(tap)
    except OSError as error:
        bridge.abort()
        raise ConnectFailed(
            f"web proxy {proxy.place}: no local socket: {network_error_text(error)}"
        ) from None
    except BaseException:
        bridge.abort()
        raise
    try:
        await _ask(inner, endpoint, proxy, bridge)
    except BaseException as error:
        inner.close()
        bridge.abort()
        if isinstance(error, ProxyRefused):
            await bridge.wait_closed()
        raise
    return inner


async def _through_socks(endpoint: ServiceEndpoint, proxy: WebProxy) -> socket.socket:
    check_socks(proxy)
    hosts = [endpoint.host]
    if proxy.scheme == "socks5":
        endpoints = await resolve(endpoint.host, endpoint.port, endpoint.connect_timeout)
        hosts = [each.address[0] for each in endpoints]
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


def _met_at(proxy: WebProxy, error: E) -> E:
    """Say in an error at which proxy it was met."""
    error.args = (f"web proxy {proxy.place}: {error}",)
    return error
