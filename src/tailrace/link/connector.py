"""Opens a link: every step bounded, every failure named, over either back end.

The steps, each with ``connect_timeout`` seconds: TCP to the service or its web proxy, the way
through the proxy, TLS, upgrade. A failed or cancelled attempt leaves nothing open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Final, TypeAlias, cast

from ..common.installing import how_to_install
from ..errors import ConfigurationError
from .base_link import BaseLink
from .endpoint import ServiceEndpoint
from .exchange import Exchange
from .interface import Link, LinkHandler
from .proxy.through_proxy import open_through_proxy
from .tcp import open_socket
from .tls.context import build_trust
from .tls.transport import start_tls

__all__ = ["BACKENDS", "connect"]

BACKENDS: Final = {"picows": ".picows_link", "websockets": ".websockets_link"}
"""Packages that can carry a link -> our module; ``auto`` takes the first that is installed."""

_Opener: TypeAlias = Callable[[Exchange, ServiceEndpoint, LinkHandler], Awaitable[BaseLink]]


async def connect(endpoint: ServiceEndpoint, handler: LinkHandler, backend: str = "auto") -> Link:
    """Open a link to the service.

    The handler is not called before this returns; :mod:`tailrace.link.base_link` tells the exact
    order.

    Args:
        backend: ``picows``, ``websockets``, or ``auto`` for the best one installed.

    Raises:
        NameResolutionFailed, ConnectFailed, TLSFailed, HandshakeFailed: the step of that name.
        ProxyRefused: the web proxy did not connect to the service.
        ServiceUnavailable, NotTunnelingService, AccessRefused: the response to the upgrade.
        ConfigurationError: the back end is not installed, the endpoint's certificates cannot be
            read, or the web proxy cannot be used as it is configured.
    """
    open_link = _load(backend)
    # Reading the system's certificates takes tens of milliseconds that others may need.
    trust = await asyncio.to_thread(build_trust, endpoint.tls)
    if endpoint.web_proxy is None:
        sock = await open_socket(endpoint.host, endpoint.port, endpoint.connect_timeout)
    else:
        sock = await open_through_proxy(endpoint, endpoint.web_proxy)
    exchange = Exchange()
    await start_tls(sock, endpoint, trust, exchange)
    link = await open_link(exchange, endpoint, handler)
    asyncio.get_running_loop().call_soon(link.begin, exchange)
    return link


def _load(backend: str) -> _Opener:
    if backend == "auto":
        for name in BACKENDS:
            try:
                return _opener(name)
            except ImportError:
                continue
        raise ConfigurationError(
            f"no WebSocket package is installed; install {_either()}:"
            f" {how_to_install('websockets')}"
        )
    if backend not in BACKENDS:
        raise ConfigurationError(f"link back end {backend!r} is unknown; there are {_either()}")
    try:
        return _opener(backend)
    except ImportError:
        raise ConfigurationError(
            f"link back end {backend!r} needs the package {backend}: {how_to_install(backend)}"
        ) from None


def _opener(name: str) -> _Opener:
    return cast(_Opener, import_module(BACKENDS[name], __package__).open_link)


def _either() -> str:
    return " or ".join(BACKENDS)
