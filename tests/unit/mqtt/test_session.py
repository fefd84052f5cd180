"""Playbooks of one connection: packets in, packets and events out, by a clock that tests turn."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.network.scripted_broker import message, packet
from tailrace.common.secret import Secret
from tailrace.mqtt.codec import MAX_PAYLOAD, Oversized, Publish
from tailrace.mqtt.errors import BrokerError, BrokerFault
from tailrace.mqtt.session import (
    Accepted,
    Acknowledged,
    Dropped,
    Event,
    Handled,
    Received,
    Session,
    SessionSettings,
    SessionState,
    Subscribed,
)

CONNACK = packet(0x20, b"\0\0")
SUBACK = packet(0x90, b"\0\1\1")
PINGREQ, PINGRESP = packet(0xC0), packet(0xD0)


class Playbook:
    """A session, and a clock for it."""

    def __init__(self, topic: str | None = "t", **settings: Any) -> None:
        self.now = 1000.0
        fields = {"keep_alive": 60, "answer_timeout": 10.0} | settings
        self.session = Session(SessionSettings("dev", topic, **fields))
        self.session.start(self.now)
        self.hello = self.sent()

    def sent(self) -> bytes:
        return self.session.data_to_send()

    def receive(self, *data: bytes) -> list[Event]:
        """Give it bytes; return the events up to a message that has to be acknowledged."""
        self.session.receive_data(b"".join(data), self.now)
        return self.events()

    def events(self) -> list[Event]:
        found: list[Event] = []
        while (event := self.session.next_event(self.now)) is not None:
            found.append(event)
            if isinstance(event, Received):
                break
        return found

    def refuse(self, fault: BrokerFault, text: str, *data: bytes) -> None:
        with pytest.raises(BrokerError, match=text) as caught:
            self.receive(*data)
        assert caught.value.fault is fault

    def wait(self) -> float:
        """Let the time pass until something is due, and do it; return the seconds."""
        passed = self.session.next_deadline() - self.now
        self.now = self.session.next_deadline()
        self.session.tick(self.now)
        return passed

    def dies(self, text: str) -> float:
        before = self.now
        with pytest.raises(BrokerError, match=text) as caught:
            self.wait()
        assert caught.value.fault is BrokerFault.SILENT
        return self.now - before

    def subscribe(self) -> None:
        assert self.receive(CONNACK, SUBACK) == [Accepted(False), Subscribed(1)]
        assert self.session.state is SessionState.SUBSCRIBED
        self.sent()


class TestBeginning:
    def test_what_is_said_of_the_client(self) -> None:
        book = Playbook(user="u", password=Secret("p"), clean_session=False)
        assert book.hello == packet(0x10, b"\0\4MQTT\4\xc0\0\x3c\0\3dev\0\1u\0\1p")

    @pytest.mark.parametrize("kept", [False, True])
    def test_it_subscribes_whatever_the_broker_kept(self, kept: bool) -> None:
        """Rule 1: Device Client trusts the broker's memory, and goes deaf."""
        book = Playbook()
        assert book.receive(packet(0x20, bytes((kept, 0)))) == [Accepted(kept)]
        assert book.sent() == packet(0x82, b"\0\1\0\1t\1")
        assert book.receive(SUBACK) == [Subscribed(1)]
        assert book.sent() == b""

    def test_a_broker_may_grant_less(self) -> None:
        book = Playbook()
        book.receive(CONNACK)
        assert book.receive(packet(0x90, b"\0\1\0")) == [Subscribed(0)]

    def test_a_publisher_subscribes_to_nothing(self) -> None:
        book = Playbook(None)
        assert book.receive(CONNACK) == [Accepted(False)]
        assert book.session.state is SessionState.PUBLISHING
        assert book.sent() == b""

    @pytest.mark.parametrize(
        ("code", "text"),
        [
            (1, "does not speak MQTT 3.1.1"),
            (2, "client id"),
            (3, "not available"),
            (4, "wrong user or password"),
            (5, "not authorized"),
            (77, "code 77"),
        ],
    )
    def test_refused(self, code: int, text: str) -> None:
        Playbook().refuse(BrokerFault.REFUSED, text, packet(0x20, bytes((0, code))))

    def test_the_subscription_is_refused(self) -> None:
        book = Playbook()
        book.receive(CONNACK)
        book.refuse(
            BrokerFault.SUBSCRIPTION_REFUSED, "subscription to t$", packet(0x90, b"\0\1\x80")
        )

    def test_no_answer_to_connect(self) -> None:
        assert Playbook().dies(r"^no answer to CONNECT within 10 s$") == 10

    def test_no_answer_to_subscribe(self) -> None:
        book = Playbook()
        book.now += 9
        book.receive(CONNACK)
        assert book.dies(r"^no answer to SUBSCRIBE within 10 s$") == 10

    def test_what_is_no_broker(self) -> None:
        Playbook().refuse(BrokerFault.VIOLATION, r"\?$", b"HTTP/1.1 400 Bad Request\r\n")

    @pytest.mark.parametrize(
        ("topic", "data", "fault", "text"),
        [
            ("t", b"", BrokerFault.CLOSED_EARLY, "closed before the broker answered CONNECT"),
            ("t", CONNACK, BrokerFault.SUBSCRIPTION_REFUSED, "closed before it answered SUBSCRIBE"),
            ("t", CONNACK + SUBACK, BrokerFault.LOST, "^closed$"),
            (None, CONNACK, BrokerFault.LOST, "^closed$"),
        ],
    )
    def test_what_it_means_that_the_connection_ends(
        self, topic: str | None, data: bytes, fault: BrokerFault, text: str
    ) -> None:
        book = Playbook(topic)
        book.receive(data)
        error = book.session.lost("closed")
        assert error.fault is fault
        assert re.search(text, str(error))


