"""What a client may send, message by message, and which messages need no verdict any more."""

from __future__ import annotations

import pytest

from tailrace.errors import RemoteProtocolError
from tailrace.service.relay.client_rules import MAX_STREAMS, ClientRules
from tailrace.service.relay.relay_end import service_ids_message
from tailrace.wire import DataHeader, Message, MessageType, Side, encode

DATA = MessageType.DATA
START = MessageType.STREAM_START
RESET = MessageType.STREAM_RESET
CONNECT = MessageType.CONNECTION_START
HANG_UP = MessageType.CONNECTION_RESET
PAUSE = MessageType.CONNECTION_PAUSE

each_side = pytest.mark.parametrize("side", list(Side))


def rules_for(side: Side, *started: Message) -> ClientRules:
    rules = ClientRules(side, ("A", "B"))
    for message in started:
        rules.stream_started(message)
    return rules


def start(stream: int = 1, service: str = "A", connection: int = 1) -> Message:
    return Message(START, stream, service, connection)


def judge(rules: ClientRules, message: Message) -> Message | None:
    return rules.judge(memoryview(encode(message)))


class TestVerdicts:
    @each_side
    @pytest.mark.parametrize(
        ("body", "text"),
        [
            (b"", "type 0"),
            (bytes.fromhex("1001"), "type 0"),
            (bytes.fromhex("10011801"), "type 0"),
            (encode(Message(MessageType.SESSION_RESET)), "type 4"),
            (encode(Message(MessageType.SESSION_RESET, ignorable=True)), "type 4"),
            (service_ids_message(["A"])[2:], "type 5"),
            (encode(Message(99)), "type 99"),
            (encode(Message(PAUSE, 1, "A", 1)), "type 1001"),
            (encode(Message(DATA, 0, "A", 1, b"x")), "stream id 0 is not positive"),
            (encode(Message(DATA, -1, "A", 1, b"x")), "stream id -1 is not positive"),
            (encode(Message(RESET, 0, "A")), "stream id 0 is not positive"),
            (encode(Message(DATA, 1, "C", 1, b"x")), "service id 'C' is not one of the tunnel"),
            (encode(Message(DATA, 1, "B", 1, b"x")), "data for service 'B' without a stream"),
            (bytes.fromhex("0801100122017a42026869"), "unknown field 8"),
            (bytes.fromhex("ffffff"), "varint"),
            (b"\x08\x01\x10\x01\x22\x81\xf8\x03" + bytes(64513), "payload of 64513 bytes"),
        ],
    )
    def test_what_no_client_may_send(self, side: Side, body: bytes, text: str) -> None:
        rules = rules_for(side, start())
        with pytest.raises(RemoteProtocolError, match=text):
            rules.judge(memoryview(body))

    @each_side
    def test_unknown_messages_are_singled_out_if_they_may_be_ignored(self, side: Side) -> None:
        rules = rules_for(side, start())
        for message in (
            Message(99, ignorable=True),
            Message(PAUSE, 1, "A", 1, ignorable=True),
            Message(PAUSE, -1, "C", ignorable=True),
        ):
            assert judge(rules, message) == message

    @pytest.mark.parametrize("type_", [START, CONNECT])
    def test_a_destination_starts_nothing(self, type_: MessageType) -> None:
        rules = rules_for(Side.DESTINATION, start())
        with pytest.raises(RemoteProtocolError, match=f"type {int(type_)} from a destination"):
            judge(rules, Message(type_, 1, "A", 1))

    @each_side
    @pytest.mark.parametrize("type_", [DATA, HANG_UP])
    def test_what_belongs_to_an_open_stream_travels_along(
        self, side: Side, type_: MessageType
    ) -> None:
        rules = rules_for(side, start())
        assert judge(rules, Message(type_, 1, "A", 7)) is None

    @each_side
    def test_resets_travel_alone(self, side: Side) -> None:
        rules = rules_for(side, start())
        for stream in (1, 9):
            assert judge(rules, Message(RESET, stream, "A")) == Message(RESET, stream, "A")

    def test_a_source_may_start_streams_and_connections(self) -> None:
        rules = rules_for(Side.SOURCE)
        assert judge(rules, start()) == start()
        connect = Message(CONNECT, 1, "A", 2)
        # Of a stream that is not open, it has to be answered.
        assert judge(rules, connect) == connect
        rules.stream_started(start())
        assert judge(rules, connect) is None

    def test_what_a_source_sends_for_a_stream_that_is_over_is_singled_out(self) -> None:
        rules = rules_for(Side.SOURCE, start(), start(2))
        rules.stream_ended(("A", 1))
        for type_ in (DATA, HANG_UP, CONNECT):
            assert judge(rules, Message(type_, 1, "A", 1)) == Message(type_, 1, "A", 1)
            assert judge(rules, Message(type_, 2, "A", 1)) is None

    def test_data_of_a_refused_stream_is_no_fault(self) -> None:
        rules = rules_for(Side.SOURCE)
        rules.stream_started(start(), is_open=False)
        assert not rules.is_open(("A", 1))
        assert judge(rules, Message(DATA, 1, "A", 1, b"x")) is not None

    def test_what_a_destination_sends_for_a_stream_that_is_over_travels_along(self) -> None:
        """Its fence decides whether that is passed on."""
        rules = rules_for(Side.DESTINATION, start())
        rules.stream_ended(("A", 1))
        for type_ in (DATA, HANG_UP):
            assert judge(rules, Message(type_, 1, "A", 1)) is None
        with pytest.raises(RemoteProtocolError, match="without a stream start"):
            judge(rules, Message(DATA, 1, "B", 1, b"x"))


