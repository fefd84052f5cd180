"""A TCP proxy that does to connections what networks do: cuts, silence, slowness, small pieces.

A :class:`FaultProxy` forwards connections to one address. What it does to a connection is a
:class:`Script`: how each way is shaped, and at most one :class:`Fault` at a byte offset of one
way. Exactly that many bytes are passed on before it strikes. Scripts are played in order, one
for each new connection; without one a connection is left alone. :meth:`FaultProxy.strike`
does a fault to all connections now.

For what is turned on and off again at any time there is
:class:`~tailrace.testing.middlebox.Middlebox`.

Bytes are never changed, reordered or made up: TCP does not, and TLS would notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from hypothesis import strategies as st

from support.network.sockets import reset
from tailrace.localproxy.settings import ProxySettings

__all__ = [
    "CLEAN",
    "Fault",
    "FaultProxy",
    "Kind",
    "Passage",
    "Script",
    "Shape",
    "Way",
    "fault_proxy",
    "faults",
    "scripts",
    "shapes",
]

_CHUNK = 64 * 1024


class Way(Enum):
    """Where bytes go."""

    UP = "up"
    """From who has connected to who is forwarded to."""
    DOWN = "down"

    @property
    def back(self) -> Way:
        """The other way."""
        return Way.DOWN if self is Way.UP else Way.UP


class Kind(Enum):
    """What happens to a connection."""

    FIN = "fin"
    """Both ends see the end of the stream."""
    RST = "rst"
    """Both ends are reset."""
    BLACKHOLE = "blackhole"
    """Nothing passes any more, in either way, and nobody is told."""
    HALF_OPEN = "half-open"
    """The receiver of the way is reset; its sender is never told."""
    HALF_CLOSE = "half-close"
    """The receiver of the way sees the end of the stream; the other way goes on."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens once ``offset`` bytes have been passed on in a way."""

    kind: Kind
    way: Way = Way.UP
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Shape:
    """How bytes are passed on in a way; times in seconds, 0 for none."""

    delay: float = 0.0
    """Before each piece."""
    jitter: float = 0.0
    """At most, on top of it: pieces of the two ways, and of other connections, overtake each
    other, and what was sent in one go comes in bursts."""
    rate: float = 0.0
    """Bytes a second at most."""
    piece: int = 0
    """Bytes of each piece at most; 1: byte at a time."""
    pieces_until: int = 1 << 62
    """Offset up to which ``piece`` counts: bytes at a time are slow."""


@dataclass(frozen=True, slots=True)
class Script:
    """What happens to one connection."""

    fault: Fault | None = None
    shapes: Mapping[Way, Shape] = field(default_factory=dict)
    seed: int = 0
    """Of the jitter."""

    def shape(self, way: Way) -> Shape:
        """Return how a way is shaped."""
        return self.shapes.get(way, Shape())


CLEAN = Script()


