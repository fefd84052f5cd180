"""Streams and connections: the objects a session keeps, one stream for each service."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from ..errors import LocalProtocolError
from ..wire import (
    MAX_CONNECTION_ID,
    MAX_STREAM_ID,
    NO_CAPABILITIES,
    Capabilities,
    Capability,
    DataHeader,
    DataKey,
)
from .ledger import Counts, Ledger

__all__ = ["Connection", "DataSink", "Stream", "StreamState"]


class DataSink(Protocol):
    """Where the application data of one connection goes."""

    def data_received(self, payload: memoryview) -> None:
        """Called when ``payload`` (1..64512 bytes) has come; the view dies when this returns."""


class StreamState(Enum):
    """State of the one stream a service can have (guide V3, step 3)."""

    IDLE = "idle"
    OPEN = "open"


class Connection:
    """One TCP connection carried by a stream, as the session sees it."""

    __slots__ = (
        "_header",
        "awaits_peer",
        "connection_id",
        "counts",
        "data_key",
        "has_connection_id",
        "heard",
        "is_open",
        "is_paused",
        "is_recognised",
        "pauses_peer",
        "sink",
        "stream",
        "stream_id",
    )

    def __init__(
        self, stream: Stream, connection_id: int, has_connection_id: bool, counts: Counts
    ) -> None:
        self.stream = stream
        self.counts = counts
        self.stream_id = stream.stream_id
        """The stream id it was opened under; its stream goes on to the next one."""
        self.connection_id = connection_id
        self.has_connection_id = has_connection_id
        """Whether messages of this connection carry its id."""
        self.is_open = True
        self.heard = False
        """Whether any data has come from the peer."""
        self.awaits_peer = False
        """Whether it is not known whom it reaches, and so whether it outlives links."""
        self.is_recognised = False
        """Whether the form of the peer's data messages has been looked at, on this link."""
        self.is_paused = False
        """Whether no data may be sent: the peer has asked for none, there is no agreement with it,
        or it is not known."""
        self.pauses_peer = False
        """Whether this end has asked the peer for no more data."""
        self.data_key: DataKey | None = None
        """How the peer's data messages are recognised, once that is known."""
        self.sink: DataSink | None = None
        self._header = self._new_header()

    def _new_header(self) -> DataHeader:
        return DataHeader(
            self.stream_id,
            self.stream.wire_name,
            self.connection_id if self.has_connection_id else 0,
        )

    @property
    def service_id(self) -> str:
        """The service this connection belongs to; "" on a tunnel without service ids."""
        return self.stream.service_id

    @property
    def ledger(self) -> Ledger | None:
        """Its books, if the connection outlives links."""
        return self.counts if isinstance(self.counts, Ledger) else None

    @property
    def is_awaited(self) -> bool:
        """Whether it waits, over links, until both ends go on with it."""
        return self.ledger is not None and not self.ledger.is_open

    @property
    def can_pause(self) -> bool:
        """Whether the peer does what it is asked with a pause."""
        return Capability.FLOW in self.stream.peer_capabilities

    def data_header(self, size: int) -> bytes:
        """Return what must stand in front of ``size`` bytes (1..64512) of data.

        Raises:
            LocalProtocolError: the connection has ended, or ``size`` is out of range.
        """
        if not self.is_open:
            raise LocalProtocolError(f"{self} has ended")
        return self._header.build(size)

    def drop_number(self) -> None:
        """Go on without a connection id: the peer speaks V2 or V1."""
        self.has_connection_id = False
        self._header = self._new_header()

    def __repr__(self) -> str:
        service = self.stream.service_id or "-"
        return f"connection {service}/{self.stream_id}/{self.connection_id}"


class Stream:
    """The stream of one service and its open connections."""

    __slots__ = (
        "connections",
        "ended_stream_id",
        "first",
        "last_connection_id",
        "peer_capabilities",
        "service_id",
        "state",
        "stream_id",
        "wire_name",
    )

    def __init__(self, service_id: str, wire_name: str) -> None:
        self.service_id = service_id
        self.wire_name = wire_name
        """The service id as messages carry it: "" under V1."""
        self.state = StreamState.IDLE
        self.stream_id = 0
        self.ended_stream_id = 0
        """The stream id that this end has reset last; 0 once a new stream has begun."""
        self.connections: dict[int, Connection] = {}
        self.first: Connection | None = None
        """The connection that STREAM_START opened; data without an id is its."""
        self.last_connection_id = 0
        self.peer_capabilities = NO_CAPABILITIES
        """What the peer is known to be able to do."""

    def begin(self, stream_id: int, peer_capabilities: Capabilities = NO_CAPABILITIES) -> None:
        """Open the stream under ``stream_id``."""
        self.state = StreamState.OPEN
        self.stream_id = stream_id
        self.ended_stream_id = 0
        self.first = None
        self.peer_capabilities = peer_capabilities

    def next_stream_id(self) -> int:
        """Return the id of the next stream of this service: 1, 2, ... 2**31-1, 1."""
        return self.stream_id % MAX_STREAM_ID + 1

    def next_connection_id(self) -> int:
        """Return the next free connection id: 1, 2, ... 2**32-1, 1; not reset with the stream."""
        while True:
            self.last_connection_id = self.last_connection_id % MAX_CONNECTION_ID + 1
            if self.last_connection_id not in self.connections:
                return self.last_connection_id

    def add(self, connection_id: int, has_connection_id: bool, counts: Counts) -> Connection:
        """Add an open connection."""
        connection = Connection(self, connection_id, has_connection_id, counts)
        self.connections[connection_id] = connection
        if self.first is None:
            self.first = connection
        return connection

    def remove(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        connection.is_open = False
        del self.connections[connection.connection_id]

    def find(self, connection_id: int) -> Connection | None:
        """Return the open connection a message is for; id 0 means the stream's first.

        Guide V3, message schema: a missing connection id is read as 1, the id of a
        stream's first connection; ours counts on over streams.
        """
        if connection_id:
            return self.connections.get(connection_id)
        first = self.first
        return first if first is not None and first.is_open else None

    def end(self) -> list[Connection]:
        """Close the stream; return the connections that ended with it, oldest first."""
        ended = list(self.connections.values())
        for connection in ended:
            connection.is_open = False
        self.connections.clear()
        self.state = StreamState.IDLE
        return ended
