"""Reach the application a destination forwards to."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
from collections.abc import Sequence
from typing import Final

from ..common.addresses import (
    DEFAULT_APPLICATION_HOST,
    LocalAddress,
    UnixAddress,
    format_host_port,
)
from ..errors import NameResolutionFailed
from ..link.tcp import resolve
from .allow_list import is_allowed
from .routes import Network, SocketFactory, is_within
from .settings import ProxySettings

__all__ = ["DialFailed", "dial"]

_NOT_ALLOWED: Final = "not in the allow-list"
_OUTSIDE: Final = "not in the networks that the rule of the service allows"

_SocketAddress = tuple[str, int]
_AddressInfo = tuple[socket.AddressFamily, _SocketAddress]


class DialFailed(Exception):
    """The application could not be reached; internal to the room, ends as a reset.

    Its text names every address that was tried, for the log; ``cause`` none of them, for the peer.
    """

    def __init__(self, text: str, cause: str) -> None:
        super().__init__(text)
        self.cause = cause


async def dial(
    address: LocalAddress | SocketFactory,
    settings: ProxySettings,
    networks: Sequence[Network] | None = None,
) -> socket.socket:
    """Return a connected, non-blocking socket to ``address``, or from what makes one.

    With ``networks``, only to an IP address that one of them contains: a host name is judged by
    what it resolves to.

    Every address of a host name is tried, each for at most ``settings.dial_timeout``
    seconds; all of them again ``settings.dial_retry_count`` times (-1: until one answers).

    Raises:
        DialFailed: none could be reached, or may be; the text says why, for the log.
    """
    if isinstance(address, SocketFactory):
        try:
            return await address.connect()
        except OSError as error:
            raise DialFailed(f"{address} -- {error}", error.strerror or str(error)) from None
    if not is_allowed(address, settings.allowed):
        raise DialFailed(f"{address} -- {_NOT_ALLOWED}", _NOT_ALLOWED)
    tries = 0
    while True:
        try:
            return await _dial_once(address, settings, networks)
        except DialFailed:
            if tries == settings.dial_retry_count:
                raise
        tries += 1
        await asyncio.sleep(settings.dial_retry_delay)


async def _dial_once(
    address: LocalAddress, settings: ProxySettings, networks: Sequence[Network] | None
) -> socket.socket:
    if isinstance(address, UnixAddress):
        return await _connect(socket.AF_UNIX, address.path, None, settings.dial_timeout)
    host = address.host or DEFAULT_APPLICATION_HOST
    infos = await _resolve(host, address.port, settings.dial_timeout)
    local = await _resolve_local(settings)
    failures: list[DialFailed] = []
    for family, target in infos:
        if not is_within(target[0], networks):
            failures.append(DialFailed(f"{target[0]}: {_OUTSIDE}", _OUTSIDE))
            continue
        source = next((a for f, a in local if f == family), None)
        if local and source is None:
            cause = "no local address of its family in the bind address"
            failures.append(DialFailed(f"{target[0]}: {cause}", cause))
            continue
        try:
            return await _connect(family, target, source, settings.dial_timeout)
        except DialFailed as error:
            failures.append(error)
    causes = dict.fromkeys(failure.cause for failure in failures)
    raise DialFailed("; ".join(map(str, failures)), "; ".join(causes))


async def _resolve(host: str, port: int, timeout: float) -> Sequence[_AddressInfo]:
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        family = socket.AF_INET if literal.version == 4 else socket.AF_INET6
        return [(family, (host, port))]
    try:
        # Not the loop's own getaddrinfo(): the end of the program would wait for its answer.
        found = await resolve(host, port, timeout)
    except NameResolutionFailed as error:
        raise DialFailed(f"{format_host_port(host, port)} -- {error}", str(error)) from None
    return [(each.family, (str(each.address[0]), port)) for each in found]


async def _resolve_local(settings: ProxySettings) -> Sequence[_AddressInfo]:
    if not settings.bind_address:
        return []
    return await _resolve(settings.bind_address, 0, settings.dial_timeout)


async def _connect(
    family: socket.AddressFamily,
    target: str | _SocketAddress,
    source: _SocketAddress | None,
    timeout: float,
) -> socket.socket:
    where = target if isinstance(target, str) else format_host_port(*target)
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        text = os.strerror(error.errno or 0)
        hint = "; raise the limit of open files (ulimit -n)" if error.errno == errno.EMFILE else ""
        raise DialFailed(f"{where} -- {text}{hint}", text) from None
    try:
        sock.setblocking(False)
        if source is not None:
            sock.bind(source)
        async with asyncio.timeout(timeout):
            await asyncio.get_running_loop().sock_connect(sock, target)
    except TimeoutError:
        sock.close()
        text = f"no answer within {timeout:g} s"
        raise DialFailed(f"{where} -- {text}", text) from None
    except OSError as error:
        sock.close()
        text = os.strerror(error.errno) if error.errno else str(error)
        cause = "refused" if error.errno == errno.ECONNREFUSED else text
        raise DialFailed(f"{where} -- {text}", cause) from None
    except BaseException:
        sock.close()
        raise
    return sock