class TestNames:
    @each_side
    def test_none_after_a_message_without(self, side: Side) -> None:
        rules = rules_for(side, start(), start(2, ""))
        assert judge(rules, Message(DATA, 2, "", 0, b"x")) is None
        for message in (Message(DATA, 1, "A", 1, b"x"), Message(RESET, 1, "A")):
            with pytest.raises(RemoteProtocolError, match="after one without"):
                judge(rules, message)

    @each_side
    def test_messages_that_are_ignored_do_not_count(self, side: Side) -> None:
        rules = rules_for(side, start())
        judge(rules, Message(99, 1, "", ignorable=True))
        assert judge(rules, Message(DATA, 1, "A", 1, b"x")) is None

    def test_an_old_destination_leaves_out_those_that_the_source_gives(self) -> None:
        rules = rules_for(Side.DESTINATION, start())
        assert judge(rules, Message(DATA, 1, "", 0, b"x")) is None

    def test_not_before_there_is_a_stream(self) -> None:
        rules = rules_for(Side.DESTINATION)
        with pytest.raises(RemoteProtocolError, match="data for service ''"):
            judge(rules, Message(DATA, 1, "", 0, b"x"))
        rules = rules_for(Side.SOURCE, start())
        with pytest.raises(RemoteProtocolError, match="data for service ''"):
            judge(rules, Message(DATA, 1, "", 0, b"x"))


class TestStreams:
    def test_ending_all(self) -> None:
        rules = rules_for(Side.SOURCE, start(1, "A", 5), start(1, "B", 0))
        assert list(rules.end_streams().items()) == [(("A", 1), 5), (("B", 1), 0)]
        assert rules.end_streams() == {}
        assert not rules.is_open(("A", 1))

    def test_any_started(self) -> None:
        rules = ClientRules(Side.DESTINATION, ())
        assert not rules.any_started
        rules.stream_started(start(1, ""), is_open=False)
        assert rules.any_started
        rules.end_streams()
        assert rules.any_started

    def test_the_oldest_is_forgotten_when_there_are_too_many(self) -> None:
        rules = ClientRules(Side.SOURCE, ("A",))
        for stream in range(1, MAX_STREAMS + 1):
            rules.stream_started(start(stream))
        assert rules.is_open(("A", 1))
        # Started again, it is the youngest.
        rules.stream_started(start(1))
        assert rules.is_open(("A", 2))
        rules.stream_started(start(MAX_STREAMS + 1))
        assert not rules.is_open(("A", 2))
        assert rules.is_open(("A", 1))
        assert len(rules.end_streams()) == MAX_STREAMS

    def test_a_reset_of_an_unknown_one_changes_nothing(self) -> None:
        rules = rules_for(Side.SOURCE, start())
        rules.stream_ended(("A", 2))
        assert rules.is_open(("A", 1))