class TestMessages:
    @pytest.mark.parametrize(
        ("qos", "answer"), [(0, b""), (1, packet(0x40, b"\0\7")), (2, packet(0x50, b"\0\7"))]
    )
    def test_acknowledged_only_when_stored(self, qos: int, answer: bytes) -> None:
        book = Playbook()
        book.subscribe()
        data = message("t", b"x", qos=qos, packet_id=7, retain=True)
        found = Publish("t", b"x", qos, 7 if qos else 0, retain=True)
        assert book.receive(data) == [Received(found)]
        assert book.sent() == b""
        book.session.acknowledge(book.now)
        assert book.sent() == answer
        assert book.events() == []

    def test_one_at_a_time(self) -> None:
        book = Playbook()
        book.subscribe()
        first, second = Publish("t", b"1", 1, 1), Publish("t", b"2", 1, 2)
        data = message("t", b"1", qos=1, packet_id=1) + message("t", b"2", qos=1, packet_id=2)
        assert book.receive(data) == [Received(first)]
        with pytest.raises(AssertionError):
            book.session.next_event(book.now)
        book.session.acknowledge(book.now)
        assert book.events() == [Received(second)]
        assert book.sent() == packet(0x40, b"\0\1")

    def test_one_that_comes_before_suback(self) -> None:
        book = Playbook()
        assert book.receive(CONNACK, message("t", b"x", qos=1)) == [
            Accepted(False),
            Received(Publish("t", b"x", 1, 1)),
        ]
        book.session.acknowledge(book.now)
        assert book.receive(SUBACK) == [Subscribed(1)]

    def test_a_repetition_is_delivered_and_acknowledged_again(self) -> None:
        book = Playbook()
        book.subscribe()
        for dup in (False, True):
            assert book.receive(message("t", b"x", qos=1, packet_id=9, dup=dup)) == [
                Received(Publish("t", b"x", 1, 9, dup=dup))
            ]
            book.session.acknowledge(book.now)
            assert book.sent() == packet(0x40, b"\0\x09")

    @pytest.mark.parametrize("early", [False, True])
    def test_the_end_of_qos_2(self, early: bool) -> None:
        book = Playbook()
        book.receive(CONNACK, b"" if early else SUBACK)
        book.sent()
        assert book.receive(packet(0x62, b"\0\7")) == [Handled()]
        assert book.sent() == packet(0x70, b"\0\7")

    @pytest.mark.parametrize("early", [False, True])
    @pytest.mark.parametrize(
        ("qos", "answer"), [(0, b""), (1, packet(0x40, b"\0\7")), (2, packet(0x50, b"\0\7"))]
    )
    def test_too_large(self, early: bool, qos: int, answer: bytes) -> None:
        """It is acknowledged, or it would come back with every connection."""
        book = Playbook()
        book.receive(CONNACK, b"" if early else SUBACK)
        book.sent()
        size = MAX_PAYLOAD + 1
        assert book.receive(message("t", bytes(size), qos=qos, packet_id=7)) == [
            Dropped(Oversized("t", size, qos, 7 if qos else 0))
        ]
        assert book.sent() == answer

    def test_publishing(self) -> None:
        book = Playbook(None)
        book.receive(CONNACK)
        assert book.session.publish("a/b", b"!", book.now) == 1
        assert book.session.publish("a/b", b"?", book.now) == 2
        assert book.sent() == message("a/b", b"!", qos=1) + message("a/b", b"?", qos=1, packet_id=2)
        assert book.receive(packet(0x40, b"\0\2"), packet(0x40, b"\0\1")) == [
            Acknowledged(2),
            Acknowledged(1),
        ]

    def test_packet_ids_start_again(self) -> None:
        """Those that wait for an acknowledgement are passed over."""
        book = Playbook(None)
        book.receive(CONNACK)
        ids = [book.session.publish("a", b"", book.now) for _ in range(65_534)]
        assert ids == [*range(1, 65_535)]
        book.receive(packet(0x40, b"\0\2"))
        assert book.session.publish("a", b"", book.now) == 65_535
        assert book.session.publish("a", b"", book.now) == 2

    def test_acknowledged_twice(self) -> None:
        book = Playbook(None)
        book.receive(CONNACK)
        book.session.publish("a", b"", book.now)
        puback = packet(0x40, b"\0\1")
        assert book.receive(puback) == [Acknowledged(1)]
        book.refuse(BrokerFault.VIOLATION, "PUBACK for packet id 1, which waits for none", puback)

    def test_goodbye(self) -> None:
        book = Playbook()
        book.session.disconnect(book.now)
        assert book.sent() == packet(0xE0)


