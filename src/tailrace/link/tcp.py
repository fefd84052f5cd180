"""A connected TCP socket: names resolved, addresses raced (Happy Eyeballs, RFC 8305).

A host may have addresses that do not work from here: IPv6 without a route, one server of several
that is down. Tried one after the other, each of them would cost a whole timeout. So the addresses
are raced. In the system's order (RFC 6724), the families taking turns (RFC 8305 section 4), the
next attempt starts as soon as the last one failed, or :data:`STAGGER` seconds after it began
(section 5). The first socket that connects wins, all other attempts are cancelled, and one that
connects at the same moment is closed. One deadline is for all attempts together.
"""

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

__all__ = ["SocketAddress", "connect_any", "open_socket", "resolve"]

logger = logging.getLogger(__name__)

STAGGER: Final = 0.25
"""Seconds after which the next address is tried beside the last one (RFC 8305 section 8)."""

NOTSENT_LOWAT: Final = 128 * 1024
"""Bytes that may wait unsent in the kernel; more would only delay what comes after them."""


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """One address to connect to."""

    family: socket.AddressFamily
    address: tuple[Any, ...]

    def __str__(self) -> str:
        return format_host_port(*self.address[:2])


async def open_socket(host: str, port: int, timeout: float, name: str = "") -> socket.socket:
    """Return a connected, non-blocking socket.

    Args:
        host: a name, or an address without brackets.
        timeout: seconds for the name resolution, and as many for TCP.
        name: of what is connected to, for the error text; "" is host and port.

    Raises:
        NameResolutionFailed: the host has no address, or the resolver did not answer in time.
        ConnectFailed: no address accepted a connection in time.
    """
    addresses = await resolve(host, port, timeout)
    return await connect_any(addresses, name or format_host_port(host, port), timeout)


async def resolve(host: str, port: int, timeout: float) -> list[SocketAddress]:
    """Return the addresses of a host, families taking turns, the system's order otherwise.

    Raises:
        NameResolutionFailed: there is none, or ``timeout`` seconds were not enough.
    """
    with contextlib.suppress(OSError, UnicodeError):
        return _in_turns(_look_up(host, port, socket.AI_NUMERICHOST))
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[SocketAddress]] = loop.create_future()

    def look_up() -> None:
        try:
            found: list[SocketAddress] | Exception = _in_turns(_look_up(host, port))
        except (OSError, UnicodeError) as error:
            found = error
        with contextlib.suppress(RuntimeError):  # the loop may be closed by this time
            loop.call_soon_threadsafe(_settle, answer, found)

    # A thread of its own, not one of the loop's executor: the end of the program waits for
    # those, and so would hang for as long as the name server does not answer.
    threading.Thread(target=look_up, name=f"resolve {host}", daemon=True).start()
    try:
        async with asyncio.timeout(timeout):
            addresses = await answer
    except TimeoutError:
        raise NameResolutionFailed(
            f"cannot resolve {host}: no answer within {timeout:g} s"
        ) from None
    except (OSError, UnicodeError) as error:
        raise NameResolutionFailed(f"cannot resolve {host}: {network_error_text(error)}") from None
    if not addresses:
        raise NameResolutionFailed(f"cannot resolve {host}: it has no address")
    return addresses


async def connect_any(
    addresses: Sequence[SocketAddress], name: str, timeout: float
) -> socket.socket:
    """Connect to the first address that accepts.

    Args:
        addresses: to try, best first.
        name: of what they belong to, for the error text.
        timeout: seconds for all attempts together.

    Raises:
        ConnectFailed: none accepted; the text has the outcome of each attempt.
    """
    failures: dict[SocketAddress, str] = {}
    try:
        async with asyncio.timeout(timeout):
            winner = await _race(addresses, failures)
    except TimeoutError:
        winner = None
    if winner is not None:
        return winner
    silence = f"no answer within {timeout:g} s"
    outcomes = "; ".join(f"{each}: {failures.get(each, silence)}" for each in addresses)
    raise ConnectFailed(f"cannot connect to {name}: {outcomes}")


async def _race(
    addresses: Sequence[SocketAddress], failures: dict[SocketAddress, str]
) -> socket.socket | None:
    """Return the first socket that connects, ``None`` if none does; note why attempts failed."""
    loop = asyncio.get_running_loop()
    waiting = list(addresses)
    running: dict[asyncio.Task[socket.socket], SocketAddress] = {}
    winner: socket.socket | None = None
    try:
        while winner is None and (waiting or running):
            # 1. Start the next attempt: the first, or after a failure or STAGGER seconds.
            if waiting:
                address = waiting.pop(0)
                running[loop.create_task(_connect(address))] = address
            # 2. Wait for an outcome, but while there are more addresses only so long.
            done, _ = await asyncio.wait(
                running,
                timeout=STAGGER if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            # 3. Note failures, keep one winner; a second one stays in ``running``.
            for task in done:
                error = task.exception()
                if error is not None:
                    address = running.pop(task)
                    failures[address] = network_error_text(error)
                    logger.debug("%s: %s", address, failures[address])
                elif winner is None:
                    del running[task]
                    winner = task.result()
    finally:
        # 4. Also when cancelled: nothing of the others stays open.
        for task in running:
            task.cancel()
            task.add_done_callback(_close_loser)
    return winner


def _close_loser(task: asyncio.Task[socket.socket]) -> None:
    """Close the socket of an attempt that lost; retrieve its exception if it failed."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _connect(address: SocketAddress) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)
        await asyncio.get_running_loop().sock_connect(sock, address.address)
    except BaseException:
        sock.close()
        raise
    return sock


def _look_up(host: str, port: int, flags: int = 0) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)


def _in_turns(infos: Sequence[Any]) -> list[SocketAddress]:
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
        return  # given up in the meantime
    if isinstance(found, Exception):
        answer.set_exception(found)
    else:
        answer.set_result(found)
