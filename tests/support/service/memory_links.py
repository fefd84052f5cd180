"""Links of the service without sockets: every byte that goes in and out, every turn of the loop.

Two runs of the same steps give the same bytes, so that the two ways through the relay can be
compared: with the compiled extension, and by Python alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias
from unittest import mock

import aiofastnet
from picows import WSUpgradeRequest, WSUpgradeResponse, WSUpgradeResponseWithListener

from tailrace.flow import window_driver
from tailrace.flow.token_bucket import Bucket
from tailrace.service.config import DataSettings
from tailrace.service.limits import Limits
from tailrace.service.relay.client_link import ClientLink, LinkInfo
from tailrace.service.relay.request_reader import make_websocket
from tailrace.service.relay.switchboard import Switchboard
from tailrace.service.telemetry.counters import Counters
from tailrace.service.telemetry.picows_log import PicowsLog
from tailrace.wire import NO_CAPABILITIES, SUBPROTOCOL_V3, Capability, Side

__all__ = [
    "SERVICES",
    "Advance",
    "Bytes",
    "Full",
    "Join",
    "Leave",
    "MemoryTransport",
    "Outcome",
    "Step",
    "ToldLoop",
    "Turn",
    "run_steps",
]

SERVICES: Final = ("A", "B")

_REQUEST: Final = (
    b"GET /tunnel HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
_LAST_TURNS: Final = 400
"""Turns after the last step, in which what waits is passed on."""
_LAST_WAIT: Final = 60.0
"""Seconds after that, for what is to end by itself."""


@dataclass(frozen=True)
class Join:
    """A client connects."""

    side: Side
    is_tailrace: bool = True


@dataclass(frozen=True)
class Bytes:
    """Bytes of a client arrive, in one read after the other."""

    side: Side
    data: bytes
    reads: tuple[int, ...] = ()
    """Sizes of the first reads."""


@dataclass(frozen=True)
class Turn:
    """The event loop turns."""

    count: int = 1


@dataclass(frozen=True)
class Advance:
    """Time passes, and links are swept."""

    seconds: float


@dataclass(frozen=True)
class Full:
    """The write buffer of a client's connection goes over its mark, or drains."""

    side: Side
    full: bool = True


@dataclass(frozen=True)
class Leave:
    """A client's connection is gone."""

    side: Side


Step: TypeAlias = Join | Bytes | Turn | Advance | Full | Leave


@dataclass
class Outcome:
    """All that comes of some steps."""

    done: list[list[bytes | str]] = field(default_factory=list)
    """For each link, in the order they joined: what was written to it, and done with it."""
    causes: list[str] = field(default_factory=list)
    """Why links ended, in order."""
    traffic: dict[Side, tuple[int, int]] = field(default_factory=dict)
    """Messages and bytes of each side."""
    resets: dict[str, int] = field(default_factory=dict)


class _Socket:
    """As much of a socket as is asked for its options."""

    def setsockopt(self, *option: object) -> None: ...

    def getsockopt(self, *option: object) -> int:
        return 0

    def fileno(self) -> int:
        return -1


class MemoryTransport(aiofastnet.Transport):
    """A connection with TLS, as far as picows and the service can tell."""

    def __init__(self, loop: asyncio.AbstractEventLoop, outcome: list[bytes | str]) -> None:
        super().__init__(loop)
        self._extras = {"socket": _Socket(), "ssl_object": self}
        self._outcome = outcome
        self.is_read = True
        self.is_closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._extras.get(name, default)

    def _retry_ssl_read(self) -> None: ...

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: Any) -> None:
        self._outcome.append(bytes(data))

    def write_nocheck(self, data: Any) -> None:
        self._outcome.append(bytes(data))

    def writelines_nocheck(self, list_of_data: Any) -> None:
        self._outcome.append(b"".join(map(bytes, list_of_data)))

    def pause_reading(self) -> None:
        self.is_read = False
        self._outcome.append("not read")

    def resume_reading(self) -> None:
        self.is_read = True
        self._outcome.append("read")

    def close(self) -> None:
        self._end("closed")

    def abort(self) -> None:
        self._end("aborted")

    def _end(self, how: str) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._outcome.append(how)


@dataclass
class _Client:
    link: ClientLink
    protocol: Any
    transport: MemoryTransport
    unread: bytearray = field(default_factory=bytearray)

    def lose(self) -> None:
        """Tell the link that its connection is gone, and forget it as transports do."""
        self.protocol.connection_lost(None)
        self.transport.set_protocol(asyncio.Protocol())


