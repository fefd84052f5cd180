"""What a strict service accepts from one client: the rules of the guides, written once more.

Independent of the session on purpose: nothing here comes from its tables or its state.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tailrace.session import Dialect
from tailrace.wire import FLOW_MESSAGES, Message, MessageType, Side

__all__ = ["StrictChecker"]

_STARTS = (MessageType.STREAM_START, MessageType.CONNECTION_START)


@dataclass
class _StreamRules:
    """What one client has said and heard about the stream of one service."""

    number: int = 0
    has_connection_id: bool = False
    ended: bool = True
    resets_told: int = 0
    """Resets of the active stream in the frame that is being delivered."""
    begun: set[int] = field(default_factory=set)
    heard: set[tuple[int, int]] = field(default_factory=set)
    """Destination: connections it was told to open, as (stream, connection)."""
    opened: set[tuple[int, int]] = field(default_factory=set)
    reset_connections: set[tuple[int, int]] = field(default_factory=set)
    reset_streams: set[int] = field(default_factory=set)
    pauses: set[tuple[int, int]] = field(default_factory=set)
    """Connections that this client has paused."""
    greeted: set[tuple[int, int]] = field(default_factory=set)
    """Connections that it has sent a flow message for."""


class StrictChecker:
    """What the service accepts from one client on one link (guides V1 to V3).

    Raises AssertionError for each message that a strict service would answer by
    closing the link, and for some that it would only waste time on.
    """

    def __init__(
        self,
        side: Side,
        service_ids: tuple[str, ...],
        dialect: Dialect | None = None,
        *,
        passes_flow: bool = False,
    ) -> None:
        self._role = side
        self._service_ids = service_ids
        self._passes_flow = passes_flow
        self._dialect = dialect
        """What a source was told to speak."""
        self._named: bool | None = None
        self._streams: dict[str, _StreamRules] = {}
        self._listening: set[tuple[str, int]] = set()
        """The streams in which the other client has sent flow messages."""

    def _rules(self, service_id: str) -> _StreamRules:
        return self._streams.setdefault(service_id, _StreamRules())

    def told(self, message: Message) -> None:
        """Note a message that the service delivered to this client."""
        if message.type == MessageType.SESSION_RESET:
            for rules in self._streams.values():
                rules.ended = True
                rules.resets_told += 1
            return
        rules = self._rules(message.service_id)
        if message.type in FLOW_MESSAGES:
            self._listening.add((message.service_id, message.stream_id))
        if message.type in _STARTS:
            rules.heard.add((message.stream_id, message.connection_id))
            if message.type == MessageType.STREAM_START or not rules.number:
                rules.number = message.stream_id
                rules.has_connection_id = message.connection_id > 0
                # Ids may come back: a new source starts at 1.
                rules.reset_streams.discard(message.stream_id)
                rules.greeted = {key for key in rules.greeted if key[0] != message.stream_id}
                rules.pauses = {key for key in rules.pauses if key[0] != message.stream_id}
                rules.reset_connections = {
                    key for key in rules.reset_connections if key[0] != message.stream_id
                }
        elif message.type == MessageType.STREAM_RESET and message.stream_id == rules.number:
            rules.ended = True
            rules.resets_told += 1

    def _peer_listens(self, message: Message) -> bool:
        return (message.service_id, message.stream_id) in self._listening

    def frame_delivered(self) -> None:
        """Note that the client has seen all it was told."""
        for rules in self._streams.values():
            # A start sent from inside the frame may have been hit by what came behind.
            rules.ended = rules.ended or rules.resets_told > 1
            rules.resets_told = 0

    def check(self, message: Message) -> None:
        """Check a message of this client."""
        sends_starts = self._role is Side.SOURCE
        allowed = {MessageType.DATA, MessageType.STREAM_RESET, MessageType.CONNECTION_RESET}
        if self._passes_flow:
            allowed |= FLOW_MESSAGES
        assert message.type in (allowed | set(_STARTS) if sends_starts else allowed)
        assert 0 < message.stream_id < 2**31
        assert message.service_id in (*self._service_ids, "")
        assert len(message.payload) <= 64_512
        assert not message.available_service_ids
        if message.type in (MessageType.STREAM_RESET, MessageType.CONNECTION_RESET):
            # Why it failed: to a peer that has said that it understands.
            assert not message.payload or (self._passes_flow and self._peer_listens(message))
        assert message.ignorable is (message.type in FLOW_MESSAGES)
        has_service_id = bool(message.service_id)
        assert self._named in (None, has_service_id), "named and unnamed messages on one link"
        self._named = has_service_id
        rules = self._rules(message.service_id)
        key = (message.stream_id, message.connection_id)
        if message.type == MessageType.STREAM_START:
            self._check_stream_start(rules, message)
        elif message.type == MessageType.CONNECTION_START:
            self._check_connection_start(rules, key)
        elif message.type == MessageType.STREAM_RESET:
            self._check_stream_reset(rules, message)
        elif message.type == MessageType.CONNECTION_RESET:
            self._check_connection_reset(rules, key)
        elif message.type in FLOW_MESSAGES:
            self._check_flow(rules, message)
        else:
            self._check_data(rules, message)

    def _check_stream_start(self, rules: _StreamRules, message: Message) -> None:
        assert message.stream_id not in rules.begun, "a stream id was used twice on one link"
        if not message.connection_id:
            assert rules.ended, "V1 and V2 carry one connection a stream"
        rules.begun.add(message.stream_id)
        rules.number = message.stream_id
        rules.has_connection_id = message.connection_id > 0
        if self._dialect is not None:
            assert rules.has_connection_id is self._dialect.has_connection_id
            assert bool(message.service_id) is (
                self._dialect.has_service_id and bool(self._service_ids)
            )
        rules.ended = False
        rules.opened.add((message.stream_id, message.connection_id))

    def _check_connection_start(self, rules: _StreamRules, key: tuple[int, int]) -> None:
        assert rules.number == key[0], "CONNECTION_START for a stream that was not started"
        assert rules.has_connection_id, "CONNECTION_START in a stream without connection ids"
        assert key[1], "CONNECTION_START without a connection id"
        assert key not in rules.opened, "a connection id was used twice"
        rules.opened.add(key)

    def _known(self, rules: _StreamRules) -> set[tuple[int, int]]:
        return rules.opened if self._role is Side.SOURCE else rules.heard

    def _check_stream_reset(self, rules: _StreamRules, message: Message) -> None:
        assert not message.connection_id
        number = message.stream_id
        assert number in {stream for stream, _ in self._known(rules)}, "reset of an unknown stream"
        assert number not in rules.reset_streams, "a stream was reset twice"
        rules.reset_streams.add(number)
        if number == rules.number:
            rules.ended = True

    def _check_connection_reset(self, rules: _StreamRules, key: tuple[int, int]) -> None:
        assert key[1], "CONNECTION_RESET without a connection id"
        assert key in self._known(rules), "reset of an unknown connection"
        assert key not in rules.reset_connections, "a connection was reset twice"
        rules.reset_connections.add(key)

    def _check_flow(self, rules: _StreamRules, message: Message) -> None:
        key = (message.stream_id, message.connection_id)
        assert not message.payload
        assert key in self._known(rules), "a flow message for a connection that was not opened"
        assert rules.has_connection_id is bool(message.connection_id), (
            "numbered and unnumbered mixed"
        )
        assert key not in rules.reset_connections, "a flow message after its connection's reset"
        assert message.stream_id not in rules.reset_streams, "and after its stream's"
        waits = message.type == MessageType.CONNECTION_PAUSE
        if waits:
            assert key not in rules.pauses, "a connection was paused twice"
        else:
            # The first one tells that its sender understands flow messages.
            assert key in rules.pauses or key not in rules.greeted
        rules.greeted.add(key)
        (rules.pauses.add if waits else rules.pauses.discard)(key)

    def _check_data(self, rules: _StreamRules, message: Message) -> None:
        key = (message.stream_id, message.connection_id)
        assert message.payload, "DATA without data"
        assert rules.number == message.stream_id, "DATA for a stream that was not started"
        assert rules.has_connection_id is bool(message.connection_id), (
            "numbered and unnumbered mixed"
        )
        assert key in self._known(rules), "DATA for a connection that was not opened"
        assert key not in rules.reset_connections, "DATA after the reset of its connection"
        assert message.stream_id not in rules.reset_streams, "DATA after the reset of its stream"