class TestTime:
    def test_an_idle_connection_is_asked_for_a_sign_of_life(self) -> None:
        book = Playbook()
        book.subscribe()
        for _ in range(3):
            assert book.wait() == 60
            assert book.sent() == PINGREQ
            book.now += 1
            assert book.receive(PINGRESP) == [Handled()]
            book.now -= 1

    def test_dead_after_one_and_a_half_times_the_keep_alive_time(self) -> None:
        book = Playbook()
        book.subscribe()
        assert book.wait() == 60
        assert book.dies(r"^no sign of life for 90 s$") == 30

    @pytest.mark.parametrize("topic", ["t", None])
    def test_a_client_that_only_hears_says_something_too(self, topic: str | None) -> None:
        """The broker ends a connection on which it hears nothing."""
        book = Playbook(topic)
        if topic:
            book.subscribe()
        else:
            book.receive(CONNACK)
            book.session.publish("t", b"", book.now)
            book.sent()
        book.now += 50
        data = message("t") if topic else packet(0x40, b"\0\1")
        assert len(book.receive(data)) == 1
        if topic:
            book.session.acknowledge(book.now)
        assert book.wait() == 10
        assert book.sent() == PINGREQ

    def test_a_client_that_only_publishes_notices_silence(self) -> None:
        book = Playbook(None)
        book.receive(CONNACK)
        book.now += 50
        book.session.publish("t", b"", book.now)
        assert book.wait() == 10
        assert book.dies("no sign of life") == 30

    def test_any_byte_is_a_sign_of_life(self) -> None:
        book = Playbook()
        book.subscribe()
        book.wait()
        book.now += 29
        assert book.receive(message("t", bytes(100))[:5]) == []
        assert book.session.next_deadline() - book.now == 31  # 60 s after the last ping
        assert book.wait() == 31

    def test_storing_may_take_any_time(self) -> None:
        """Nothing is read meanwhile; the broker still gets its pings, and answers them all."""
        book = Playbook()
        book.subscribe()
        book.receive(message("t", b"x", qos=1))
        for _ in range(5):
            assert book.wait() == 60
            assert book.sent() == PINGREQ
        book.session.acknowledge(book.now)
        assert book.receive(PINGRESP * 5) == [Handled()] * 5
        assert book.wait() == 60

    def test_nothing_is_due_before_its_time(self) -> None:
        book = Playbook()
        book.subscribe()
        book.session.tick(book.now + 59.9)
        assert book.sent() == b""

    def test_no_pings_before_the_answer_to_connect(self) -> None:
        book = Playbook(answer_timeout=1000.0)
        assert book.dies("no answer to CONNECT") == 90


