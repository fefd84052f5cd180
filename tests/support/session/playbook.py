"""A playbook: what goes into a session and, step for step, what must come out of it.

::

    book = Playbook(Role.SOURCE, ("SSH1",))
    book.receive("0008 0805 3204 53534831")
    book.expect(Ready(("SSH1",)))
    book.open("SSH1")
    book.expect("000c 0802 1001 2a04 53534831 3801")

Everything a session does stands in one list, in the order it did it: events, messages
sent, data handed to a sink. ``expect`` compares all of it, so that nothing happens
unnoticed; a playbook that differs prints both sides next to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import TypeAlias

from hypothesis import HealthCheck, Phase, settings

from tailrace.session import (
    Connection,
    ConnectionEnded,
    ConnectionPaused,
    ConnectionRequested,
    ConnectionResumed,
    Dialect,
    DialectLearned,
    EndCause,
    Event,
    MessageIgnored,
    PeerChanged,
    PeerFinished,
    PeerOffered,
    Session,
    Suspended,
    TunnelReady,
)
from tailrace.session import Resumed as SessionResumed
from tailrace.session.ledger import FIRST_LIMIT
from tailrace.wire import (
    FLOW,
    NOBODY,
    RESUME,
    Capabilities,
    Message,
    MessageType,
    Place,
    Progress,
    SessionOffer,
    Side,
    decode,
    decode_offer,
    encode_delimited,
    encode_offer,
    format_capabilities,
)

__all__ = [
    "ME",
    "RESUMABLE",
    "YOU",
    "Agreed",
    "Data",
    "Ended",
    "Finished",
    "Ignored",
    "Learned",
    "Offered",
    "Paused",
    "Peer",
    "Playbook",
    "Ready",
    "Requested",
    "Resumed",
    "Sent",
    "Step",
    "Waits",
    "budget",
    "effort",
    "feed",
    "frame_of",
    "joined",
    "left",
    "live",
    "offer",
    "offered",
    "place",
    "ready",
    "service_ids",
]

ME, YOU = b"m" * 16, b"y" * 16
"""Session ids of a playbook's session and of its peer."""
RESUMABLE: Capabilities = FLOW | RESUME
"""What a service passes on, and a peer can do, so that connections outlive links."""

_USUAL_EXAMPLES = 100
"""Examples of a test without settings of its own, in the house profile."""


def effort() -> float:
    """Return how many times more than usual the profile of Hypothesis asks for."""
    profile = settings.get_profile(settings.get_current_profile_name())
    return profile.max_examples / _USUAL_EXAMPLES