class Passage:
    """One connection through the proxy."""

    def __init__(self, script: Script, near: socket.socket) -> None:
        self.script = script
        self.passed = dict.fromkeys(Way, 0)
        """Bytes passed on so far."""
        self.pieces = dict.fromkeys(Way, 0)
        """Writes it took."""
        loop = asyncio.get_running_loop()
        self.struck: asyncio.Future[Fault] = loop.create_future()
        """Done with what has happened to it; cancelled when it has ended without."""
        self._near = near
        self._far: socket.socket | None = None
        self._dice = random.Random(script.seed)
        self._started = loop.time()

    def strike(self, fault: Fault) -> None:
        """Do something to this connection now."""
        if not self.struck.done():
            self.struck.set_result(fault)

    async def run(self, target: tuple[str, int]) -> None:
        """Carry bytes until both ends are done, or the fault has been done to them."""
        in_order = False
        try:
            in_order = await self._carry(target)
        finally:
            self.struck.cancel()
            for sock in (self._near, self._far):
                if sock is not None:
                    (socket.socket.close if in_order else reset)(sock)

    async def _carry(self, target: tuple[str, int]) -> bool:
        """Return whether the ends have heard of each other's end, and all that was before it."""
        loop = asyncio.get_running_loop()
        try:
            self._far = await _connect(target)
        except OSError:
            return False
        pumps = {way: loop.create_task(self._pump(way)) for way in Way}
        try:
            waiting: set[asyncio.Future[Any]] = {self.struck, *pumps.values()}
            while not self.struck.done() and len(waiting) > 1:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if any(each.exception() for each in done):
                    return False
            if not self.struck.done():
                return True
            fault = self.struck.result()
            # A piece that is under way in the other way must not be lost if that goes on.
            ways = [fault.way] if fault.kind is Kind.HALF_CLOSE else list(Way)
            await _end(pumps[way] for way in ways)
            return await self._happen(fault, pumps[fault.way.back])
        finally:
            await _end(pumps.values())

    async def _pump(self, way: Way) -> None:
        """Pass bytes on in one way, and the end of the stream behind the last one."""
        loop = asyncio.get_running_loop()
        source, sink = self._ends(way)
        shape = self.script.shape(way)
        fault = self.script.fault
        due = fault.offset if fault is not None and fault.way is way else None
        while True:
            if due is not None and self.passed[way] >= due:
                assert fault is not None
                self.strike(fault)
                await asyncio.Event().wait()  # which never comes: what ends this is the fault
            room = _CHUNK if due is None else min(_CHUNK, due - self.passed[way])
            if shape.piece and self.passed[way] < shape.pieces_until:
                room = min(room, shape.piece)
            elif shape.rate:
                room = min(room, max(1, int(shape.rate / 50)))
            data = await loop.sock_recv(source, room)
            if not data:
                with contextlib.suppress(OSError):
                    sink.shutdown(socket.SHUT_WR)
                return
            await self._wait(shape, self.passed[way] + len(data))
            await loop.sock_sendall(sink, data)
            self.passed[way] += len(data)
            self.pieces[way] += 1

    async def _wait(self, shape: Shape, total: int) -> None:
        pause = shape.delay + (self._dice.uniform(0.0, shape.jitter) if shape.jitter else 0.0)
        if shape.rate:
            elapsed = asyncio.get_running_loop().time() - self._started
            pause += max(0.0, total / shape.rate - elapsed)
        # Pieces that are not to wait at all still leave their turn to others.
        if pause or shape.piece:
            await asyncio.sleep(pause)

    async def _happen(self, fault: Fault, back: asyncio.Task[None]) -> bool:
        """Do the fault; return, as _carry() does, when nothing more can come of it."""
        _, receiver = self._ends(fault.way)
        match fault.kind:
            case Kind.RST:
                return False
            case Kind.FIN:
                for sock in self._sockets():
                    with contextlib.suppress(OSError):
                        sock.shutdown(socket.SHUT_WR)
                # A socket that is closed with something unread is reset: read it.
                return await self._both(*(_drain(sock) for sock in self._sockets()))
            case Kind.BLACKHOLE:
                await asyncio.Event().wait()
            case Kind.HALF_OPEN:
                reset(receiver)
                await asyncio.Event().wait()
            case Kind.HALF_CLOSE:
                with contextlib.suppress(OSError):
                    receiver.shutdown(socket.SHUT_WR)
                return await self._both(_drain(self._ends(fault.way)[0]), _done(back))
        raise AssertionError("waiting for ever has ended")

    async def _both(self, *steps: Coroutine[None, None, None]) -> bool:
        """Do both and return whether they came to their end; the first that does not ends both."""
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(step) for step in steps]
        try:
            await asyncio.gather(*tasks)
        except ConnectionError:
            return False
        finally:
            await _end(tasks)
        return True

    def _sockets(self) -> tuple[socket.socket, socket.socket]:
        assert self._far is not None
        return self._near, self._far

    def _ends(self, way: Way) -> tuple[socket.socket, socket.socket]:
        """Return where the bytes of a way come from and go to."""
        near, far = self._sockets()
        return (near, far) if way is Way.UP else (far, near)