KINDS = {
    "CONNACK": CONNACK,
    "SUBACK": SUBACK,
    "PUBLISH": message("t"),
    "oversized": message("t", bytes(MAX_PAYLOAD + 1)),
    "PUBACK": packet(0x40, b"\0\1"),
    "PUBREL": packet(0x62, b"\0\1"),
    "PINGRESP": PINGRESP,
}
STATES = {
    SessionState.CONNECTING: ("t", b""),
    SessionState.SUBSCRIBING: ("t", CONNACK),
    SessionState.SUBSCRIBED: ("t", CONNACK + SUBACK),
    SessionState.PUBLISHING: (None, CONNACK),
}
SUBSCRIBER = {"PUBLISH", "oversized", "PUBREL", "PINGRESP"}
ALLOWED = {
    SessionState.CONNECTING: {"CONNACK"},
    SessionState.SUBSCRIBING: SUBSCRIBER | {"SUBACK"},
    SessionState.SUBSCRIBED: SUBSCRIBER,
    SessionState.PUBLISHING: {"PUBACK", "PINGRESP"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_what_may_come_when(state: SessionState, kind: str) -> None:
    topic, beginning = STATES[state]
    book = Playbook(topic)
    book.receive(beginning)
    assert book.session.state is state
    if kind == "PINGRESP" and state is not SessionState.CONNECTING:
        book.refuse(BrokerFault.VIOLATION, "PINGRESP without a PINGREQ", PINGRESP)
    elif kind == "PUBACK" and state is SessionState.PUBLISHING:
        book.session.publish("t", b"", book.now)
        assert book.receive(KINDS[kind]) == [Acknowledged(1)]
    elif kind in ALLOWED[state]:
        assert len(book.receive(KINDS[kind])) == 1
    else:
        name = "PUBLISH" if kind == "oversized" else kind
        book.refuse(BrokerFault.VIOLATION, f"{name} to a client that is {state.value}", KINDS[kind])


def test_suback_of_something_else() -> None:
    book = Playbook()
    book.receive(CONNACK)
    book.refuse(BrokerFault.VIOLATION, "packet id 2", packet(0x90, b"\0\2\1"))


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(KINDS)), st.floats(0, 100), st.booleans()), max_size=12
    ),
    st.booleans(),
)
def test_any_order_of_packets(steps: list[tuple[str, float, bool]], subscribes: bool) -> None:
    """It goes on, or ends with a reason; a deadline is never in the past for long."""
    book = Playbook("t" if subscribes else None)
    with contextlib.suppress(BrokerError):
        for kind, seconds, acknowledges in steps:
            book.now = min(book.now + seconds, book.session.next_deadline())
            book.session.tick(book.now)
            assert book.session.next_deadline() > book.now
            book.session.receive_data(KINDS[kind], book.now)
            if book.session._unstored is None:
                book.events()
            elif acknowledges:
                book.session.acknowledge(book.now)
