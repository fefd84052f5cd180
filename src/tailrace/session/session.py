"""One end of a tunnel as a pure state machine: its link, its peer, and the messages to both.

Frames go in through :meth:`Session.receive_frame`; events and control messages come out
through the handler, application data through each connection's sink. What belongs to a stream is
the business of :mod:`.multiplexer`.

Most sessions live as long as their link: after a reconnect a new one is made, and ids start again
(guide V3, reconnecting). One that :attr:`~Session.survives` its link goes on with the next, and so
do those of its connections that were opened under an agreement with the peer (:mod:`.continuity`).

With each link such a session is *suspended* until it knows whom it has to do with, and again
whenever that changes. The service says whether the other side is connected, and what it can do:

* A peer that goes on over lost links sends nothing for a stream before both have agreed. What comes
  all the same was sent to an incarnation that has gone, and has no effect.
* With any other peer all is as the guides have it, and what waited for an agreement has failed.
* Without a peer, connections wait, for as long as the owner does not :meth:`~Session.give_up`. If
  there are none, new ones are refused by the service, as the guides have it.

What a message does is decided by the tables of :mod:`.transitions`; the methods here only
carry it out.
"""

from __future__ import annotations

from typing import Final

from ..errors import LocalProtocolError, RemoteProtocolError, ServiceIdMismatch
from ..wire import Capabilities, Message, MessageSplitter, Side, decode
from .continuity import Continuity
from .dialect import V1, Dialect
from .events import (
    EndCause,
    MessageIgnored,
    PeerChanged,
    PeerOffered,
    SessionHandler,
    TunnelReady,
)
from .far_end import FarEnd
from .multiplexer import Multiplexer
from .outgoing import Outgoing
from .replay import ReplayMemory
from .services import MAX_SERVICE_ID, match_service_ids
from .streams import Connection
from .transitions import SESSION, MessageKind, SessionAction, SessionState, kind_of

__all__ = ["Session"]

