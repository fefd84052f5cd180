"""Reach the application a destination forwards to.

Most applications are on the destination's own machine and named by their address. Those have
accepted a connection by the time that connect(2) returns, or refused it. So :func:`begin` asks
at once, without a task and without a turn of the loop, and :func:`dial` does what takes time: it
waits, resolves names, and tries again. Neither uses the loop's ``sock_connect()``, as uvloop
resolves addresses there, in a thread.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from ..common.addresses import (
    DEFAULT_APPLICATION_HOST,
    LocalAddress,
    UnixAddress,
    format_host_port,
)
from ..common.network_errors import network_error_text
from ..common.readiness import readiness_of
from ..errors import NameResolutionFailed
from ..link.tcp import resolve
from .allow_list import is_allowed
from .routes import Network, SocketFactory, is_within
from .settings import ProxySettings

__all__ = ["Attempt", "DialFailed", "begin", "dial"]

_NOT_ALLOWED: Final = "not in the allow-list"
_OUTSIDE: Final = "not in the networks that the rule of the service allows"

_UNDER_WAY: Final = frozenset({errno.EINPROGRESS, errno.EALREADY, errno.EWOULDBLOCK})

_SocketAddress = tuple[str, int]
_AddressInfo = tuple[socket.AddressFamily, _SocketAddress]


class Attempt(NamedTuple):
    """A socket that is being connected, or is; ``where`` is what to, for the log."""

    sock: socket.socket
    where: str
    is_connected: bool


class DialFailed(Exception):
    """The application could not be reached; internal to the room, ends as a reset.

    Its text names every address that was tried, for the log; ``cause`` none of them, for the peer.
    """

    def __init__(self, text: str, cause: str) -> None:
        super().__init__(text)
        self.cause = cause


def begin(
    address: LocalAddress | SocketFactory,
    settings: ProxySettings,
    networks: Sequence[Network] | None = None,
) -> Attempt | DialFailed | None:
    """Begin to connect to an application without waiting; the caller owns the socket.

    ``None`` where that cannot be. A failure is given to :func:`dial` like an attempt, as its first:
    the application may have accepted and reset the connection, and must not see another one.
    """
    if isinstance(address, SocketFactory) or not is_allowed(address, settings.allowed):
        return None
    try:
        if isinstance(address, UnixAddress):
            return _begin(socket.AF_UNIX, address.path, None)
        host, bound = address.host or DEFAULT_APPLICATION_HOST, settings.bind_address
        family = _family_of(host)
        if family and is_within(host, networks) and (not bound or _family_of(bound) is family):
            return _begin(family, (host, address.port), (bound, 0) if bound else None)
    except DialFailed as error:
        return error
    return None


async def dial(
    address: LocalAddress | SocketFactory,
    settings: ProxySettings,
    networks: Sequence[Network] | None = None,
    begun: Attempt | DialFailed | None = None,
) -> socket.socket:
    """Return a connected, non-blocking socket to ``address``, or from what makes one.

    With ``networks``, only to an IP address that one of them contains: a host name is judged by
    what it resolves to. The first attempt is ``begun``, if :func:`begin` has returned one for the
    same arguments.

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
            if begun is None or tries:
                return await _dial_once(address, settings, networks)
            if isinstance(begun, DialFailed):
                raise begun
            return await _finish(begun, settings.dial_timeout)
        except DialFailed:
            if tries == settings.dial_retry_count:
                raise
        tries += 1
        await asyncio.sleep(settings.dial_retry_delay)


async def _dial_once(
    address: LocalAddress, settings: ProxySettings, networks: Sequence[Network] | None
) -> socket.socket:
    if isinstance(address, UnixAddress):
        return await _finish(_begin(socket.AF_UNIX, address.path, None), settings.dial_timeout)
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
            return await _finish(_begin(family, target, source), settings.dial_timeout)
        except DialFailed as error:
            failures.append(error)
    causes = dict.fromkeys(failure.cause for failure in failures)
    raise DialFailed("; ".join(map(str, failures)), "; ".join(causes))


async def _resolve(host: str, port: int, timeout: float) -> Sequence[_AddressInfo]:
    family = _family_of(host)
    if family is not None:
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


def _family_of(host: str) -> socket.AddressFamily | None:
    """Return the family of an IP address, perhaps with a scope; ``None`` for a name."""
    for family, literal in ((socket.AF_INET, host), (socket.AF_INET6, host.partition("%")[0])):
        with suppress(OSError, ValueError):
            socket.inet_pton(family, literal)
            return family
    return None


def _begin(
    family: socket.AddressFamily, target: str | _SocketAddress, source: _SocketAddress | None
) -> Attempt:
    where = target if isinstance(target, str) else format_host_port(*target)
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        text = network_error_text(error)
        hint = "; raise the limit of open files (ulimit -n)" if error.errno == errno.EMFILE else ""
        raise DialFailed(f"{where} -- {text}{hint}", text) from None
    try:
        sock.setblocking(False)
        if source is not None:
            sock.bind(source)
        error_number = sock.connect_ex(target)
        if error_number == errno.EINPROGRESS and sys.platform == "linux":
            # What is on the same machine has answered meanwhile. Other systems than Linux do not
            # tell by another call.
            error_number = sock.connect_ex(target)
    except OSError as error:
        sock.close()
        raise _failed(where, error) from None
    # A unix socket is never under way: it has refused for now, as too many wait to be accepted.
    is_under_way = error_number in _UNDER_WAY and not isinstance(target, str)
    if error_number not in (0, errno.EISCONN) and not is_under_way:
        sock.close()
        raise _failed(where, OSError(error_number, ""))
    return Attempt(sock, where, not is_under_way)


async def _finish(attempt: Attempt, timeout: float) -> socket.socket:
    """Return the socket of an attempt once it is connected."""
    sock, where, is_connected = attempt
    try:
        if not is_connected:
            async with asyncio.timeout(timeout):
                await _answer(sock)
    except TimeoutError:
        sock.close()
        text = f"no answer within {timeout:g} s"
        raise DialFailed(f"{where} -- {text}", text) from None
    except OSError as error:
        sock.close()
        raise _failed(where, error) from None
    except BaseException:
        sock.close()
        raise
    return sock


async def _answer(sock: socket.socket) -> None:
    """Wait until a socket is connected, or raise why it is not."""
    readiness = readiness_of(asyncio.get_running_loop())
    answered = asyncio.Event()
    readiness.add_writer(sock.fileno(), answered.set)
    try:
        await answered.wait()
    finally:
        readiness.remove_writer(sock.fileno())
    error_number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error_number:
        raise OSError(error_number, "")


def _failed(where: str, error: OSError) -> DialFailed:
    text = network_error_text(error)
    cause = "refused" if error.errno == errno.ECONNREFUSED else text
    return DialFailed(f"{where} -- {text}", cause)