def budget(examples: int) -> settings:
    """Hypothesis settings for a test that runs ``examples`` examples on every commit."""
    return settings(
        max_examples=max(1, int(examples * effort())),
        report_multiple_bugs=False,
        phases=[phase for phase in Phase if phase is not Phase.explain],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


# -- steps ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sent:
    """The session, or a connection, sent one message; ``frame`` has its length prefix."""

    frame: bytes

    def __str__(self) -> str:
        return f"sent {_describe(decode(memoryview(self.frame)[2:]))}: {self.frame.hex()}"


@dataclass(frozen=True, slots=True)
class Ready:
    """TunnelReady."""

    service_ids: tuple[str, ...]

    def __str__(self) -> str:
        return f"ready {list(self.service_ids)}"


@dataclass(frozen=True, slots=True)
class _Of:
    """Something that happened to a connection."""

    service_id: str
    stream_id: int
    connection_id: int

    def __str__(self) -> str:
        name = f"{self.service_id or '-'}/{self.stream_id}/{self.connection_id}"
        return f"{type(self).__name__.lower()} {name}"


@dataclass(frozen=True, slots=True)
class Requested(_Of):
    """ConnectionRequested."""


@dataclass(frozen=True, slots=True)
class Data:
    """A sink received ``payload``."""

    service_id: str
    stream_id: int
    connection_id: int
    payload: bytes

    def __str__(self) -> str:
        name = f"{self.service_id or '-'}/{self.stream_id}/{self.connection_id}"
        if len(self.payload) <= 40:
            return f"data {name}: {self.payload!r}"
        return f"data {name}: {len(self.payload)} bytes, {self.payload[:8]!r}..."


@dataclass(frozen=True, slots=True)
class Ended:
    """ConnectionEnded."""

    service_id: str
    stream_id: int
    connection_id: int
    cause: EndCause
    failure: str = field(default="", compare=False)
    """Why it failed, if it did; of the session, and compared by those who care."""

    def __str__(self) -> str:
        name = f"{self.service_id or '-'}/{self.stream_id}/{self.connection_id}"
        return f"ended {name}: {self.cause.name}"


@dataclass(frozen=True, slots=True)
class Paused(_Of):
    """ConnectionPaused."""


@dataclass(frozen=True, slots=True)
class Resumed(_Of):
    """ConnectionResumed."""


@dataclass(frozen=True, slots=True)
class Finished(_Of):
    """PeerFinished."""


@dataclass(frozen=True, slots=True)
class Waits:
    """Suspended."""

    connections: int


@dataclass(frozen=True, slots=True)
class Offered:
    """PeerOffered."""

    connections: int


@dataclass(frozen=True, slots=True)
class Agreed:
    """Resumed."""

    connections: int = 0
    replayed: int = 0


@dataclass(frozen=True, slots=True)
class Learned:
    """DialectLearned."""

    dialect: Dialect

    def __str__(self) -> str:
        return f"learned {self.dialect.name}"


@dataclass(frozen=True, slots=True)
class Peer:
    """PeerChanged."""

    present: bool

    def __str__(self) -> str:
        return f"the peer is {'' if self.present else 'not '}connected"


@dataclass(frozen=True, slots=True)
class Ignored:
    """MessageIgnored; the reason is for people and not compared."""

    type: int
    service_id: str = ""

    def __str__(self) -> str:
        return f"ignored {_type_name(self.type)} of {self.service_id or '-'}"


Step: TypeAlias = (
    Sent
    | Ready
    | Requested
    | Data
    | Ended
    | Paused
    | Resumed
    | Finished
    | Waits
    | Offered
    | Agreed
    | Learned
    | Peer
    | Ignored
)


def _type_name(number: int) -> str:
    try:
        return MessageType(number).name
    except ValueError:
        return f"type {number}"


def _describe(message: Message) -> str:
    name = f"{message.service_id or '-'}/{message.stream_id}/{message.connection_id or '-'}"
    size = f" {len(message.payload)} bytes" if message.type == MessageType.DATA else ""
    return f"{_type_name(message.type)} {name}{size}"


def frame_of(what: str | bytes | Message) -> bytes:
    """Return the bytes for hex digits (blanks allowed), for bytes, or for one message."""
    if isinstance(what, str):
        return bytes.fromhex(what)
    return encode_delimited(what) if isinstance(what, Message) else what


def service_ids(*names: str) -> Message:
    """Return the message with which the service announces ``names``."""
    return Message(MessageType.SERVICE_IDS, available_service_ids=names)


def feed(session: Session, frame: bytes) -> None:
    """Give a session one frame, and overwrite the frame's memory afterwards.

    The links do the same: whoever keeps a view instead of a copy is found out.
    """
    memory = bytearray(frame)
    with memoryview(memory) as view:
        session.receive_frame(view)
    memory[:] = b"\xee" * len(memory)


def _canonical(frame: bytes) -> bytes:
    """Return DATA with its fields in ascending order; ours has the payload last."""
    message = decode(memoryview(frame)[2:])
    return encode_delimited(message) if message.type == MessageType.DATA else frame


# -- the playbook ----------------------------------------------------------------------


class _Sink:
    """Writes what one connection receives into the playbook."""

    def __init__(self, book: Playbook, connection: Connection) -> None:
        self._book = book
        self._connection = connection

    def data_received(self, payload: memoryview) -> None:
        c = self._connection
        self._book.record(Data(c.service_id, c.stream_id, c.connection_id, bytes(payload)), None)


class Playbook:
    """One session and the list of what it did; the session's handler at the same time.

    ``react`` is called for each event after it was written down: the room above may
    open, reset and refuse from inside an event.
    """

    def __init__(
        self,
        side: Side,
        configured: tuple[str, ...] | None = None,
        dialect: Dialect | None = None,
        react: Callable[[Event], None] | None = None,
        *,
        may_pause: bool = False,
        resumes: bool = False,
    ) -> None:
        self.session = Session(side, self, configured, dialect, ME if resumes else None)
        if may_pause or resumes:
            self.session.capabilities = RESUMABLE if resumes else FLOW
        self.react = react
        self.requested: list[Connection] = []
        """Connections the peer opened, oldest first."""
        self._steps: list[Step] = []
        self._last = "the start"

    @property
    def steps(self) -> list[Step]:
        """What has happened since the last ``expect``."""
        return list(self._steps)

    # -- what the session does ----------------------------------------------------------

    def record(self, step: Step, event: Event | None) -> None:
        """Write down one step; ``event`` is handed to ``react``."""
        self._steps.append(step)
        if event is not None and self.react is not None:
            self.react(event)

    def send_control(self, frame: bytes) -> None:
        self.record(Sent(frame), None)

    def event_occurred(self, event: Event) -> None:
        step: Step
        match event:
            case TunnelReady(ids):
                step = Ready(ids)
            case ConnectionRequested(c):
                c.sink = _Sink(self, c)
                self.requested.append(c)
                step = Requested(c.service_id, c.stream_id, c.connection_id)
            case ConnectionEnded(c, cause, failure):
                assert not c.is_open, "a connection is closed before its end is told"
                step = Ended(c.service_id, c.stream_id, c.connection_id, cause, failure)
            case ConnectionPaused(c):
                assert c.is_open
                assert c.is_paused
                step = Paused(c.service_id, c.stream_id, c.connection_id)
            case ConnectionResumed(c):
                assert c.is_open
                assert not c.is_paused
                step = Resumed(c.service_id, c.stream_id, c.connection_id)
            case PeerFinished(c):
                assert c.is_open
                step = Finished(c.service_id, c.stream_id, c.connection_id)
            case Suspended(connections):
                step = Waits(connections)
            case PeerOffered(connections):
                step = Offered(connections)
            case SessionResumed(connections, replayed):
                step = Agreed(connections, replayed)
            case DialectLearned(dialect):
                step = Learned(dialect)
            case PeerChanged(present):
                step = Peer(present)
            case MessageIgnored(kind, service_id, reason):
                assert reason, "the log needs a reason"
                step = Ignored(kind, service_id)
        self.record(step, event)

    # -- what is done to the session ----------------------------------------------------

    def receive(self, *what: str | bytes | Message) -> None:
        """Let the service send one frame: hex digits, bytes and messages in a row."""
        frame = b"".join(map(frame_of, what))
        self._stimulus(f"receiving {frame[:40].hex()}{'...' if len(frame) > 40 else ''}")
        feed(self.session, frame)

    def receive_more(self, *what: str | bytes | Message) -> None:
        """Let the service send one frame; what came before may stay unexpected."""
        feed(self.session, b"".join(map(frame_of, what)))

    def forget(self) -> None:
        """Expect whatever has happened since the last ``expect``."""
        self._steps.clear()

    def open(self, service_id: str = "SSH1") -> Connection:
        """Open a connection and give it a sink."""
        self._stimulus(f"opening a connection of {service_id or '-'}")
        connection = self.session.open(service_id)
        connection.sink = _Sink(self, connection)
        return connection

    def send(self, connection: Connection, payload: bytes) -> None:
        """Send application data, as the room above does it."""
        self._stimulus(f"sending {len(payload)} bytes on {connection}")
        self._steps.append(Sent(connection.data_header(len(payload)) + payload))

    def reset(self, connection: Connection, failure: str = "") -> None:
        """End a connection from this side."""
        self._stimulus(f"resetting {connection}")
        self.session.reset(connection, failure)

    def refuse(self, connection: Connection, failure: str = "") -> None:
        """Refuse a requested connection."""
        self._stimulus(f"refusing {connection}")
        self.session.refuse(connection, failure)

    def pause(self, connection: Connection) -> None:
        """Ask the peer for no more data."""
        self._stimulus(f"pausing {connection}")
        self.session.pause(connection)

    def resume(self, connection: Connection) -> None:
        """Ask the peer for data again."""
        self._stimulus(f"resuming {connection}")
        self.session.resume(connection)

    def lose_link(self) -> None:
        """Take the link away."""
        self._stimulus("losing the link")
        self.session.link_lost()

    def _stimulus(self, name: str) -> None:
        if self._steps:
            self._fail([], f"before {name}, nothing was expected after {self._last}")
        self._last = name

    # -- what must have happened ---------------------------------------------------------

    def expect(self, *steps: Step | Message | str) -> None:
        """Compare all that happened since the last call; hex and messages stand for ``Sent``."""
        expected = [
            Sent(frame_of(step)) if isinstance(step, str | Message) else step for step in steps
        ]
        if [_comparable(s) for s in expected] != [_comparable(s) for s in self._steps]:
            self._fail(expected, f"the playbook differs after {self._last}")
        self._steps.clear()

    def _fail(self, expected: list[Step], why: str) -> None:
        raise AssertionError("\n".join([why, *_side_by_side(expected, self._steps)]))


def ready(
    side: Side,
    *ids: str,
    configured: tuple[str, ...] | None = None,
    dialect: Dialect | None = None,
    may_pause: bool = False,
) -> Playbook:
    """Return the playbook of a session that has received its service ids."""
    book = Playbook(side, configured, dialect, may_pause=may_pause)
    book.receive(service_ids(*ids))
    book.expect(Ready(ids or ("",)))
    return book


# -- connections that outlive links ----------------------------------------------------------


def joined(capabilities: Capabilities = RESUMABLE) -> Message:
    """Return what the service says when the other side connects."""
    payload = format_capabilities(capabilities).encode()
    return Message(MessageType.PEER_JOINED, payload=payload, ignorable=True)


def left() -> Message:
    """Return what the service says when the other side is gone, or not there."""
    return Message(MessageType.PEER_LEFT, ignorable=True)


def place(number: int, received: int = 0, *, stream_id: int = 1, fin_seen: bool = False) -> Place:
    """Return what the peer says in an offer of a connection of SSH1."""
    progress = Progress(received, FIRST_LIMIT + received, fin_seen)
    return Place("SSH1", stream_id, number, progress)


def offer(
    *places: Place,
    nonce: int = 1,
    highest: int = 0,
    sender: bytes = YOU,
    names: int = 0,
    more: bool = False,
) -> Message:
    """Return an offer of the peer; it ``names`` an incarnation of the session, or none."""
    peer = ME if names else NOBODY
    content = SessionOffer(sender, peer, nonce, names, {"SSH1": highest}, places, more)
    (payload,) = encode_offer(content)
    return Message(MessageType.SESSION_OFFER, payload=payload, ignorable=True)


def offered(step: Step) -> SessionOffer:
    """Return the offer that a session has sent."""
    assert isinstance(step, Sent)
    message = decode(memoryview(step.frame)[2:])
    assert message.type == MessageType.SESSION_OFFER
    content = decode_offer(message.payload)
    assert content is not None
    return content


def live(side: Side, *, peer: Capabilities = RESUMABLE) -> Playbook:
    """Return the playbook of a session that has agreed with its peer; both are incarnation 1."""
    book = Playbook(side, resumes=True)
    book.receive(service_ids("SSH1"), joined(peer))
    book.receive_more(offer(names=1))
    assert book.session.can_open("SSH1")
    book.forget()
    return book


def _comparable(step: Step) -> Step:
    return Sent(_canonical(step.frame)) if isinstance(step, Sent) else step


def _side_by_side(expected: list[Step], actual: list[Step]) -> Iterator[str]:
    """Yield both lists as aligned columns, ``!`` in front of each line that differs."""
    left, right = [str(_comparable(s)) for s in expected], [str(_comparable(s)) for s in actual]
    width = max(map(len, ["expected", *left]))
    yield f"  {'expected':{width}} | actual"
    for kind, a, b, c, d in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        for row in range(max(b - a, d - c)):
            one = left[a + row] if a + row < b else "-"
            other = right[c + row] if c + row < d else "-"
            yield f"{' ' if kind == 'equal' else '!'} {one:{width}} | {other}".rstrip()
