"""Clients and applications: mixed load on one tunnel, every byte checked at both ends."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from support.network.applications import Server
from support.network.sockets import hang_up
from tailrace.common.addresses import TCPAddress

from .content import HEADER_SIZE, Checker, Header, Way, Work, content
from .figures import Figures

__all__ = ["Lane", "Load", "Volume"]

_CHUNK: Final = 64 * 1024
_HUNG: Final = 120.0
"""Seconds after which a connection that has not ended counts as hung."""
_GRACE: Final = 20.0
"""Seconds after a disturbance for which connections may still end early."""
_INTERRUPTION: Final = 2.0
"""Seconds behind a moment without a link in which a new connection may be refused."""
_KEYS: Final = (1, 200)
_CLOSING: Final = 5.0
"""Seconds in which the proxy must take what a client has left to send."""
_NOWHERE: Final = 0.3
"""Seconds before the next try while nobody listens."""


class _Kind(Enum):
    INTERACTIVE = "interactive"
    BULK = "bulk"
    CHURN = "churn"
    HALF_CLOSE = "half-close"
    STALL = "stall"


@dataclass(frozen=True, slots=True)
class Volume:
    """How much there is to do."""

    bulk: int = 1_000_000
    """Bytes of a bulk transfer at most."""
    pause: float = 2.0
    """Seconds between two connections of a client on average."""
    clients: int = 2
    """Clients of each tunnel."""

    @property
    def thought(self) -> float:
        """Seconds between two keystrokes at most."""
        return min(0.5, self.pause / 4)

    @property
    def stall(self) -> float:
        """Seconds for which a client does not read at most, and an eighth of them at least."""
        return min(8.0, self.pause * 4)


@dataclass(eq=False, slots=True)
class Lane:
    """One tunnel as clients see it."""

    index: int
    app: int = 0
    """Where its application listens."""
    port: int | None = None
    """Where its source listens; ``None`` while it does not run."""
    live: dict[int, Header] = field(default_factory=dict)
    """Connections that clients have open, or have just closed."""
    restless_until: float = 0.0
    interrupted_at: float = -_INTERRUPTION
    """When an end was last seen without a link."""

    def disturb(self, seconds: float = 0.0) -> None:
        """Let connections end early from now on, for a while after ``seconds`` from now."""
        now = asyncio.get_running_loop().time()
        self.restless_until = max(self.restless_until, now + seconds + _GRACE)

    def interrupt(self) -> None:
        """Note that an end has no link now."""
        self.interrupted_at = asyncio.get_running_loop().time()

    def may_refuse(self, opened: float) -> bool:
        """Return whether there may have been nobody to take a connection, since it was opened."""
        return opened < self.interrupted_at + _INTERRUPTION

    @property
    def restless(self) -> bool:
        """Whether connections that have been open until now may end early."""
        return asyncio.get_running_loop().time() < self.restless_until


class _Wrong(Exception):
    """A byte is not what it should be."""


class _Hung(Exception):
    """A connection neither went on nor ended."""


class Load:
    """The clients and the application of one tunnel."""

    def __init__(
        self, lane: Lane, figures: Figures, dice: random.Random, numbers: Callable[[], int]
    ) -> None:
        self._lane = lane
        self._figures = figures
        self._dice = dice
        self._numbers = numbers
        self._application = Server(self._serve)

    # -- the application

    async def start(self) -> int:
        """Start the application; return its port."""
        address = await self._application.start()
        assert isinstance(address, TCPAddress)
        self._lane.app = address.port
        return self._lane.app

    async def stop(self) -> None:
        """End the application and what is left of its connections."""
        await self._application.stop()

    @property
    def served(self) -> int:
        """Connections that the application has open."""
        return self._application.connections

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whether a connection may end early is judged by its client, who knows more.
        try:
            async with asyncio.timeout(_HUNG):
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    await self._work(reader, writer)
        except TimeoutError:
            self._figures.fail("hung", f"tunnel {self._lane.index}: at the application")
        except (_Wrong, ValueError) as error:
            self._figures.fail("wrong bytes", f"tunnel {self._lane.index}: {error}")

    async def _work(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        header = Header.decode(await reader.readexactly(HEADER_SIZE))
        known = self._lane.live.get(header.number)
        if header != known:
            raise _Wrong(f"the application was given {header}, which is {known or 'not open'}")
        upward = Checker(header.number, Way.UP)
        if header.work is Work.SEND:
            await self._send(writer, header, Way.DOWN, 0, header.down)
        while data := await reader.read(_CHUNK):
            self._figures.bytes_up += len(data)
            at = upward.received
            if not upward.takes(data) or upward.received > header.up:
                raise _Wrong(f"connection {header.number}, upwards at {at}")
            if header.work is Work.MIRROR:
                await self._send(writer, header, Way.DOWN, at, len(data))
        if header.work is Work.REPLY and upward.received == header.up:
            await self._send(writer, header, Way.DOWN, 0, header.down)

    async def _send(
        self, writer: asyncio.StreamWriter, header: Header, way: Way, at: int, size: int
    ) -> None:
        end = at + size
        while at < end:
            piece = content(header.number, way, at, min(_CHUNK, end - at))
            writer.write(piece)
            await writer.drain()
            at += len(piece)

    # -- clients

    async def run_client(self, volume: Volume) -> None:
        """Make connections one after the other, for ever."""
        while True:
            await asyncio.sleep(self._dice.expovariate(1 / volume.pause))
            kind = self._dice.choice(tuple(_Kind))
            times = self._dice.randint(5, 15) if kind is _Kind.CHURN else 1
            for _ in range(times):
                await self._connect(kind, volume)

    async def _connect(self, kind: _Kind, volume: Volume) -> None:
        lane, figures = self._lane, self._figures
        if lane.port is None:
            await asyncio.sleep(_NOWHERE)
            return
        header = self._plan(kind, volume)
        lane.live[header.number] = header
        figures.opened[kind.value] += 1
        opened = asyncio.get_running_loop().time()
        try:
            received = await self._converse(kind, header, lane.port, volume)
        except _Wrong as error:
            figures.fail("wrong bytes", f"tunnel {lane.index}: {error}")
        except _Hung:
            figures.fail("hung", f"tunnel {lane.index}: {kind.value} {header.number}")
        else:
            if received == header.down:
                figures.ended["complete"] += 1
            elif not received and lane.may_refuse(opened):
                figures.ended["refused"] += 1
            elif lane.restless:
                figures.ended["cut by a fault"] += 1
            else:
                about = f"tunnel {lane.index}: {kind.value} {header}, {received} bytes received"
                figures.fail("cut without a fault", about)
        finally:
            # The application may hear of the connection after the client has given it up.
            asyncio.get_running_loop().call_later(_HUNG, lane.live.pop, header.number, None)

    def _plan(self, kind: _Kind, volume: Volume) -> Header:
        dice, number, index = self._dice, self._numbers(), self._lane.index
        size = dice.randint(volume.bulk // 10, volume.bulk)
        match kind:
            case _Kind.INTERACTIVE:
                size = dice.randint(5, 40) * dice.randint(*_KEYS)
                return Header(index, number, Work.MIRROR, size, size)
            case _Kind.CHURN:
                size = dice.randint(1, 2_000)
                return Header(index, number, Work.MIRROR, size, size)
            case _Kind.HALF_CLOSE:
                return Header(index, number, Work.REPLY, dice.randint(1, size), size)
            case _Kind.BULK if dice.randrange(2):
                return Header(index, number, Work.MIRROR, size, size)
            case _:
                return Header(index, number, Work.SEND, 0, size)

    async def _converse(self, kind: _Kind, header: Header, port: int, volume: Volume) -> int:
        """Make one connection; return how many bytes came."""
        writer: asyncio.StreamWriter | None = None
        downward = Checker(header.number, Way.DOWN)
        try:
            async with asyncio.timeout(_HUNG):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_CHUNK)
                writer.write(header.encode())
                await self._talk(kind, header, reader, writer, downward, volume)
        except TimeoutError:
            raise _Hung from None
        except OSError:
            pass
        finally:
            if writer is not None:
                await hang_up(writer, _CLOSING)
        return downward.received

    async def _talk(
        self,
        kind: _Kind,
        header: Header,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        downward: Checker,
        volume: Volume,
    ) -> None:
        receive = self._receive
        if kind is _Kind.INTERACTIVE:
            at = 0
            while at < header.up:
                size = min(self._dice.randint(*_KEYS), header.up - at)
                await self._send(writer, header, Way.UP, at, size)
                at += size
                if not await receive(reader, header, downward, at):
                    return
                await asyncio.sleep(self._dice.uniform(0.0, volume.thought))
        elif kind is _Kind.STALL:
            await receive(reader, header, downward, header.down // 10)
            await asyncio.sleep(self._dice.uniform(volume.stall / 8, volume.stall))
            await receive(reader, header, downward, header.down)
        elif kind is _Kind.HALF_CLOSE:
            await self._send(writer, header, Way.UP, 0, header.up)
            writer.write_eof()
            # Nothing may follow what was to come.
            await receive(reader, header, downward, header.down + 1)
        else:
            await _both(
                self._send(writer, header, Way.UP, 0, header.up),
                receive(reader, header, downward, header.down),
            )

    async def _receive(
        self, reader: asyncio.StreamReader, header: Header, downward: Checker, until: int
    ) -> bool:
        """Read and check until so many bytes have come; return whether they have."""
        while downward.received < until:
            data = await reader.read(min(_CHUNK, until - downward.received))
            if not data:
                return False
            self._figures.bytes_down += len(data)
            at = downward.received
            if not downward.takes(data) or downward.received > header.down:
                raise _Wrong(f"connection {header.number}, downwards at {at}")
        return True


async def _both(sending: Coroutine[Any, Any, None], receiving: Awaitable[bool]) -> None:
    """Send while receiving; who can no longer send may still receive."""
    sender = asyncio.get_running_loop().create_task(sending)
    try:
        await receiving
    finally:
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