class ToldLoop(asyncio.SelectorEventLoop):
    """A loop whose time is told to it."""

    now = 1000.0

    def time(self) -> float:
        return self.now


class _Service:
    """The context of the links, and what becomes of them."""

    def __init__(self, loop: ToldLoop, compiled: bool) -> None:
        self.switchboard = Switchboard()
        self.settings = DataSettings()
        self.limits = Limits()
        self.counters = Counters(self.clock)
        self.outcome = Outcome()
        self._loop = loop
        self._compiled = compiled
        self._clients: dict[Side, _Client] = {}

    def clock(self) -> float:
        return self._loop.now

    def bandwidth_of(self, tunnel_id: str) -> Bucket | None:
        return None

    def link_opened(self, link: ClientLink) -> None: ...

    def link_closed(self, link: ClientLink) -> None:
        self.outcome.causes.append(link.cause)

    def take(self, step: Step) -> None:
        client = None if isinstance(step, Turn | Advance) else self._clients.get(step.side)
        match step:
            case Join(side, is_tailrace):
                self._join(side, is_tailrace)
            case Bytes(_, data, reads) if client is not None:
                client.unread += data
                self._read(client, reads)
            case Full(_, full) if client is not None and not client.transport.is_closed:
                client.protocol.pause_writing() if full else client.protocol.resume_writing()
            case Leave(side) if client is not None:
                del self._clients[side]
                client.lose()
            case Advance(seconds):
                self._loop.now += seconds
                for each in tuple(self._clients.values()):
                    each.link.sweep(self._loop.now)

    def turned(self) -> None:
        """Do what transports do in a turn of the loop: read on, and report their ends."""
        for side, client in tuple(self._clients.items()):
            if client.transport.is_closed:
                del self._clients[side]
                client.lose()
            else:
                self._read(client, ())

    def end(self) -> None:
        for client in self._clients.values():
            client.lose()
        self._clients.clear()

    def _join(self, side: Side, is_tailrace: bool) -> None:
        # What the last client sent after it was replaced is of no interest.
        before = self._clients.pop(side, None)
        capabilities = frozenset(Capability) if is_tailrace else NO_CAPABILITIES
        info = LinkInfo(
            "channel", "1.2.3.4", "t", 1e12, side, SERVICES, SUBPROTOCOL_V3, capabilities, str(side)
        )
        link = ClientLink(self, info)
        if not self._compiled:
            link._gate = None

        def accept(request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
            response = WSUpgradeResponse.create_101_response({})
            return WSUpgradeResponseWithListener(response, link.listener)

        websocket = make_websocket(accept, PicowsLog(), None, 64 * 1024)
        self.outcome.done.append([])
        transport = MemoryTransport(self._loop, self.outcome.done[-1])
        transport.set_protocol(websocket)
        websocket.connection_made(transport)
        client = _Client(link, websocket, transport)
        self._clients[side] = client
        client.unread += _REQUEST
        self._read(client, ())
        if before is not None:
            before.lose()

    def _read(self, client: _Client, reads: Sequence[int]) -> None:
        sizes = iter(reads)
        unread = client.unread
        while unread and client.transport.is_read and not client.transport.is_closed:
            protocol = client.transport.get_protocol()
            memory = protocol.get_buffer(-1)
            size = min(len(memory), len(unread), next(sizes, len(unread)))
            memory[:size] = unread[:size]
            del unread[:size]
            protocol.buffer_updated(size)


@contextmanager
def _new_loop() -> Iterator[ToldLoop]:
    loop = ToldLoop()
    try:
        yield loop
    finally:
        loop.close()


def run_steps(steps: Sequence[Step], *, compiled: bool) -> Outcome:
    """Return all that comes of some steps, with the compiled extension or by Python alone."""
    with _new_loop() as loop:
        return loop.run_until_complete(_run(steps, loop, compiled))


async def _run(steps: Sequence[Step], loop: ToldLoop, compiled: bool) -> Outcome:
    service = _Service(loop, compiled)
    with mock.patch.object(window_driver, "_now", service.clock):
        for step in (*steps, Turn(_LAST_TURNS), Advance(_LAST_WAIT), Turn(2)):
            service.take(step)
            for _ in range(step.count if isinstance(step, Turn) else 0):
                await asyncio.sleep(0)
                service.turned()
        service.end()
    outcome, counters = service.outcome, service.counters
    for side, traffic in counters.traffic.items():
        outcome.traffic[side] = (traffic.messages, traffic.bytes)
    outcome.resets = dict(counters.resets)
    return outcome