def payload_last(number: int, stream: int = 1, service: str = "A") -> memoryview:
    return memoryview(DataHeader(stream, service, number).build(5)[2:] + b"hello")


def ascending(number: int, stream: int = 1, service: str = "A") -> memoryview:
    return memoryview(encode(Message(DATA, stream, service, number, b"hello")))


@each_side
class TestRecognising:
    @pytest.mark.parametrize("body", [payload_last(1), ascending(1)], ids=["last", "ascending"])
    def test_from_the_second_message_on(self, side: Side, body: memoryview) -> None:
        rules = rules_for(side, start())
        for known in (False, False, True, True):
            assert (rules.find(body) is not None) is known
            assert rules.judge(body) is None

    def test_other_connections_are_not(self, side: Side) -> None:
        rules = rules_for(side, start(), start(1, "B"))
        for _ in range(2):
            rules.judge(payload_last(1))
        assert rules.find(payload_last(1)) is not None
        for other in (payload_last(2), payload_last(1, 2), payload_last(1, 1, "B"), ascending(1)):
            assert rules.find(other) is None

    def test_forms_that_cannot_be_are_tried_once(self, side: Side) -> None:
        rules = rules_for(side, start())
        odd = memoryview(bytes.fromhex("1001 0801 2a0141 3801 2205 68656c6c6f"))
        for _ in range(3):
            assert rules.judge(odd) is None
            assert rules.find(odd) is None
        # The connection is known as one that is not worth it.
        assert rules.judge(payload_last(1)) is None
        assert rules.find(payload_last(1)) is None

    def test_not_what_was_never_legal_data_of_an_open_stream(self, side: Side) -> None:
        rules = rules_for(side, start())
        for body in (
            memoryview(encode(Message(HANG_UP, 1, "A", 1, b"hello"))),
            payload_last(1, 9),
        ):
            for _ in range(3):
                rules.judge(body)
                assert rules.find(body) is None

    @pytest.mark.parametrize(
        "change",
        [
            lambda rules: rules.stream_ended(("A", 1)),
            lambda rules: rules.stream_ended(("A", 9)),
            lambda rules: rules.end_streams(),
            lambda rules: judge(rules, Message(RESET, 1, "", 0)),
        ],
        ids=["ended", "another ended", "all ended", "a message without service id"],
    )
    def test_no_more_when_the_verdict_may_be_another_one(self, side: Side, change) -> None:
        rules = rules_for(side, start())
        for _ in range(2):
            rules.judge(payload_last(1))
        assert rules.find(payload_last(1)) is not None
        change(rules)
        assert rules.find(payload_last(1)) is None

    def test_what_has_been_seen_is_forgotten_as_well(self, side: Side) -> None:
        rules = rules_for(side, start())
        rules.judge(payload_last(1))
        rules.stream_ended(("A", 9))
        rules.judge(payload_last(1))
        assert rules.find(payload_last(1)) is None

    def test_so_many_connections_at_the_same_time(self, side: Side) -> None:
        rules = rules_for(side, start())
        for number in [*range(1, 513)] * 2:
            rules.judge(payload_last(number))
        assert all(rules.find(payload_last(number)) for number in range(1, 513))
        rules.judge(payload_last(513))
        assert not any(rules.find(payload_last(number)) for number in range(1, 514))
        rules.judge(payload_last(513))
        assert rules.find(payload_last(513)) is not None
