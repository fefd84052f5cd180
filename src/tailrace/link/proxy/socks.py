"""SOCKS5 (RFC 1928) on a connected socket, through the package python-socks, which is optional."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, Final, cast

from ...common.installing import how_to_install_extra
from ...common.network_errors import network_error_text
from ...errors import ConfigurationError, ProxyRefused
from ..endpoint import NetworkEndpoint
from ..http.connect_method import password_advice, permission_advice
from .settings import WebProxy

if TYPE_CHECKING:
    from python_socks import ProxyError
    from python_socks.async_.asyncio import Proxy

__all__ = ["check_socks", "open_socks"]

# Replies after which another try may do better (RFC 1928 section 6).
_GENERAL_FAILURE, _NETWORK_UNREACHABLE, _HOST_UNREACHABLE = 1, 3, 4
_CONNECTION_REFUSED, _TTL_EXPIRED = 5, 6
_PASSING: Final = {
    _GENERAL_FAILURE,
    _NETWORK_UNREACHABLE,
    _HOST_UNREACHABLE,
    _CONNECTION_REFUSED,
    _TTL_EXPIRED,
}


def check_socks(proxy: WebProxy) -> None:
    """Find out before anything is sent whether a SOCKS5 proxy can be used at all.

    Raises:
        ConfigurationError: the package is missing, or something does not fit into SOCKS5.
    """
    who = f"web proxy {proxy.place}"
    try:
        import python_socks.async_.asyncio  # noqa: F401
    except ImportError:
        raise ConfigurationError(
            f"{who} needs the package python-socks: {how_to_install_extra('socks')}"
        ) from None
    if proxy.username:
        if not f"{proxy.username}{proxy.password.reveal()}".isascii():
            raise ConfigurationError(f"{who}: user and password must be ASCII for SOCKS5")
        if not proxy.password:
            raise ConfigurationError(f"{who}: a password must not be empty for SOCKS5 (RFC 1929)")


async def open_socks(
    sock: socket.socket, endpoint: NetworkEndpoint, proxy: WebProxy, host: str
) -> None:
    """Ask the proxy at the other end of ``sock`` to connect to the service.

    ``host`` is the service's name, or one of its addresses. The socket is closed when this
    raises.

    Raises:
        ProxyRefused: the proxy did not connect in the time that the endpoint allows.
    """
    from python_socks import ProxyError, ProxyTimeoutError, ProxyType
    from python_socks.async_.asyncio import Proxy

    dialer = Proxy(
        ProxyType.SOCKS5,
        proxy.host,
        proxy.port,
        username=proxy.username or None,
        password=proxy.password.reveal() or None,
        rdns=True,  # host is an address already if its name was to be resolved here
        forward=cast("Proxy", _Connected(sock)),
        loop=asyncio.get_running_loop(),
    )
    try:
        await dialer.connect(host, endpoint.port, timeout=endpoint.connect_timeout)
    except ProxyTimeoutError:
        late = _failure(endpoint, proxy, f"no answer within {endpoint.connect_timeout:g} s")
        late.setting = "connect_timeout"
        raise late from None
    except ProxyError as error:
        raise _refusal(endpoint, proxy, error) from None
    except OSError as error:
        text = f"the connection was lost: {network_error_text(error)}"
        raise _failure(endpoint, proxy, text) from None
    except ValueError:
        raise _failure(endpoint, proxy, "the answer is not SOCKS5") from None


class _Connected:
    """Given to python-socks as the proxy before the proxy: returns the connected socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def connect(self, *_: Any, **__: Any) -> socket.socket:
        return self._sock


def _failure(endpoint: NetworkEndpoint, proxy: WebProxy, text: str) -> ProxyRefused:
    return ProxyRefused(f"web proxy {proxy.place} did not connect to {endpoint.authority}: {text}")


def _refusal(endpoint: NetworkEndpoint, proxy: WebProxy, error: ProxyError) -> ProxyRefused:
    if not hasattr(error.__cause__, "error_code"):  # the proxy sent no reply
        return _failure(endpoint, proxy, "the connection was closed")
    said = str(error)
    text = f"web proxy {proxy.place} refused to connect to {endpoint.authority}: {said}"
    if error.error_code in _PASSING:
        return ProxyRefused(text)
    # A password that is tried again and again may get its account locked.
    if "authentication" in said.lower():
        remedy = password_advice(proxy)
    elif error.error_code is None:
        remedy = "is this a SOCKS5 proxy?"
    else:
        remedy = permission_advice(endpoint)
    return ProxyRefused(f"{text}; {remedy}", retryable=False)