_PASSED_OVER: Final = {
    MessageKind.STREAM: "it was sent before the two ends had agreed to go on",
    MessageKind.OFFER: "nothing goes on over links here",
    MessageKind.IGNORABLE: "unknown type, marked ignorable",
}
"""Why a message had no effect on the session as a whole."""

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
    16 bytes; without one no connection outlives its link, and one must not be given to a source
    with an older dialect. What is kept for those that do is counted in ``memory``.
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
        self._far = FarEnd(dialect, learns=side is Side.SOURCE)
        self._configured = configured
        self._handler = handler
        self._announced: tuple[str, ...] = ()
        self._splitter = MessageSplitter()
        outgoing = Outgoing(handler.send_control)
        self._streams = streams = Multiplexer(side, self._far, outgoing, handler)
        self._known = streams.known
        self._continuity: Continuity | None = None
        """``None`` where no connection outlives its link."""
        if session_id is not None:
            kept = memory or ReplayMemory()
            self._continuity = Continuity(side, session_id, kept, outgoing, streams, self._agreed)
            streams.continuity = self._continuity
        # What is done with one connection, at no further cost.
        self.reset = streams.reset
        self.refuse = streams.refuse
        self.pause = streams.pause
        self.resume = streams.resume
        self.finish = streams.finish
        self.settle = streams.settle
        self.acknowledge = streams.acknowledge
        self.mark_reached = streams.mark_reached

    # -- links ---------------------------------------------------------------------------

    def receive_frame(self, frame: memoryview) -> None:
        """Take the payload of one WebSocket frame.

        Raises:
            RemoteProtocolError: the link cannot go on; close it with code 1002.
            ServiceIdMismatch: this end was started with the wrong service ids.
        """
        splitter = self._splitter
        # Nearly all frames are one message of a connection that is known.
        known = None if splitter.partial else self._known.find_only(frame)
        if known is not None:
            sink, start, stop = known
            sink.data_received(frame[start:stop])
            return
        find = self._known.find
        for body in splitter.feed(frame):
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
                self._streams.receive(message, body)
            else:
                self._receive_session_message(action, kind, message)

    @property
    def capabilities(self) -> Capabilities:
        """What the service passes on, and only to clients that can do the same.

        To be set before the first frame of a link.
        """
        return self._far.capabilities

    @capabilities.setter
    def capabilities(self, capabilities: Capabilities) -> None:
        self._far.capabilities = capabilities

    @property
    def survives(self) -> bool:
        """Whether the session can go on with another link when it loses this one."""
        return self._survivor is not None

    @property
    def _survivor(self) -> Continuity | None:
        """What goes on over this link; ``None`` unless its service passes offers on."""
        return self._continuity if self._far.passes_offers else None

    @property
    def closed(self) -> bool:
        """Whether the session is over, and its link gone."""
        return self.state is SessionState.CLOSED

    def link_lost(self, cause: EndCause = EndCause.LINK_LOST) -> None:
        """End what ends with the link, which is everything unless this session survives it.

        It never survives for another cause than that the link was lost.
        """
        if self.closed:
            return
        survivor = self._survivor
        if cause is EndCause.LINK_LOST and survivor is not None:
            # As before the first link, in all but its streams.
            self.state = SessionState.AWAITING_SERVICE_IDS
            self._splitter = MessageSplitter()
            self._far.begin()
            self._streams.end_plain(cause)
            survivor.resumption.link_lost()
            survivor.tell_suspended()
        else:
            self.state = SessionState.CLOSED
            self._streams.end_all(cause, tells_peer=False)

    # -- what the owner asks for ---------------------------------------------------------

    @property
    def dialect(self) -> Dialect:
        """What messages carry on this link."""
        return self._far.dialect

    @property
    def service_ids(self) -> tuple[str, ...]:
        """The agreed service ids; empty before the tunnel is ready."""
        return tuple(self._streams.streams)

    @property
    def connections(self) -> list[Connection]:
        """All open connections."""
        return self._streams.connections

    def count(self, service_id: str) -> int:
        """Return the number of open connections of a service."""
        stream = self._streams.streams.get(service_id)
        return len(stream.connections) if stream is not None else 0

    def can_open(self, service_id: str) -> bool:
        """Return whether :meth:`open` would succeed; V1 and V2 carry one connection a stream."""
        return self.state is SessionState.READY and self._streams.has_room(service_id)

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
        return self._streams.open(service_id)

    def reset_all(self, failure: str = "") -> None:
        """End every open connection from this side; ``failure`` as for :meth:`reset`."""
        for connection in self.connections:
            self.reset(connection, failure)

    def give_up(self, cause: EndCause = EndCause.NOT_RESUMED) -> None:
        """End the connections that outlive links: the peer does not come to go on with them.

        Those that have waited to be told whom they reach end, too.
        """
        self._streams.end_waiting(cause)
        if self._continuity is not None:
            self._continuity.give_up(cause)
            if self.state is SessionState.SUSPENDED and self._far.peer_present is False:
                self._become_ready()

    # -- messages of the session ----------------------------------------------------------

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
            self._streams.end_all(EndCause.SESSION_RESET, tells_peer=True)
        elif action is SessionAction.NOTE_PEER:
            self._note_peer(message)
        elif action is SessionAction.TAKE_OFFER:
            self._take_offer(message)
        elif action is SessionAction.IGNORE:
            self._ignore(message, _PASSED_OVER[kind])
        else:
            raise RemoteProtocolError(_ENDS_LINK[kind].format(message))

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
        survivor = self._survivor
        if survivor is not None and not survivor.resumption.fits(service_ids):
            raise RemoteProtocolError("the service announced more service ids than an offer holds")
        if survivor is None or set(announced) != set(self._announced):
            self.give_up(EndCause.PEER_CANNOT_RESUME)
        self._announced = announced
        self._streams.set_services(service_ids)
        if survivor is None:
            self._become_ready()
        else:
            self.state = SessionState.SUSPENDED
            survivor.resumption.link_up()
            self._follow_peer(survivor)
        self._handler.event_occurred(TunnelReady(service_ids))

    def _ignore(self, message: Message, reason: str) -> None:
        self._handler.event_occurred(MessageIgnored(message.type, message.service_id, reason))

    # -- the peer -------------------------------------------------------------------------

    def _note_peer(self, message: Message) -> None:
        """Note what a service of this project says about the other side of the tunnel."""
        if not self._far.tells_presence:
            self._ignore(message, "the service does not tell of peers")
            return
        changes = self._far.note_presence(message)
        if changes and not self._far.peer_present:
            # What waits for a peer that came and went has been started at nobody else.
            self._streams.end_waiting(EndCause.PEER_RESTARTED)
        if self._survivor is not None and self.state is not SessionState.AWAITING_SERVICE_IDS:
            self._follow_peer(self._survivor)
        if changes:
            self._handler.event_occurred(PeerChanged(self._far.peer_present is True))

    def _follow_peer(self, continuity: Continuity) -> None:
        """Wait for an agreement, or do without one, as the other side of the tunnel requires."""
        far = self._far
        if far.peer_present is None:
            return
        if far.peer_resumes:
            if not continuity.is_live:
                self._await_agreement()
            return
        if far.peer_present:
            continuity.give_up(EndCause.PEER_CANNOT_RESUME)
        continuity.resumption.peer_left()
        if far.peer_present:
            self._streams.meet()
        if continuity.has_connections:
            self.state = SessionState.SUSPENDED
            continuity.tell_suspended()
        else:
            self._become_ready()

    def _await_agreement(self) -> None:
        """Take no stream message until both ends have agreed: this peer opens none before."""
        self._streams.end_plain(EndCause.PEER_RESTARTED, keeps_new=True)
        self.state = SessionState.SUSPENDED

    def _take_offer(self, message: Message) -> None:
        survivor, far = self._survivor, self._far
        if survivor is None or (far.peer_present and not far.peer_resumes):
            self._ignore(message, _PASSED_OVER[MessageKind.OFFER])
            return
        self._handler.event_occurred(PeerOffered(survivor.cost_of(message)))
        if not survivor.is_live:
            self._await_agreement()
        survivor.resumption.offer_received(message.payload)
        if not survivor.is_live:
            self.state = SessionState.SUSPENDED
            survivor.tell_suspended()

    def _agreed(self) -> None:
        """Called when both ends have agreed on what goes on."""
        self._far.peer_agreed()
        self._become_ready()
        self._streams.meet()

    def _become_ready(self) -> None:
        self.state = SessionState.READY
        self._streams.forget_idle()
