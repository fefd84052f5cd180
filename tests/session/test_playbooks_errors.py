"""Wrong service ids, wrong messages, wrong bytes: which end what, and which end nothing.

The numbers are those of the conformance scenarios (B: bugs of the reference).
"""

from __future__ import annotations

import pytest

from support.session.playbook import (
    Data,
    Ended,
    Ignored,
    Playbook,
    Ready,
    Requested,
    ready,
    service_ids,
)
from tailrace.errors import DecodeError, LocalProtocolError, RemoteProtocolError, ServiceIdMismatch
from tailrace.session import V1, EndCause
from tailrace.wire import Message, MessageType, Side

BOTH = pytest.mark.parametrize("side", [Side.SOURCE, Side.DESTINATION])

SERVICE_IDS_NONE = "0002 0805"
SERVICE_IDS_SSH1 = "0008 0805 3204 53534831"
START_1 = "000c 0802 1001 2a04 53534831 3801"
HELLO_1 = "0013 0801 1001 2205 68656c6c6f 2a04 53534831 3801"


class TestServiceIds:
    """The ids of the tunnel and those this end was started with must be the same."""

    @BOTH
    def test_10_no_services_but_one_was_named(self, side: Side) -> None:
        book = Playbook(side, ("SSH1",))
        with pytest.raises(ServiceIdMismatch, match=r"no services, you gave \[SSH1\]"):
            book.receive(SERVICE_IDS_NONE)
        book.expect()
        assert book.session.service_ids == ()

    @BOTH
    @pytest.mark.parametrize("announced", [("HTTP",), ("SSH1", "HTTP"), ("SSH1", "VNC", "HTTP")])
    def test_10_other_services_than_named(self, side: Side, announced: tuple[str, ...]) -> None:
        book = Playbook(side, ("SSH1", "VNC"))
        with pytest.raises(ServiceIdMismatch, match=r"you gave \[SSH1, VNC\]") as caught:
            book.receive(service_ids(*announced))
        assert f"[{', '.join(announced)}]" in str(caught.value)

    def test_10_several_services_and_a_lone_port(self) -> None:
        book = Playbook(Side.SOURCE, ("",))
        with pytest.raises(ServiceIdMismatch, match="SSH1=PORT,HTTP1=PORT"):
            book.receive(service_ids("SSH1", "HTTP1"))

    def test_v1_cannot_carry_several_services(self) -> None:
        book = Playbook(Side.SOURCE, None, V1)
        with pytest.raises(ServiceIdMismatch, match="a V1 peer carries one service"):
            book.receive(service_ids("SSH1", "HTTP1"))

    def test_b16_a_service_id_may_have_a_colon(self) -> None:
        book = Playbook(Side.SOURCE, ("a:b",))
        book.receive("0007 0805 3203 613a62")
        book.expect(Ready(("a:b",)))
        book.open("a:b")
        book.expect("000b 0802 1001 2a03 613a62 3801")

    @BOTH
    @pytest.mark.parametrize("ids", [("SSH1", "HTTP1"), (), ("ssh1",)])
    def test_51_different_ids_in_mid_session(self, side: Side, ids: tuple[str, ...]) -> None:
        book = ready(side, "SSH1")
        with pytest.raises(RemoteProtocolError, match="other service ids than before"):
            book.receive(service_ids(*ids))
        book.expect()

    @BOTH
    @pytest.mark.parametrize("name", ["a" * 129, "\N{SNOWMAN}" * 43], ids=["ascii", "utf-8"])
    def test_a_service_id_beyond_128_bytes(self, side: Side, name: str) -> None:
        book = Playbook(side)
        with pytest.raises(RemoteProtocolError, match="longer than 128 bytes"):
            book.receive(service_ids("SSH1", name))

    @BOTH
    def test_the_longest_service_id(self, side: Side) -> None:
        name = "a" * 128
        book = ready(side, name)
        start = Message(MessageType.STREAM_START, 1, name, 1)
        if side is Side.SOURCE:
            connection = book.open(name)
            book.expect(start)
        else:
            book.receive(start)
            book.expect(Requested(name, 1, 1))
            (connection,) = book.requested
        book.send(connection, b"x" * 64_512)
        book.expect(Message(MessageType.DATA, 1, name, 1, b"x" * 64_512))


class TestStreamMessages:
    """What a peer may not send, and what it costs it."""

    @BOTH
    @pytest.mark.parametrize(
        "kind",
        [
            MessageType.DATA,
            MessageType.STREAM_START,
            MessageType.STREAM_RESET,
            MessageType.CONNECTION_START,
            MessageType.CONNECTION_RESET,
        ],
    )
    def test_stream_messages_before_the_service_ids(self, side: Side, kind: MessageType) -> None:
        book = Playbook(side)
        with pytest.raises(RemoteProtocolError, match="before the service ids"):
            book.receive(Message(kind, 1, "SSH1", 1))
        book.expect()

    @BOTH
    def test_b8_a_start_for_an_unknown_service_resets_that_stream_only(self, side: Side) -> None:
        book = ready(side, "SSH1")
        book.receive("000b 0802 1001 2a03 564e43 3801")
        book.expect("0009 0803 1001 2a03 564e43", Ignored(MessageType.STREAM_START, "VNC"))
        book.receive("000b 0806 1001 2a03 564e43 3802")
        book.expect("000b 0807 1001 2a03 564e43 3802", Ignored(MessageType.CONNECTION_START, "VNC"))

    @BOTH
    @pytest.mark.parametrize(
        "message",
        [
            Message(MessageType.STREAM_START, 0, "VNC", 1),
            Message(MessageType.STREAM_START, -1, "VNC", 1),
            Message(MessageType.CONNECTION_START, 0, "VNC", 1),
            Message(MessageType.STREAM_RESET, 1, "VNC"),
            Message(MessageType.CONNECTION_RESET, 1, "VNC", 1),
            Message(MessageType.DATA, 1, "VNC", 1, b"x"),
        ],
    )
    def test_b8_anything_else_for_an_unknown_service_is_ignored(
        self, side: Side, message: Message
    ) -> None:
        book = ready(side, "SSH1")
        book.receive(message)
        book.expect(Ignored(message.type, "VNC"))

    def test_b8_the_session_goes_on(self) -> None:
        book = ready(Side.DESTINATION, "SSH1")
        book.receive(START_1, "000b 0802 1001 2a03 564e43 3801", HELLO_1)
        book.expect(
            Requested("SSH1", 1, 1),
            "0009 0803 1001 2a03 564e43",
            Ignored(MessageType.STREAM_START, "VNC"),
            Data("SSH1", 1, 1, b"hello"),
        )


