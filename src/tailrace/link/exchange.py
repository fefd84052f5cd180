"""One HTTP request and its response, before a connection speaks another protocol.

A WebSocket begins with an upgrade (RFC 6455 section 4), a connection through a web proxy with
CONNECT (RFC 9110 section 9.3.6): one request, one response, and from the next byte on another
protocol, which some other object handles. That object cannot take over in the very moment in which
the response ends. Until it does, three things may happen that it has to hear of:

* bytes of its own come in, perhaps in the same read as the end of the response;
* what it has written already fills the write buffer;
* the connection ends.

So an :class:`Exchange` is the first protocol of a connection, stays it after the response, and
hands over what has happened together with the connection. A plain socket keeps all of that itself:
:func:`run_exchange` is enough there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn, Protocol, TypeVar, cast

from ..common.network_errors import network_error_text
from ..errors import LinkError

__all__ = ["Accepted", "Exchange", "Handover", "ResponseParser", "run_exchange"]


class Accepted(Protocol):
    """A response after which the connection speaks another protocol."""

    @property
    def leftover(self) -> bytes: ...


T = TypeVar("T", bound=Accepted)
T_co = TypeVar("T_co", bound=Accepted, covariant=True)


class ResponseParser(Protocol[T_co]):
    """Judges a response; both methods raise a :class:`~tailrace.errors.LinkError` to refuse it."""

    def feed(self, data: bytes) -> T_co | None:
        """Take the next bytes; return the accepted response, ``None`` while more are needed."""

    def finish(self, cause: str) -> NoReturn:
        """Refuse a response of which no more will come, because of ``cause``."""


async def run_exchange(
    send: Callable[[bytes], Awaitable[None]],
    receive: Callable[[], Awaitable[bytes]],
    request: bytes,
    parser: ResponseParser[T],
    timeout: float,
) -> T:
    """Send a request and return the response, if the parser accepts it.

    Args:
        send: sends all of its argument.
        receive: returns the next bytes, ``b""`` at the end of the connection.
        timeout: seconds for all of it.

    Raises:
        LinkError: the parser's own, also when the connection ends or the time is over; in the
            latter case ``connect_timeout`` is its ``setting``.
    """
    setting = ""
    try:
        async with asyncio.timeout(timeout):
            await send(request)
            while data := await receive():
                accepted = parser.feed(data)
                if accepted is not None:
                    return accepted
        cause = "the connection was closed"
    except TimeoutError:
        cause, setting = f"no answer within {timeout:g} s", "connect_timeout"
    except OSError as error:
        cause = f"the connection was lost: {network_error_text(error)}"
    try:
        parser.finish(cause)
    except LinkError as error:
        if cause in str(error):  # not a refusal of which only the end was late
            error.setting = setting
        raise


@dataclass(frozen=True, slots=True)
class Handover:
    """What has happened on a connection since the end of the response."""

    received: bytes
    writing_paused: bool
    lost: bool
    error: BaseException | None
    """Why the connection was lost; ``None`` if the other side closed it."""


class Exchange(asyncio.Protocol):
    """The first protocol of a connection.

    Call :meth:`run` once the connection is made, and after that :meth:`hand_over`.
    """

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._news = asyncio.Event()
        self._received = bytearray()
        self._writing_paused = False
        self._lost = False
        self._error: BaseException | None = None

    async def run(self, request: bytes, parser: ResponseParser[T], timeout: float) -> T:
        """Send a request and return the response, if the parser accepts it.

        The connection is gone when this raises a :class:`~tailrace.errors.LinkError`, and on its
        way there when it is cancelled.

        Args:
            request: ``b""`` if it was sent already.
            timeout: seconds for all of it.

        Raises:
            LinkError: as :func:`run_exchange`.
        """
        try:
            accepted = await run_exchange(self._send, self._receive, request, parser, timeout)
        except LinkError:
            self.transport.abort()
            while not self._lost:
                await self._next()
            raise
        except BaseException:
            self.transport.abort()
            raise
        self._received[:0] = accepted.leftover
        return accepted

    def hand_over(self, protocol: asyncio.BaseProtocol) -> Handover:
        """Make ``protocol`` that of the connection; return what it has missed."""
        if not self._lost:
            self.transport.set_protocol(protocol)
        return Handover(bytes(self._received), self._writing_paused, self._lost, self._error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._news.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._lost = True
        self._error = exc
        self._news.set()

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False

    async def _send(self, data: bytes) -> None:
        if data:
            self.transport.write(data)

    async def _receive(self) -> bytes:
        while not self._received and not self._lost:
            await self._next()
        data = bytes(self._received)
        self._received.clear()
        if not data and self._error is not None:
            raise ConnectionError(network_error_text(self._error))
        return data

    async def _next(self) -> None:
        """Return when something has happened on the connection."""
        self._news.clear()
        await self._news.wait()
