"""One end of a tunnel over one link, as a pure state machine.

Frames go in through :meth:`Session.receive_frame`; events and control messages come out
through the handler, application data through each connection's sink. A session lives as long
as its link: after a reconnect a new one is made, and ids start again (guide V3, reconnecting).
One that :attr:`~Session.survives` its link goes on with the next, and so do those of its
connections that were opened under an agreement with the peer (:mod:`.continuity`).

What a message does is decided by the tables of :mod:`.transitions`; the methods here only
carry it out. Three rules hold in all of them:

* A control message leaves before the event that it belongs to: the handler may open the next
  stream at once, and that one must not be hit by a reset of the last.
* An end is reported for each connection exactly once, after the connection has left its stream.
* Data of a connection that has been heard once does not come here any more: the bytes before its
  payload are known (:mod:`tailrace.wire.fastpath`), and its sink gets the payload directly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from ..errors import LocalProtocolError, RemoteProtocolError, ServiceIdMismatch
from ..wire import (
    FLOW,
    NO_CAPABILITIES,
    PEER_LISTENS,
    Capabilities,
    Capability,
    ConnectionIndex,
    Message,
    MessageSplitter,
    MessageType,
    Side,
    decode,
    parse_capabilities,
)
from .continuity import Continuity
from .dialect import V1, V2, V3, Dialect
from .events import (
    ConnectionEnded,
    ConnectionPaused,
    ConnectionRequested,
    ConnectionResumed,
    DialectLearned,
    EndCause,
    Event,
    MessageIgnored,
    PeerChanged,
    PeerOffered,
    SessionHandler,
    TunnelReady,
)
from .ledger import Counts, Ledger
from .outgoing import Outgoing
from .replay import ReplayMemory
from .services import MAX_SERVICE_ID, match_service_ids
from .streams import Connection, DataSink, Stream, StreamState
from .transitions import (
    DESTINATION,
    ENDINGS,
    SESSION,
    SOURCE,
    Action,
    Ending,
    MessageKind,
    SessionAction,
    SessionState,
    Standing,
    kind_of,
    standing_of,
)

__all__ = ["Session"]

_StreamHandler: TypeAlias = Callable[["Session", Stream, Message, Standing], None]
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

_PASSED_OVER: Final = {
    MessageKind.STREAM: "it was sent before the two ends had agreed to go on",
    MessageKind.OFFER: "nothing goes on over links here",
    MessageKind.IGNORABLE: "unknown type, marked ignorable",
}
"""Why a message had no effect on the session as a whole."""

_UNANSWERED: Final = "no destination is connected, or it could not reach its application"
"""What a reset of the stream means where nothing has come back."""
_MAX_FAILURE: Final = 200
"""Bytes of the words in a reset that are read."""

_ENDS_LINK: Final = {
    MessageKind.STREAM: "a stream message came before the service ids",
    MessageKind.FLOW_UNMARKED: "message type {0.type} is not marked ignorable",
    MessageKind.UNKNOWN: "message type {0.type} is unknown and not ignorable",
}


class Session:
    """The state machine of one end.

    ``configured`` are the service ids this end was started with, see
    :func:`~tailrace.session.services.match_service_ids`. ``dialect`` fixes the message format a
    source uses; ``None`` means V3, giving way to an older one where the peer's answers
    show it. A destination always answers in the form it was addressed. ``session_id`` is random,
    16 bytes; without one no connection outlives its link. What is kept for those that do is counted
    in ``memory``.
    """

    def __init__(
        self,
        side: Side,
        handler: SessionHandler,
        configured: tuple[str, ...] | None = None,
        dialect: Dialect | None = None,
        session_id: bytes | None = None,
        memory: ReplayMemory | None = None,
    ) -> None:
        self.side = side
        self.state = SessionState.AWAITING_SERVICE_IDS
        self.dialect = dialect or V3
        self.capabilities = NO_CAPABILITIES
        """What the service has said that it passes on, and only to clients that can do the same.
        Set it before the first frame of a link."""
        self._peer_present: bool | None = None
        """Whether the other side is connected; ``None`` as long as the service has not said."""
        self._peer_capabilities = NO_CAPABILITIES
        """What the service has said that the other side can do."""
        self._fixed_dialect = dialect
        self._may_learn = dialect is None and side is Side.SOURCE
        self._configured = configured
        self._handler = handler
        self._outgoing = Outgoing(handler.send_control)
        self._continuity: Continuity | None = None
        """``None`` where no connection outlives its link."""
        if session_id is not None:
            memory = memory or ReplayMemory()
            self._continuity = Continuity(side, session_id, memory, self._outgoing, self)
        self._table = SOURCE if side is Side.SOURCE else DESTINATION
        self._splitter = MessageSplitter()
        self._announced: tuple[str, ...] = ()
        self._streams: dict[str, Stream] = {}
        self._known: ConnectionIndex[DataSink] = ConnectionIndex()

    # -- what the link brings -------------------------------------------------------

    def receive_frame(self, frame: memoryview) -> None:
        """Take the payload of one WebSocket frame.

        Raises:
            RemoteProtocolError: the link cannot go on; close it with code 1002.
            ServiceIdMismatch: this end was started with the wrong service ids.
        """
        find = self._known.find
        only = self._splitter.only(frame)
        for body in self._splitter.feed(frame) if only is None else (only,):
            known = find(body)
            if known is not None:
                sink, start, stop = known
                sink.data_received(body[start:stop])
                continue
            if self.closed:
                return
            message = decode(body)
            kind = kind_of(message)
            action = SESSION[self.state, kind]
            if action is SessionAction.TO_STREAM:
                self._receive_stream_message(message, body)
            else:
                self._receive_session_message(action, kind, message)

    @property
    def survives(self) -> bool:
        """Whether the session can go on with another link when it loses this one."""
        return Capability.RESUME in self.capabilities and self._continuity is not None

    def link_lost(self, cause: EndCause = EndCause.LINK_LOST) -> None:
        """End what ends with the link, which is everything unless this session survives it.

        It never survives for another cause than that the link was lost.
        """
        if cause is EndCause.LINK_LOST and self.survives and self._continuity is not None:
            self._end_plain(cause, has_link=False)
            self._await_link()
            self._continuity.resumption.link_lost()
            self._continuity.tell_suspended()
        else:
            self.state = SessionState.CLOSED
            for stream in self._streams.values():
                self._end_stream(stream, cause)

    def give_up(self, cause: EndCause = EndCause.NOT_RESUMED) -> None:
        """End the connections that wait for the peer to go on with them."""
        if self._continuity is not None:
            self._continuity.give_up(cause)
            self._end_idle_streams()
            if self.state is SessionState.SUSPENDED and self._peer_present is False:
                self.state = SessionState.READY

    def _await_link(self) -> None:
        """Be as a session is before its first link, in all but its streams."""
        self.state = SessionState.AWAITING_SERVICE_IDS
        self.dialect = self._fixed_dialect or V3
        self._may_learn = self._fixed_dialect is None and self.side is Side.SOURCE
        self._peer_present = None
        self._peer_capabilities = NO_CAPABILITIES
        self._splitter = MessageSplitter()

    # -- what the owner asks for ---------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the link of this session is gone."""
        return self.state is SessionState.CLOSED

    @property
    def service_ids(self) -> tuple[str, ...]:
        """The agreed service ids; empty before the tunnel is ready."""
        return tuple(self._streams)

    @property
    def connections(self) -> list[Connection]:
        """All open connections."""
        return [c for stream in self._streams.values() for c in stream.connections.values()]

    def count(self, service_id: str) -> int:
        """Return the number of open connections of a service."""
        stream = self._streams.get(service_id)
        return len(stream.connections) if stream is not None else 0

    def can_open(self, service_id: str) -> bool:
        """Return whether :meth:`open` would succeed; V1 and V2 carry one connection a stream."""
        stream = self._streams.get(service_id)
        if self.state is not SessionState.READY or stream is None:
            return False
        return self.dialect.has_connection_id or not stream.connections

    def open(self, service_id: str) -> Connection:
        """Open a connection (source only): STREAM_START, or CONNECTION_START on an open stream.

        Data may be sent at once, unless :attr:`Connection.is_paused`; a refusal comes back as a
        reset.

        Raises:
            LocalProtocolError: not a source, not ready, unknown service, or the stream is
                taken and the dialect knows one connection only.
        """
        if self.side is not Side.SOURCE:
            raise LocalProtocolError("only a source opens connections")
        if not self.can_open(service_id):
            raise LocalProtocolError(f"service {service_id!r} cannot take a connection now")
        stream = self._streams[service_id]
        has_connection_id = self.dialect.has_connection_id
        if stream.state is StreamState.OPEN and has_connection_id:
            kind = MessageType.CONNECTION_START
        else:
            kind = MessageType.STREAM_START
            stream.wire_name = self._wire_name(service_id)
            stream.begin(stream.next_stream_id(), self._peer_capabilities)
        connection_id = stream.next_connection_id()
        counts = self._new_counts(service_id, stream.stream_id, connection_id)
        connection = stream.add(connection_id, has_connection_id, counts)
        connection.is_paused = connection.is_awaited
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
            is_started = not connection.is_awaited
            self._remove(connection)
            if is_started:
                self._outgoing.send(MessageType.CONNECTION_RESET, connection, failure=failure)
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
        if connection.can_pause and connection.is_open and not connection.pauses_peer:
            connection.pauses_peer = True
            self._outgoing.send_ours(MessageType.CONNECTION_PAUSE, connection)

    def resume(self, connection: Connection) -> None:
        """Ask the peer for data of a connection again; does nothing if it is not paused."""
        if connection.pauses_peer and connection.is_open:
            connection.pauses_peer = False
            self._outgoing.send_ours(MessageType.CONNECTION_RESUME, connection)

    def mark_reached(self, connection: Connection) -> None:
        """Judge what has come for a connection that outlives links, at its mark.

        Call :meth:`acknowledge` some time after that.
        """
        if connection.is_open and self._continuity is not None:
            self._keep_to_books(connection, self._continuity.mark_reached)

    def acknowledge(self, connection: Connection) -> None:
        """Acknowledge all that has come for a connection that outlives links."""
        if connection.is_open and self._continuity is not None:
            self._continuity.acknowledge(connection)

    def settle(self, connection: Connection) -> None:
        """Send what is due for a connection that outlives links: its end, an acknowledgement."""
        if connection.is_open and self._continuity is not None:
            self._continuity.settle(connection)

    def finish(self, connection: Connection) -> None:
        """End the half of a connection that this end sends; one that outlives links can do that."""
        if connection.is_open and connection.ledger is not None:
            connection.ledger.end()
            self.settle(connection)

    def reset_all(self, failure: str = "") -> None:
        """End every open connection from this side; ``failure`` as for :meth:`reset`."""
        for connection in self.connections:
            self.reset(connection, failure)

    # -- messages of the session -----------------------------------------------------

    def _receive_session_message(
        self, action: SessionAction, kind: MessageKind, message: Message
    ) -> None:
        if action is SessionAction.MATCH_SERVICE_IDS:
            self._match_service_ids(message)
        elif action is SessionAction.COMPARE_SERVICE_IDS:
            if set(message.available_service_ids) != set(self._announced):
                raise RemoteProtocolError("the service announced other service ids than before")
            self._ignore(message, "service ids announced again")
        elif action is SessionAction.END_STREAMS:
            for stream in self._streams.values():
                self._end_stream(stream, EndCause.SESSION_RESET)
        elif action is SessionAction.NOTE_PEER:
            self._note_peer(message)
        elif action is SessionAction.TAKE_OFFER:
            self._take_offer(message)
        elif action is SessionAction.IGNORE:
            self._ignore(message, _PASSED_OVER[kind])
        else:
            raise RemoteProtocolError(_ENDS_LINK[kind].format(message))

    def _note_peer(self, message: Message) -> None:
        """Note what a service of this project says about the other side of the tunnel."""
        present = message.type == MessageType.PEER_JOINED
        if not self._has_flow:
            self._ignore(message, "the service does not tell of peers")
            return
        self._peer_capabilities = self._told_capabilities(message) if present else NO_CAPABILITIES
        changes = present is not self._peer_present
        self._peer_present = present
        if self.survives and self._continuity is not None:
            self._peer_changed(self._continuity)
        if changes:
            self._handler.event_occurred(PeerChanged(present))

    def _told_capabilities(self, message: Message) -> Capabilities:
        """Return what PEER_JOINED says that the other side can do."""
        if Capability.RESUME in self.capabilities:
            return parse_capabilities((bytes(message.payload).decode(errors="replace"),))
        return FLOW if message.payload == PEER_LISTENS else NO_CAPABILITIES

    def _peer_changed(self, continuity: Continuity) -> None:
        """Wait for an agreement, or do without one, as the other side of the tunnel requires."""
        if Capability.RESUME in self._peer_capabilities:
            if not continuity.is_live:
                self._await_agreement()
            return
        if self._peer_present:
            self._go_on_plainly(continuity)
            continuity.give_up(EndCause.PEER_CANNOT_RESUME)
        continuity.resumption.peer_left()
        self._end_idle_streams()
        if continuity.has_connections:
            self.state = SessionState.SUSPENDED
            continuity.tell_suspended()
        else:
            self.state = SessionState.READY

    def _go_on_plainly(self, continuity: Continuity) -> None:
        """Take connections that were opened before anybody was there for ones without books."""
        for connection in self.connections:
            ledger = connection.ledger
            if ledger is not None and not ledger.has_begun:
                continuity.resumption.end(ledger)
                connection.counts = Counts()
                connection.is_paused = False
                connection.stream.peer_capabilities = self._peer_capabilities
                self._announce_flow(connection)
                self._handler.event_occurred(ConnectionResumed(connection))

    def _await_agreement(self) -> None:
        """Take no stream message until both ends have agreed: this peer opens none before."""
        self._end_plain(EndCause.PEER_RESTARTED)
        self.state = SessionState.SUSPENDED

    def _take_offer(self, message: Message) -> None:
        continuity = self._continuity
        if continuity is None or not self.survives:
            self._ignore(message, _PASSED_OVER[MessageKind.OFFER])
            return
        self._handler.event_occurred(PeerOffered(len(continuity.resumption.ledgers)))
        if not continuity.is_live:
            self._await_agreement()
        continuity.resumption.offer_received(message.payload)
        if not continuity.is_live:
            self.state = SessionState.SUSPENDED
            continuity.tell_suspended()

    def _match_service_ids(self, message: Message) -> None:
        announced = message.available_service_ids
        if any(len(name.encode()) > MAX_SERVICE_ID for name in announced):
            raise RemoteProtocolError(
                f"the service announced a service id longer than {MAX_SERVICE_ID} bytes"
            )
        service_ids = match_service_ids(self._configured, announced)
        if self.dialect is V1 and len(service_ids) > 1:
            raise ServiceIdMismatch(
                f"a V1 peer carries one service, the tunnel has [{', '.join(service_ids)}]",
                setting="dialect",
            )
        continuity = self._continuity
        if continuity is None or not continuity.resumption.has_met:
            self._streams = {}
        elif set(announced) != set(self._announced) or not self.survives:
            continuity.give_up(EndCause.PEER_CANNOT_RESUME)
            self._streams = {}
        self._announced = announced
        for name in service_ids:
            self._streams.setdefault(name, Stream(name, self._wire_name(name)))
        # A service that passes offers on says first whether there is anybody to agree with.
        self.state = SessionState.SUSPENDED if self.survives else SessionState.READY
        if continuity is not None and self.survives:
            continuity.resumption.link_up()
        self._handler.event_occurred(TunnelReady(service_ids))

    def _wire_name(self, service_id: str) -> str:
        return service_id if self.dialect.has_service_id else ""

    # -- messages of a stream --------------------------------------------------------

    def _receive_stream_message(self, message: Message, body: memoryview) -> None:
        stream = self._find_stream(message)
        has_ended = (
            stream is not None
            and self._continuity is not None
            and self._continuity.has_ended(message, stream.service_id)
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
        stream = self._streams.get(message.service_id)
        if stream is None and not message.service_id and len(self._streams) == 1:
            # A V1 peer names no service; where there is only one, it means that one.
            (stream,) = self._streams.values()
        return stream

    def _deliver(self, stream: Stream, message: Message, body: memoryview) -> None:
        connection = self._named(stream, message)
        if not connection.heard:
            connection.heard = True
            if self._may_learn:
                self._learn(stream, message)
            if connection.sink is not None:
                connection.data_key = self._known.add(body, message, connection.sink)
        payload = message.payload
        if isinstance(payload, memoryview) and payload and connection.sink is not None:
            connection.sink.data_received(payload)

    def _learn(self, stream: Stream, message: Message) -> None:
        """Adopt the dialect of a peer whose first answer lacks what V3 and V2 carry.

        Safe only while no stream has more than one connection: then nothing that is
        under way needs what the older dialect cannot say.
        """
        self._may_learn = False
        if message.connection_id or any(len(s.connections) > 1 for s in self._streams.values()):
            return
        # A V1 peer skips the service id, and names must not come and go on one link
        # (guide V2, backward compatibility): towards either, messages are those of V2.
        self.dialect = V2
        for connection in self.connections:
            connection.drop_number()
        learned = V2 if message.service_id == stream.service_id else V1
        self._handler.event_occurred(DialectLearned(learned))

    def _open_stream(self, stream: Stream, message: Message, standing: Standing) -> None:
        self._end_stream(stream, EndCause.STREAM_REPLACED)
        stream.begin(message.stream_id, self._peer_capabilities)
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
        if self._continuity is None:
            return Counts()
        # A peer of which the service has not told yet may get the start, before it can agree.
        may_agree = self.survives and not self._peer_present
        return self._continuity.new_counts(
            service_id, stream_id, connection_id, may_agree=may_agree
        )

    def _named(self, stream: Stream, message: Message) -> Connection:
        """Return the connection that a message which stands LIVE names."""
        connection = stream.find(message.connection_id)
        assert connection is not None
        return connection

    def _close_connection(self, stream: Stream, message: Message, standing: Standing) -> None:
        connection = self._named(stream, message)
        self._remove(connection)
        self._tell_end(connection, EndCause.CONNECTION_RESET, self._failure_in(message))

    def _close_stream(self, stream: Stream, message: Message, standing: Standing) -> None:
        if self._may_learn and message.service_id != stream.wire_name:
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
        connection = stream.find(message.connection_id)
        if connection is not None and message.stream_id == stream.stream_id:
            self._remove(connection)
            self._tell_end(connection, EndCause.PROTOCOL_ERROR)
        if self.side is Side.SOURCE:
            self._ignore(message, "a destination must not start connections")
        else:
            self._ignore(message, _REFUSED[standing])

    def _answer(self, stream: Stream, message: Message, standing: Standing) -> None:
        """Answer a start that cannot be served: the peer's client must not be left waiting."""
        self._answer_reset(message)
        self._ignore(message, _IGNORED[standing])

    def _do_nothing(self, stream: Stream, message: Message, standing: Standing) -> None:
        self._ignore(message, _IGNORED[standing].format(message))

    # -- flow messages -----------------------------------------------------------------

    @property
    def _has_flow(self) -> bool:
        """Return whether the service passes on flow messages."""
        return Capability.FLOW in self.capabilities

    def _heard_flow(self, stream: Stream) -> None:
        """Note that the peer of a stream has sent a flow message."""
        if self._has_flow:
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
        if self._has_flow and connection.is_open and connection.ledger is None:
            self._outgoing.send_ours(MessageType.CONNECTION_RESUME, connection)

    # -- connections that outlive links --------------------------------------------------

    def connection_of(self, ledger: Ledger) -> Connection:
        return self._streams[ledger.service_id].connections[ledger.connection_id]

    def forget_forms(self) -> None:
        self._known.clear()
        for connection in self.connections:
            connection.data_key = None
            connection.heard = False

    def agreed(self) -> None:
        self.state = SessionState.READY
        self._end_idle_streams()

    def end_connection(self, connection: Connection, cause: EndCause) -> None:
        self._remove(connection)
        self._tell_end(connection, cause)

    def tell(self, event: Event) -> None:
        self._handler.event_occurred(event)

    def _go_on(self, stream: Stream, message: Message, standing: Standing) -> None:
        assert self._continuity is not None
        self._continuity.go_on(stream.connections[message.connection_id])

    def _take_acknowledgement(self, stream: Stream, message: Message, standing: Standing) -> None:
        self._enter_in_books(stream, message, Continuity.acknowledged)

    def _end_half(self, stream: Stream, message: Message, standing: Standing) -> None:
        self._enter_in_books(stream, message, Continuity.finished)

    def _enter_in_books(self, stream: Stream, message: Message, enter: _Entry) -> None:
        continuity, connection = self._continuity, self._named(stream, message)
        if continuity is not None:
            self._keep_to_books(connection, lambda each: enter(continuity, each, message))

    def _keep_to_books(self, connection: Connection, enter: Callable[[Connection], None]) -> None:
        """Enter something in the books of a connection, and break it if they contradict it."""
        try:
            enter(connection)
        except RemoteProtocolError:
            self.reset(connection, EndCause.PROTOCOL_ERROR.value)
            self._tell_end(connection, EndCause.PROTOCOL_ERROR)

    # -- ending and sending ------------------------------------------------------------

    def _remove(self, connection: Connection) -> None:
        connection.stream.remove(connection)
        self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        """Recognise no message of a connection, and keep nothing for it."""
        self._known.remove(connection.data_key)
        if self._continuity is not None and connection.ledger is not None:
            self._continuity.resumption.end(connection.ledger)

    def _end_plain(self, cause: EndCause, *, has_link: bool = True) -> None:
        """End the connections that no agreement covers, nor will on this link."""
        for connection in self.connections:
            ledger = connection.ledger
            if ledger is None or not (has_link or ledger.has_begun):
                self.end_connection(connection, cause)

    def _end_idle_streams(self) -> None:
        """End the streams without connections: the service has forgotten them with the peer."""
        for stream in self._streams.values():
            if not stream.connections:
                stream.end()

    def _end_stream(self, stream: Stream, cause: EndCause, failure: str = "") -> None:
        ended = stream.end()
        for connection in ended:
            self._forget(connection)
        for connection in ended:
            self._tell_end(connection, cause, failure)

    def _tell_end(self, connection: Connection, cause: EndCause, failure: str = "") -> None:
        """Report an end; ``failure`` is why the peer calls it a failure, if it does."""
        ending = ENDINGS[cause]
        by_dialect = ending is Ending.BY_DIALECT and connection.has_connection_id
        # One that outlives links ends in order by messages of its own, and by no reset.
        is_reset = connection.ledger is not None and cause is not EndCause.COMPLETED
        if not failure and (by_dialect or is_reset or ending is Ending.FAILURE):
            unanswered = self.side is Side.SOURCE and not connection.heard
            failure = _UNANSWERED if by_dialect and unanswered else cause.value
        self._handler.event_occurred(ConnectionEnded(connection, cause, failure))

    def _failure_in(self, message: Message) -> str:
        """Return what a reset says about why; empty from a peer that may mean something else."""
        if not self._has_flow:
            return ""
        text = bytes(message.payload[:_MAX_FAILURE]).decode(errors="replace")
        return "".join(c if c.isprintable() else "?" for c in text)

    def _reset_stream(self, connection: Connection, failure: str) -> None:
        """Reset the stream of a connection that this side ends; any others end with it."""
        stream = connection.stream
        self._remove(connection)
        stream.ended_stream_id = stream.stream_id
        self._outgoing.reset_stream(stream, failure)
        self._end_stream(stream, EndCause.STREAM_RESET)

    def _answer_reset(self, message: Message) -> None:
        """Answer a start with the reset of the same kind: no other connection must be hit.

        A peer that goes on over links may have more connections in a stream that it starts again.
        """
        is_agreed = self._continuity is not None and self._continuity.is_live
        whole_stream = message.type == MessageType.STREAM_START and not is_agreed
        self._outgoing.answer_reset(message, whole_stream=whole_stream)

    def _ignore(self, message: Message, reason: str) -> None:
        self._handler.event_occurred(MessageIgnored(message.type, message.service_id, reason))

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