class TestUnknownTypes:
    """Scenario 22: what cannot be understood and may not be skipped ends the link, no more."""

    @BOTH
    @pytest.mark.parametrize("frame", ["0002 0863", "0002 1001", "000b 08ffffffffffffffffff01"])
    def test_22_a_message_of_unknown_type_that_may_not_be_ignored(
        self, side: Side, frame: str
    ) -> None:
        book = ready(side, "SSH1")
        with pytest.raises(RemoteProtocolError, match="unknown and not ignorable"):
            book.receive(frame)
        book.expect()

    @BOTH
    @pytest.mark.parametrize(
        "frame", ["0004 0863 1801", "0002 1801", "000a 0863 1801 2a04 53534831"]
    )
    def test_22_ignorable_ones_are_skipped_at_any_time(self, side: Side, frame: str) -> None:
        book = Playbook(side)
        kind = 99 if frame[5:9] == "0863" else 0
        service_id = "SSH1" if "53534831" in frame else ""
        book.receive(frame)
        book.expect(Ignored(kind, service_id))
        book.receive(SERVICE_IDS_SSH1, frame)
        book.expect(Ready(("SSH1",)), Ignored(kind, service_id))


class TestBytes:
    """Scenarios 23 and 24: what is not a message ends the link; the next session is clean."""

    @BOTH
    @pytest.mark.parametrize(
        "frame",
        [
            "0000",
            "0003 ffffff",
            "0001 08",
            "0004 22056162",
            "0004 2a02fffe",
            "0001 0b",
            "0004 08010000",
            "fc11 0801 1001 2281f803" + "aa" * 64_513 + "2a04 53534831 3801",
        ],
    )
    def test_23_bytes_that_are_no_message(self, side: Side, frame: str) -> None:
        book = ready(side, "SSH1")
        with pytest.raises(DecodeError):
            book.receive(frame)
        book.expect()

    def test_23_what_came_before_in_the_frame_was_delivered(self) -> None:
        book = ready(Side.DESTINATION, "SSH1")
        with pytest.raises(DecodeError):
            book.receive(START_1, HELLO_1, "0000", HELLO_1)
        book.expect(Requested("SSH1", 1, 1), Data("SSH1", 1, 1, b"hello"))
        book.lose_link()
        book.expect(Ended("SSH1", 1, 1, EndCause.LINK_LOST))

    def test_24_half_a_message_does_not_survive_its_link(self) -> None:
        book = ready(Side.DESTINATION, "SSH1")
        book.receive(START_1, bytes.fromhex(HELLO_1)[:9])
        book.expect(Requested("SSH1", 1, 1))
        book.lose_link()
        book.expect(Ended("SSH1", 1, 1, EndCause.LINK_LOST))
        again = Playbook(Side.DESTINATION, ("SSH1",))
        again.receive(SERVICE_IDS_SSH1)
        again.expect(Ready(("SSH1",)))
        again.receive(START_1, HELLO_1)
        again.expect(Requested("SSH1", 1, 1), Data("SSH1", 1, 1, b"hello"))


class TestLocalMistakes:
    """What the owner may not ask for."""

    def test_an_unknown_service_cannot_be_opened(self) -> None:
        book = ready(Side.SOURCE, "SSH1")
        assert not book.session.can_open("VNC")
        with pytest.raises(LocalProtocolError, match="'VNC'"):
            book.open("VNC")
        book.expect()

    def test_nothing_can_be_opened_after_the_link_was_lost(self) -> None:
        book = ready(Side.SOURCE, "SSH1")
        book.lose_link()
        with pytest.raises(LocalProtocolError):
            book.open("SSH1")
        book.expect()

    def test_a_failing_playbook_shows_both_sides(self) -> None:
        book = ready(Side.DESTINATION, "SSH1")
        book.receive(START_1, HELLO_1)
        with pytest.raises(AssertionError) as caught:
            book.expect(Requested("SSH1", 1, 2), Data("SSH1", 1, 1, b"hello"))
        lines = str(caught.value).splitlines()
        assert lines[1:] == [
            "  expected                | actual",
            "! requested SSH1/1/2      | requested SSH1/1/1",
            "  data SSH1/1/1: b'hello' | data SSH1/1/1: b'hello'",
        ]
        with pytest.raises(AssertionError, match="nothing was expected"):
            book.lose_link()
