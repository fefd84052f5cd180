"""The code that every message of the data path runs through, without sockets or TLS.

Used by the micro benchmarks and by the instruction counts. Each path is made ready by
its constructor; :meth:`HotPath.run` moves a number of messages and nothing else.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

from tailrace.service.relay.relay_end import RelayEnd
from tailrace.service.relay.switchboard import Switchboard
from tailrace.service.relay.turn_budget import TurnBudget
from tailrace.service.telemetry.counters import Counters
from tailrace.session import Connection, ConnectionRequested, Event, Session
from tailrace.wire import (
    MAX_PAYLOAD,
    OFFER,
    DataHeader,
    Message,
    MessageSplitter,
    MessageType,
    Side,
    decode,
    encode_delimited,
)

__all__ = ["MARK", "PATHS", "SIZES", "HotPath", "main"]

MARK: Final = "getpgid"
"""The function of the C library that :func:`main` calls before and after each path."""

SIZES: Final = (64, MAX_PAYLOAD)
"""Bytes of payload: a keystroke, and a full message."""

_WARM_UP: Final = 320
"""Messages before it counts."""

_SERVICE: Final = "SSH"
_BATCH: Final = 16
"""Small messages in one frame, as a relay or a busy sender puts them together."""


class HotPath(ABC):
    """One path, for payloads of one size."""

    name: str

    def __init__(self, size: int) -> None:
        """Get ready for payloads of ``size`` bytes."""
        self.size = size

    @abstractmethod
    def run(self, messages: int) -> None:
        """Move ``messages`` messages."""

    @property
    @abstractmethod
    def moved(self) -> int:
        """Bytes that have come out so far, at least those of the payloads."""


class _NullSink:
    """Takes data and counts it."""

    __slots__ = ("received",)

    def __init__(self) -> None:
        self.received = 0

    def data_received(self, payload: memoryview) -> None:
        self.received += len(payload)


class _NullHandler:
    """The room above a session: gives each connection a sink."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.sink = _NullSink()

    def event_occurred(self, event: Event) -> None:
        if isinstance(event, ConnectionRequested):
            event.connection.sink = self.sink

    def send_control(self, frame: bytes) -> None:
        self.sent.append(frame)


def _ready(side: Side) -> tuple[Session, _NullHandler]:
    handler = _NullHandler()
    session = Session(side, handler, (_SERVICE,))
    ids = Message(MessageType.SERVICE_IDS, available_service_ids=(_SERVICE,))
    session.receive_frame(memoryview(encode_delimited(ids)))
    return session, handler


class ToTunnel(HotPath):
    """Socket to tunnel: the header, right in front of the bytes that were read."""

    name = "socket to tunnel"

    def __init__(self, size: int) -> None:
        super().__init__(size)
        session, _ = _ready(Side.SOURCE)
        self._connection: Connection = session.open(_SERVICE)
        self._memory = bytearray(DataHeader.MAX_SIZE + MAX_PAYLOAD)
        self._view = memoryview(self._memory)
        self._framed = 0

    @property
    def moved(self) -> int:
        return self._framed

    def run(self, messages: int) -> None:
        connection, memory, view, size = self._connection, self._memory, self._view, self.size
        gap = DataHeader.MAX_SIZE
        for _ in range(messages):
            header = connection.data_header(size)
            start = gap - len(header)
            memory[start:gap] = header
            self._framed += len(view[start : gap + size])


class FromTunnel(HotPath):
    """Tunnel to socket: split the frame, decode, find the connection, hand over."""

    name = "tunnel to socket"
    batch = 1

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._session, handler = _ready(Side.DESTINATION)
        start = Message(MessageType.STREAM_START, 1, _SERVICE, 1)
        self._session.receive_frame(memoryview(encode_delimited(start)))
        self._frame = memoryview(_data_frame(size) * self.batch)
        self._sink = handler.sink

    @property
    def moved(self) -> int:
        return self._sink.received

    def run(self, messages: int) -> None:
        receive, frame = self._session.receive_frame, self._frame
        for _ in range(messages // self.batch):
            receive(frame)


class FromTunnelBatched(FromTunnel):
    """As :class:`FromTunnel`, many small messages in one frame."""

    name = "tunnel to socket, batched"
    batch = _BATCH


class Relay(HotPath):
    """The service: judge what came from one side and pass it to the other."""

    name = "relay"

    def __init__(self, size: int) -> None:
        super().__init__(size)
        switchboard = Switchboard()
        counters = Counters(lambda: 0.0)
        self._link = _NullLink()
        self._turn_budget = TurnBudget()
        self._source = RelayEnd(
            _NullLink(), Side.SOURCE, (_SERVICE,), counters, self._turn_budget, OFFER
        )
        destination = RelayEnd(
            self._link, Side.DESTINATION, (_SERVICE,), counters, TurnBudget(), OFFER
        )
        self._source.join(switchboard, "tunnel", 1e12)
        destination.join(switchboard, "tunnel", 1e12)
        start = encode_delimited(Message(MessageType.STREAM_START, 1, _SERVICE, 1))
        self._source.frame_received(memoryview(start))
        self._frame = memoryview(_data_frame(size))

    @property
    def moved(self) -> int:
        return self._link.sent

    def run(self, messages: int) -> None:
        receive, frame = self._source.frame_received, self._frame
        for number in range(messages):
            receive(frame)
            if number % _BATCH == 0:
                # the next turn of the loop
                self._turn_budget.renew()
                self._source.proceed()


class _NullLink:
    """A WebSocket that only counts."""

    __slots__ = ("sent",)

    def __init__(self) -> None:
        self.sent = 0

    def send(self, messages: bytes | memoryview) -> None:
        self.sent += len(messages)

    def ping(self, payload: bytes) -> None:
        """Nobody answers."""

    def pause_reading(self) -> None:
        """Nothing comes."""

    def resume_reading(self) -> None:
        """Nothing comes."""

    def close(self, code: int, reason: str) -> None:
        raise AssertionError(f"the relay closed the link: {code} {reason}")


def _data_frame(size: int) -> bytes:
    """Return a DATA message as our own proxies send it: the payload last."""
    return DataHeader(1, _SERVICE, 1).build(size) + bytes(size)


class SplitAndDecode(HotPath):
    """The wire room alone."""

    name = "split and decode"

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._splitter = MessageSplitter()
        self._frame = memoryview(_data_frame(size))
        self._decoded = 0

    @property
    def moved(self) -> int:
        return self._decoded

    def run(self, messages: int) -> None:
        feed, frame = self._splitter.feed, self._frame
        for _ in range(messages):
            for body in feed(frame):
                self._decoded += len(decode(body).payload)


PATHS: Final[Sequence[type[HotPath]]] = (
    ToTunnel,
    FromTunnel,
    FromTunnelBatched,
    SplitAndDecode,
    Relay,
)


def main(arguments: list[str]) -> int:
    """Run ``MESSAGES PATH:SIZE...``, each path warm, with a mark before and after it."""
    messages = int(arguments[0])
    by_name = {path.name: path for path in PATHS}
    for name, _, size in (text.partition(":") for text in arguments[1:]):
        path = by_name[name](int(size))
        path.run(_WARM_UP)
        os.getpgid(0)
        path.run(messages)
        os.getpgid(0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
