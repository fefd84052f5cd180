"""A connected TCP socket to the service, whichever of its addresses answers first."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, Final

from ..common.addresses import format_host_port
from ..common.network_errors import network_error_text
from ..errors import ConnectFailed, NameResolutionFailed
from .endpoint import ServiceEndpoint

__all__ = ["SocketAddress", "connect_any", "open_socket", "resolve"]

logger = logging.getLogger(__name__)

STAGGER: Final = 0.25
"""Seconds before the next address is tried beside one that has not answered (RFC 8305)."""

NOTSENT_LOWAT: Final = 128 * 1024
"""Bytes that may wait unsent in the kernel; more would only delay what comes after them."""


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """One address to connect to."""

    family: socket.AddressFamily
    address: tuple[Any, ...]

    def __str__(self) -> str:
        return format_host_port(*self.address[:2])


async def open_socket(endpoint: ServiceEndpoint) -> socket.socket:
    """Return a connected, non-blocking socket on which TLS with the service can begin.

    Raises:
        NameResolutionFailed: the host has no address, or nobody told it in time.
        ConnectFailed: no address accepted a connection in time.
        ProxyRefused, TLSFailed, ConfigurationError: the endpoint has a web proxy; see
            :func:`tailrace.link.proxy.through_proxy.open_through_proxy`.
    """
    if endpoint.web_proxy is not None:
        from .proxy.through_proxy import open_through_proxy  # which dials, too

        return await open_through_proxy(endpoint, endpoint.web_proxy)
    endpoints = await resolve(endpoint.host, endpoint.port, endpoint.connect_timeout)
    return await connect_any(endpoints, endpoint.authority, endpoint.connect_timeout)


async def resolve(host: str, port: int, timeout: float) -> list[SocketAddress]:
    """Return the addresses of a host, families taking turns, the system's order otherwise.

    Raises:
        NameResolutionFailed: there is none, or ``timeout`` seconds were not enough.
    """
    with contextlib.suppress(OSError, UnicodeError):
        return _endpoints(_lookup(host, port, socket.AI_NUMERICHOST))
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[SocketAddress]] = loop.create_future()

    def look_up() -> None:
        try:
            found: list[SocketAddress] | Exception = _endpoints(_lookup(host, port))
        except (OSError, UnicodeError) as error:
            found = error
        with contextlib.suppress(RuntimeError):  # the loop may have ended meanwhile
            loop.call_soon_threadsafe(_settle, answer, found)

    # Not the loop's executor: that one is waited for at exit, and a name server that does
    # not answer would hold up the end of the program.
    threading.Thread(target=look_up, name=f"resolve {host}", daemon=True).start()
    try:
        async with asyncio.timeout(timeout):
            endpoints = await answer
    except TimeoutError:
        raise NameResolutionFailed(
            f"cannot resolve {host}: no answer within {timeout:g} s"
        ) from None
    except (OSError, UnicodeError) as error:
        raise NameResolutionFailed(f"cannot resolve {host}: {network_error_text(error)}") from None
    if not endpoints:
        raise NameResolutionFailed(f"cannot resolve {host}: it has no address")
    return endpoints


async def connect_any(
    endpoints: Sequence[SocketAddress], where: str, timeout: float
) -> socket.socket:
    """Connect to the first endpoint that accepts, starting the tries a moment apart.

    Args:
        endpoints: where to, best first.
        where: what they are addresses of, for the error text.
        timeout: seconds for all of it.

    Raises:
        ConnectFailed: none accepted; the text tells what each of them said.
    """
    said: dict[SocketAddress, str] = {}
    try:
        async with asyncio.timeout(timeout):
            winner = await _race(endpoints, said)
    except TimeoutError:
        winner = None
    if winner is not None:
        return winner
    silence = f"no answer within {timeout:g} s"
    answers = "; ".join(f"{each}: {said.get(each, silence)}" for each in endpoints)
    raise ConnectFailed(f"cannot connect to {where}: {answers}")


async def _race(
    endpoints: Sequence[SocketAddress], said: dict[SocketAddress, str]
) -> socket.socket | None:
    loop = asyncio.get_running_loop()
    waiting = list(endpoints)
    running: dict[asyncio.Task[socket.socket], SocketAddress] = {}
    winner: socket.socket | None = None
    try:
        while winner is None and (waiting or running):
            if waiting:
                endpoint = waiting.pop(0)
                running[loop.create_task(_connect(endpoint))] = endpoint
            done, _ = await asyncio.wait(
                running,
                timeout=STAGGER if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                error = task.exception()
                if error is not None:
                    endpoint = running.pop(task)
                    said[endpoint] = network_error_text(error)
                    logger.debug("%s: %s", endpoint, said[endpoint])
                elif winner is None:
                    del running[task]
                    winner = task.result()
    finally:
        for task in running:
            task.cancel()
            task.add_done_callback(_close_loser)
    return winner


def _close_loser(task: asyncio.Task[socket.socket]) -> None:
    """Close what a try that nobody waits for has reached, or forget what it met."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _connect(endpoint: SocketAddress) -> socket.socket:
    sock = socket.socket(endpoint.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)
        await asyncio.get_running_loop().sock_connect(sock, endpoint.address)
    except BaseException:
        sock.close()
        raise
    return sock


def _lookup(host: str, port: int, flags: int = 0) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)


def _endpoints(infos: Sequence[Any]) -> list[SocketAddress]:
    """Let the address families take turns (RFC 8305 section 4), without duplicates."""
    families: dict[int, list[SocketAddress]] = {}
    for family, _, _, _, address in infos:
        families.setdefault(family, []).append(SocketAddress(family, address))
    turns = chain.from_iterable(zip_longest(*families.values()))
    return list(dict.fromkeys(each for each in turns if each is not None))


def _settle(
    answer: asyncio.Future[list[SocketAddress]], found: list[SocketAddress] | Exception
) -> None:
    if answer.done():
        return  # nobody waits any longer
    if isinstance(found, Exception):
        answer.set_exception(found)
    else:
        answer.set_result(found)