class FaultProxy:
    """Forwards TCP connections to one address, and does to them what it is told."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._scripts: deque[Script] = deque()
        self._tasks: dict[Passage, asyncio.Task[None]] = {}
        self._server: asyncio.Task[None]
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setblocking(False)
        self._came = asyncio.Condition()
        self.passages: list[Passage] = []
        """All connections that came so far, oldest first."""

    @property
    def port(self) -> int:
        """Where to connect instead."""
        return int(self._listening.getsockname()[1])

    @property
    def address(self) -> str:
        """Where to connect instead, as text."""
        return f"127.0.0.1:{self.port}"

    def behind(self, settings: ProxySettings) -> ProxySettings:
        """Return the settings with this proxy in front of the service."""
        return replace(settings, host="127.0.0.1", port=self.port)

    def play(self, *scripts: Script) -> None:
        """Do these to the next connections, one each."""
        self._scripts.extend(scripts)

    def strike(self, fault: Fault) -> None:
        """Do something to all connections there are now."""
        for passage in self._tasks:
            passage.strike(fault)

    async def forget(self) -> None:
        """Let go of what something has happened to: a black hole keeps it for ever."""
        struck = [task for passage, task in self._tasks.items() if passage.struck.done()]
        await _end(struck)

    async def passage(self, number: int) -> Passage:
        """Wait for the connection with this number, counted from 0, and return it."""
        async with self._came:
            await self._came.wait_for(lambda: len(self.passages) > number)
        return self.passages[number]

    async def start(self) -> None:
        self._server = asyncio.get_running_loop().create_task(self._accept())

    async def stop(self) -> None:
        """Reset what is left."""
        await _end([self._server])
        await _end(self._tasks.values())
        self._listening.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            near, _ = await loop.sock_accept(self._listening)
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            script = self._scripts.popleft() if self._scripts else CLEAN
            passage = Passage(script, near)
            task = loop.create_task(passage.run(self._target))
            self._tasks[passage] = task
            task.add_done_callback(lambda _, passage=passage: self._tasks.pop(passage))
            self.passages.append(passage)
            async with self._came:
                self._came.notify_all()


@asynccontextmanager
async def fault_proxy(host: str, port: int) -> AsyncIterator[FaultProxy]:
    """A proxy in front of an address."""
    proxy = FaultProxy(host, port)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()


async def _connect(target: tuple[str, int]) -> socket.socket:
    sock = socket.socket()
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, target)
    except BaseException:
        sock.close()
        raise
    return sock


async def _done(task: asyncio.Task[None]) -> None:
    await task


async def _drain(sock: socket.socket) -> None:
    while await asyncio.get_running_loop().sock_recv(sock, _CHUNK):
        pass


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


# -- chance ------------------------------------------------------------------------------------


def faults(offsets: st.SearchStrategy[int]) -> st.SearchStrategy[Fault]:
    """Return any fault at one of some offsets."""
    return st.builds(Fault, st.sampled_from(Kind), st.sampled_from(Way), offsets)


def shapes() -> st.SearchStrategy[Shape]:
    """Return shapes that cost a handshake a second at most."""
    return st.one_of(
        st.just(Shape()),
        st.builds(Shape, delay=st.floats(0.0, 0.01), jitter=st.floats(0.0, 0.02)),
        st.builds(Shape, rate=st.floats(1e5, 5e6)),
        st.builds(Shape, piece=st.just(1), pieces_until=st.integers(1, 1500)),
        st.builds(Shape, piece=st.integers(2, 1500), pieces_until=st.integers(1, 50_000)),
    )


def scripts(offsets: st.SearchStrategy[int]) -> st.SearchStrategy[Script]:
    """Return a fault, or none, on ways of any shape."""
    return st.builds(
        Script,
        st.none() | faults(offsets),
        st.fixed_dictionaries({way: shapes() for way in Way}),
        st.integers(0, 2**16),
    )
