"""The streams of a session and their connections: opened, found, moved, ended.

What a message of a stream does is decided by the tables of :mod:`.transitions`; the methods here
only carry it out. Four rules hold in all of them:

* A control message leaves before the event that it belongs to: the handler may open the next
  stream at once, and that one must not be hit by a reset of the last.
* An end is reported for each connection exactly once, after the connection has left its stream.
* Connections that outlive links end one by one: whatever else ends them here, a reset of its
  stream for example, the peer is told of each.
* Data of a connection that has been heard once does not come here any more: the bytes before its
  payload are known (:mod:`tailrace.wire.fastpath`), and its sink gets the payload directly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from ..errors import RemoteProtocolError
from ..wire import FLOW, ConnectionIndex, Message, MessageType, Side
from .continuity import Continuity
from .dialect import V1, V2
from .events import (
    ConnectionEnded,
    ConnectionPaused,
    ConnectionRequested,
    ConnectionResumed,
    DialectLearned,
    EndCause,
    Event,
    MessageIgnored,
    SessionHandler,
)
from .far_end import FarEnd
from .ledger import Counts, Ledger
from .outgoing import Outgoing
from .streams import Connection, DataSink, Stream, StreamState
from .transitions import DESTINATION, ENDINGS, SOURCE, Action, Ending, Standing, standing_of

__all__ = ["Multiplexer"]

_StreamHandler: TypeAlias = Callable[["Multiplexer", Stream, Message, Standing], None]
_Entry: TypeAlias = Callable[[Continuity, Connection, Message], None]

_IGNORED: Final = {
    Standing.INVALID: "stream id {0.stream_id} is invalid",
    Standing.NO_SERVICE: "the tunnel has no such service",
    Standing.IDLE: "the stream is not open",
    Standing.RESET: "the stream is not open",
    Standing.STALE: "stream {0.stream_id} is not the current one",
    Standing.OPEN: "connection {0.connection_id} is not open",
    Standing.LIVE: "the stream is already open",
    Standing.AWAITED: "connection {0.connection_id} has not been started on this link",
}
"""Why a message had no effect."""

_REFUSED: Final = {
    Standing.RESET: "its stream has been reset",
    Standing.STALE: "its stream is not the current one",
    Standing.LIVE: "the connection id is in use",
    Standing.PAST: "the connection has ended here",
}
"""Why a destination refused a CONNECTION_START."""

_UNANSWERED: Final = "no destination is connected, or it could not reach its application"
"""What a reset of the stream means where nothing has come back."""
_MAX_FAILURE: Final = 200
"""Bytes of the words in a reset that are read."""


class Multiplexer:
    """The streams of one end, one for each service, and what becomes of their connections.

    ``continuity`` has the connections that outlive links; there are none as long as it is not set.
    """

    def __init__(
        self, side: Side, far: FarEnd, outgoing: Outgoing, handler: SessionHandler
    ) -> None:
        self.continuity: Continuity | None = None
        self.streams: dict[str, Stream] = {}
        self.known: ConnectionIndex[DataSink] = ConnectionIndex()
        """The connections that are recognised by the first bytes of their messages."""
        self._is_source = side is Side.SOURCE
        self._table = SOURCE if side is Side.SOURCE else DESTINATION
        self._far = far
        self._outgoing = outgoing
        self._handler = handler

    # -- streams ---------------------------------------------------------------------------

    @property
    def connections(self) -> list[Connection]:
        """All open connections."""
        return [c for stream in self.streams.values() for c in stream.connections.values()]

    def set_services(self, service_ids: tuple[str, ...]) -> None:
        """Have one stream for each service; those that are there stay as they are.

        Connection ids of a service that comes back count on: the peer has not forgotten them.
        """
        before, self.streams = self.streams, {}
        for name in service_ids:
            stream = before.get(name)
            if stream is None:
                stream = Stream(name, self._wire_name(name))
                if self.continuity is not None:
                    stream.last_connection_id = self.continuity.resumption.highest(name)
            self.streams[name] = stream

    def forget_idle(self) -> None:
        """Close the streams without connections: the service has forgotten them."""
        for stream in self.streams.values():
            if not stream.connections:
                stream.end()

    def end_plain(self, cause: EndCause, *, keeps_new: bool = False) -> None:
        """End the connections that no agreement covers, or only those that reach somebody else."""
        for connection in self.connections:
            if connection.ledger is None and not (keeps_new and connection.awaits_peer):
                self.end_connection(connection, cause)

    def meet(self) -> None:
        """Let those connections go on whose start has crossed the news that there is a peer.

        One that goes on over lost links has passed over the start, and gets it again.
        """
        for connection in self.connections:
            if not connection.awaits_peer:
                continue
            connection.awaits_peer = connection.is_paused = False
            stream = connection.stream
            stream.peer_capabilities = self._far.peer_capabilities
            if self.continuity is not None and self.continuity.is_live:
                is_first = all(c.ledger is None for c in stream.connections.values())
                ids = (stream.service_id, stream.stream_id, connection.connection_id)
                connection.counts = self.continuity.new_counts(*ids)
                self._outgoing.send(
                    MessageType.STREAM_START if is_first else MessageType.CONNECTION_START,
                    connection,
                )
            self._announce_flow(connection)
            self._handler.event_occurred(ConnectionResumed(connection))

    def end_waiting(self, cause: EndCause) -> None:
        """End the connections of which it is not known whom they reach."""
        for connection in self.connections:
            if connection.awaits_peer:
                self.end_connection(connection, cause)

    def end_all(self, cause: EndCause, *, tells_peer: bool) -> None:
        """End all connections."""
        for stream in self.streams.values():
            self._end_stream(stream, cause, tells_peer=tells_peer)

    def _wire_name(self, service_id: str) -> str:
        return service_id if self._far.dialect.has_service_id else ""

    # -- what the owner asks for --------------------------------------------------------------

    def has_room(self, service_id: str) -> bool:
        """Return whether a service can take one more connection."""
        stream = self.streams.get(service_id)
        if stream is None:
            return False
        return self._far.dialect.has_connection_id or not stream.connections

    def open(self, service_id: str) -> Connection:
        """Open a connection to a service that has room (source only)."""
        stream = self.streams[service_id]
        has_connection_id = self._far.dialect.has_connection_id
        if stream.state is StreamState.OPEN and has_connection_id:
            kind = MessageType.CONNECTION_START
        else:
            kind = MessageType.STREAM_START
            stream.wire_name = self._wire_name(service_id)
            stream.begin(stream.next_stream_id(), self._far.peer_capabilities)
        connection_id = stream.next_connection_id()
        counts = self._new_counts(service_id, stream.stream_id, connection_id)
        connection = stream.add(connection_id, has_connection_id, counts)
        # The service may know of a peer already, and pass the start on to it.
        is_alone = self._far.passes_offers and not self._far.peer_present
        connection.awaits_peer = self.continuity is not None and is_alone
        connection.is_paused = connection.awaits_peer
        self._outgoing.send(kind, connection)
        if kind is MessageType.STREAM_START:
            self._announce_flow(connection)
        return connection

    def reset(self, connection: Connection, failure: str = "") -> None:
        """End a connection from this side; does nothing if it has already ended.

        Sends CONNECTION_RESET, or STREAM_RESET where connections carry no id. ``failure`` says
        why it did not end in order; a peer that would not understand it is not told.
        """
        if not connection.is_open:
            return
        if connection.has_connection_id:
            self._remove(connection, failure, tells_peer=True)
        else:
            self._reset_stream(connection, failure)

    def refuse(self, connection: Connection, failure: str = "") -> None:
        """End a connection (destination only) whose application could not be reached.

        STREAM_RESET answers a STREAM_START, CONNECTION_RESET a CONNECTION_START
        (guide V3, when to send); a stream with other live connections is never reset.
        ``failure`` as for :meth:`reset`.
        """
        stream = connection.stream
        is_alone = stream.first is connection and len(stream.connections) == 1
        if connection.is_open and is_alone and connection.ledger is None:
            self._reset_stream(connection, failure)
        else:
            self.reset(connection, failure)

    def pause(self, connection: Connection) -> None:
        """Ask the peer for no more data of a connection; what is on its way still comes.

        Does nothing if that was asked, if the connection has ended, or if the peer would not
        understand it: see :attr:`Connection.can_pause`.
        """
        may_send = connection.is_open and not connection.is_awaited
        if connection.can_pause and may_send and not connection.pauses_peer:
            connection.pauses_peer = True
            self._outgoing.send_ours(MessageType.CONNECTION_PAUSE, connection)

    def resume(self, connection: Connection) -> None:
        """Ask the peer for data of a connection again; does nothing if it is not paused."""
        if connection.pauses_peer and connection.is_open:
            connection.pauses_peer = False
            self._outgoing.send_ours(MessageType.CONNECTION_RESUME, connection)

    def mark_reached(self, connection: Connection) -> None:
        """Acknowledge what has come for a connection that outlives links, at its mark."""
        continuity = self.continuity
        if connection.is_open and continuity is not None:
            self._keep_to_books(connection, continuity.mark_reached)

    def acknowledge(self, connections: Iterable[Connection]) -> list[Connection]:
        """Acknowledge what has come for connections that outlive links, however little it is.

        Return those for which anything has, so that this is to be called again in time.
        """
        if self.continuity is None:
            return []
        return self.continuity.acknowledge(each for each in connections if each.is_open)

    def settle(self, connection: Connection) -> None:
        """Send what is due for a connection that outlives links: its end, an acknowledgement."""
        if connection.is_open and self.continuity is not None:
            self.continuity.settle(connection)

    def finish(self, connection: Connection) -> None:
        """End the half of a connection that this end sends; one that outlives links can do that."""
        if connection.is_open and connection.ledger is not None:
            connection.ledger.end()
            self.settle(connection)

    # -- what comes ---------------------------------------------------------------------------

    def receive(self, message: Message, body: memoryview) -> None:
        """Take a message of a stream, decoded from ``body``."""
        stream = self._find_stream(message)
        continuity = self.continuity
        has_ended = (
            stream is not None
            and continuity is not None
            and continuity.has_ended(message, stream.service_id)
        )
        standing = standing_of(message, stream, has_ended=has_ended)
        # What names no service of the tunnel acts on a stream that nobody else has.
        place = stream if stream is not None else Stream(message.service_id, message.service_id)
        action = self._table[standing, message.type]
        if action is Action.DELIVER:
            self._deliver(place, message, body)
        else:
            self._HANDLERS[action](self, place, message, standing)

    def _find_stream(self, message: Message) -> Stream | None:
        stream = self.streams.get(message.service_id)
        if stream is None and not message.service_id and len(self.streams) == 1:
            # A V1 peer names no service; where there is only one, it means that one.
            (stream,) = self.streams.values()
        return stream

    def _named(self, stream: Stream, message: Message) -> Connection:
        """Return the connection that a message which stands LIVE names."""
        connection = stream.find(message.connection_id)
        assert connection is not None
        return connection

    def _deliver(self, stream: Stream, message: Message, body: memoryview) -> None:
        connection = self._named(stream, message)
        if not connection.is_recognised:
            connection.is_recognised = connection.heard = True
            if self._far.may_learn:
                self._learn(stream, message)
            if connection.sink is not None:
                connection.data_key = self.known.add(body, message, connection.sink)
        payload = message.payload
        if isinstance(payload, memoryview) and payload and connection.sink is not None:
            connection.sink.data_received(payload)

    def _learn(self, stream: Stream, message: Message) -> None:
        """Adopt the dialect of a peer whose first answer lacks what V3 and V2 carry.

        Safe only while no stream has more than one connection: then nothing that is
        under way needs what the older dialect cannot say.
        """
        far = self._far
        far.may_learn = False
        if message.connection_id or any(len(s.connections) > 1 for s in self.streams.values()):
            return
        # A V1 peer skips the service id, and names must not come and go on one link
        # (guide V2, backward compatibility): towards either, messages are those of V2.
        far.dialect = V2
        for connection in self.connections:
            connection.drop_number()
        learned = V2 if message.service_id == stream.service_id else V1
        self._handler.event_occurred(DialectLearned(learned))

    def _open_stream(self, stream: Stream, message: Message, standing: Standing) -> None:
        self._end_stream(stream, EndCause.STREAM_REPLACED)
        stream.begin(message.stream_id, self._far.peer_capabilities)
        stream.wire_name = message.service_id
        self._announce_flow(self._request(stream, message))

    def _add_connection(self, stream: Stream, message: Message, standing: Standing) -> None:
        self._request(stream, message)

    def _request(self, stream: Stream, message: Message) -> Connection:
        # Guide V3, message schema: a missing connection id is read as 1; the answers
        # then carry none either.
        has_connection_id = message.connection_id != 0
        connection_id = message.connection_id or 1
        counts = self._new_counts(stream.service_id, stream.stream_id, connection_id)
        connection = stream.add(connection_id, has_connection_id, counts)
        self._handler.event_occurred(ConnectionRequested(connection))
        return connection

    def _new_counts(self, service_id: str, stream_id: int, connection_id: int) -> Counts:
        if self.continuity is None:
            return Counts()
        return self.continuity.new_counts(service_id, stream_id, connection_id)

    def _close_connection(self, stream: Stream, message: Message, standing: Standing) -> None:
        connection = self._named(stream, message)
        self._remove(connection)
        self._tell_end(connection, EndCause.CONNECTION_RESET, self._failure_in(message))

    def _close_stream(self, stream: Stream, message: Message, standing: Standing) -> None:
        if self._far.may_learn and message.service_id != stream.wire_name:
            # Only a V1 peer leaves the service id out, and it has no other end than this.
            self._learn(stream, message)
        self._end_stream(stream, EndCause.STREAM_RESET, self._failure_in(message))

    def _refuse_stream(self, stream: Stream, message: Message, standing: Standing) -> None:
        """Answer a STREAM_START with a reset; the active stream ends too, at both ends.

        Resets go out first: once told of an end, the owner may open the next stream,
        and that one must not be hit.
        """
        self._answer_reset(message)
        if standing is Standing.STALE:
            self._outgoing.reset_stream(stream)
        self._end_stream(stream, EndCause.PROTOCOL_ERROR)
        self._ignore(message, "a destination must not start streams")

    def _refuse_connection(self, stream: Stream, message: Message, standing: Standing) -> None:
        """Answer a CONNECTION_START with a reset; a live connection of that id ends too."""
        self._answer_reset(message)
        is_current = standing in (Standing.LIVE, Standing.OPEN)
        connection = stream.find(message.connection_id) if is_current else None
        if connection is not None:
            self._remove(connection)
            self._tell_end(connection, EndCause.PROTOCOL_ERROR)
        if self._is_source:
            self._ignore(message, "a destination must not start connections")
        else:
            self._ignore(message, _REFUSED[standing])

    def _answer(self, stream: Stream, message: Message, standing: Standing) -> None:
        """Answer a start that cannot be served: the peer's client must not be left waiting."""
        self._answer_reset(message)
        self._ignore(message, _IGNORED[standing])

    def _answer_reset(self, message: Message) -> None:
        """Answer a start with the reset of the same kind: no other connection must be hit.

        A peer that goes on over links may have more connections in a stream that it starts again.
        """
        is_agreed = self.continuity is not None and self.continuity.is_live
        whole_stream = message.type == MessageType.STREAM_START and not is_agreed
        self._outgoing.answer_reset(message, whole_stream=whole_stream)

    def _do_nothing(self, stream: Stream, message: Message, standing: Standing) -> None:
        self._ignore(message, _IGNORED[standing].format(message))

    def _ignore(self, message: Message, reason: str) -> None:
        self.tell(MessageIgnored(message.type, message.service_id, reason))

    # -- flow messages ------------------------------------------------------------------------

    def _heard_flow(self, stream: Stream) -> None:
        """Note that the peer of a stream has sent a flow message."""
        if self._far.has_flow:
            stream.peer_capabilities |= FLOW

    def _note_flow(self, stream: Stream, message: Message, standing: Standing) -> None:
        """Note that the peer understands flow messages, although this one comes too late."""
        self._heard_flow(stream)
        self._do_nothing(stream, message, standing)

    def _pause_or_resume(self, stream: Stream, message: Message, standing: Standing) -> None:
        self._heard_flow(stream)
        connection = self._named(stream, message)
        paused = message.type == MessageType.CONNECTION_PAUSE
        if connection.is_paused is paused:
            self._ignore(message, "nothing changes")
            return
        connection.is_paused = paused
        event = ConnectionPaused if paused else ConnectionResumed
        self._handler.event_occurred(event(connection))

    def _announce_flow(self, connection: Connection) -> None:
        """Show the peer of a new stream, by a resume, that flow messages are understood here.

        One that has agreed to go on over lost links has said so.
        """
        if self._far.has_flow and connection.is_open and connection.ledger is None:
            self._outgoing.send_ours(MessageType.CONNECTION_RESUME, connection)

    # -- connections that outlive links --------------------------------------------------------

    def connection_of(self, ledger: Ledger) -> Connection:
        return self.streams[ledger.service_id].connections[ledger.connection_id]

    def forget_forms(self) -> None:
        self.known.clear()
        for connection in self.connections:
            connection.data_key = None
            connection.is_recognised = False

    def end_connection(self, connection: Connection, cause: EndCause) -> None:
        self._remove(connection)
        self._tell_end(connection, cause)

    def tell(self, event: Event) -> None:
        self._handler.event_occurred(event)

    def _go_on(self, stream: Stream, message: Message, standing: Standing) -> None:
        assert self.continuity is not None
        self.continuity.go_on(stream.connections[message.connection_id])

    def _take_acknowledgement(self, stream: Stream, message: Message, standing: Standing) -> None:
        self._enter_in_books(stream, message, Continuity.acknowledged)

    def _end_half(self, stream: Stream, message: Message, standing: Standing) -> None:
        self._enter_in_books(stream, message, Continuity.finished)

    def _enter_in_books(self, stream: Stream, message: Message, enter: _Entry) -> None:
        continuity, connection = self.continuity, self._named(stream, message)
        if continuity is None or connection.ledger is None:
            self._ignore(message, "the connection ends with its link")
            return
        self._keep_to_books(connection, lambda each: enter(continuity, each, message))

    def _keep_to_books(self, connection: Connection, enter: Callable[[Connection], None]) -> None:
        """Enter something in the books of a connection, and break it if they contradict it."""
        try:
            enter(connection)
        except RemoteProtocolError:
            self.reset(connection, EndCause.PROTOCOL_ERROR.value)
            self._tell_end(connection, EndCause.PROTOCOL_ERROR)

    # -- ending -------------------------------------------------------------------------------

    def _remove(
        self, connection: Connection, failure: str = "", *, tells_peer: bool = False
    ) -> None:
        connection.stream.remove(connection)
        self._forget(connection, failure, tells_peer=tells_peer)

    def _forget(self, connection: Connection, failure: str, *, tells_peer: bool) -> None:
        """Recognise no message of a connection, and keep nothing for it.

        The peer is told of one that has been started on this link; of others it is told by the
        next agreement.
        """
        is_started = not connection.is_awaited
        self.known.remove(connection.data_key)
        if self.continuity is not None and connection.ledger is not None:
            self.continuity.resumption.end(connection.ledger)
        if tells_peer and is_started:
            self._outgoing.send(MessageType.CONNECTION_RESET, connection, failure=failure)

    def _reset_stream(self, connection: Connection, failure: str) -> None:
        """Reset the stream of a connection that this side ends; any others end with it."""
        stream = connection.stream
        self._remove(connection)
        stream.ended_stream_id = stream.stream_id
        self._outgoing.reset_stream(stream, failure)
        self._end_stream(stream, EndCause.STREAM_RESET)

    def _end_stream(
        self, stream: Stream, cause: EndCause, failure: str = "", *, tells_peer: bool = True
    ) -> None:
        ended = stream.end()
        for connection in ended:
            outlives = connection.ledger is not None
            self._forget(connection, cause.value, tells_peer=tells_peer and outlives)
        for connection in ended:
            self._tell_end(connection, cause, failure)

    def _tell_end(self, connection: Connection, cause: EndCause, failure: str = "") -> None:
        """Report an end; ``failure`` is why the peer calls it a failure, if it does."""
        ending = ENDINGS[cause]
        by_dialect = ending is Ending.BY_DIALECT and connection.has_connection_id
        # One that outlives links ends in order by messages of its own, and by no reset.
        is_reset = connection.ledger is not None and cause is not EndCause.COMPLETED
        if not failure and (by_dialect or is_reset or ending is Ending.FAILURE):
            unanswered = self._is_source and not connection.heard
            failure = _UNANSWERED if by_dialect and unanswered else cause.value
        self._handler.event_occurred(ConnectionEnded(connection, cause, failure))

    def _failure_in(self, message: Message) -> str:
        """Return what a reset says about why; empty from a peer that may mean something else."""
        if not self._far.has_flow:
            return ""
        text = bytes(message.payload[:_MAX_FAILURE]).decode(errors="replace")
        return "".join(c if c.isprintable() else "?" for c in text)

    _HANDLERS: Final[dict[Action, _StreamHandler]] = {
        Action.OPEN_STREAM: _open_stream,
        Action.REPLACE_STREAM: _open_stream,
        Action.ADD_CONNECTION: _add_connection,
        Action.CLOSE_CONNECTION: _close_connection,
        Action.CLOSE_STREAM: _close_stream,
        Action.NOTE_FLOW: _note_flow,
        Action.PAUSE_CONNECTION: _pause_or_resume,
        Action.RESUME_CONNECTION: _pause_or_resume,
        Action.GO_ON: _go_on,
        Action.TAKE_ACKNOWLEDGEMENT: _take_acknowledgement,
        Action.END_HALF: _end_half,
        Action.REFUSE_STREAM: _refuse_stream,
        Action.REFUSE_CONNECTION: _refuse_connection,
        Action.ANSWER_RESET: _answer,
        Action.IGNORE: _do_nothing,
    }
    """What carries out each action but DELIVER, which also needs the message's bytes."""
