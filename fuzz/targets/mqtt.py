"""What an MQTT broker sends: packets, and a whole connection."""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

from support.network.scripted_broker import message, packet
from tailrace.mqtt.codec import MAX_PAYLOAD, Oversized, Packet, PacketReader, Publish
from tailrace.mqtt.errors import BrokerError, BrokerFault
from tailrace.mqtt.session import Received, Session, SessionSettings

from ..checks import cuts, is_one_line, pieces
from ..mutate import mutated, vary_bytes
from ..target import Target

__all__ = ["MQTT_READER", "MQTT_SESSION"]

_Stream = tuple[bytes, list[int]]

_SEEDS: Final = (
    packet(0x20, b"\0\0"),
    packet(0x20, b"\1\5"),
    packet(0x90, b"\0\1\1"),
    packet(0x90, b"\0\1\x80"),
    packet(0x40, b"\0\1"),
    packet(0x62, b"\0\1"),
    packet(0xD0),
    message("$aws/things/pump/tunnels/notify", b"{}", qos=1, packet_id=7),
    message("a/b", b"x" * 200, qos=2, dup=True, retain=True),
    message("a", bytes(MAX_PAYLOAD + 1), qos=1),
    message(b"\xff\xfe", b"!"),
)
_HELLO: Final = packet(0x20, b"\0\0") + packet(0x90, b"\0\1\1")
_WORDS: Final = (
    *(seed for seed in _SEEDS if len(seed) < 64),
    b"\x80\x80\x80\x01",
    b"\xff\xff\xff\x7f",
    b"\x00\x00",
    b"\xed\xa0\x80",
    b"+",
)

_STREAMS: Final = st.lists(
    st.one_of(st.sampled_from(_SEEDS), mutated(_SEEDS, _WORDS), st.binary(max_size=8)), max_size=8
).map(b"".join)


def _read(parts: list[bytes]) -> tuple[list[Packet], str]:
    """Return the packets of a stream, and why it ended, if it did."""
    reader = PacketReader()
    found: list[Packet] = []
    try:
        for part in parts:
            reader.feed(part)
            while (each := reader.next()) is not None:
                found.append(each)
    except BrokerError as error:
        assert error.fault is BrokerFault.VIOLATION
        assert is_one_line(str(error))
        return found, str(error)
    # The rest of one packet at most: its header, topic and payload.
    assert len(reader._buffer) <= 9 + 65_535 + MAX_PAYLOAD
    return found, ""


def _check_reader(value: _Stream) -> None:
    stream, sizes = value
    whole = _read([stream])
    assert _read(list(pieces(stream, sizes))) == whole
    for each in whole[0]:
        if isinstance(each, Publish):
            assert len(each.payload) <= MAX_PAYLOAD
        elif isinstance(each, Oversized):
            assert each.size > MAX_PAYLOAD
    if whole[1]:
        raise BrokerError(BrokerFault.VIOLATION, whole[1])


def _check_session(value: _Stream) -> None:
    """Every message is acknowledged once if its QoS says so, and nothing else is said."""
    stream, sizes = value
    session, now = Session(SessionSettings("dev", "t")), 0.0
    session.start(now)
    session.data_to_send()
    for part in pieces(stream, sizes):
        now = min(now + 1.0, session.next_deadline())
        session.tick(now)
        session.data_to_send()
        session.receive_data(part, now)
        while (event := session.next_event(now)) is not None:
            before = session.data_to_send()
            if isinstance(event, Received):
                assert not before, "a message was acknowledged before it was stored"
                session.acknowledge(now)
                answer = session.data_to_send()
                number = event.message.packet_id.to_bytes(2, "big")
                assert answer == (b"", b"\x40\2" + number, b"\x50\2" + number)[event.message.qos]
        assert session.next_deadline() > now


MQTT_READER: Final = Target(
    "mqtt-reader",
    "packets of a broker, cut anywhere",
    st.tuples(_STREAMS, cuts()),
    _check_reader,
    (BrokerError,),
    tuple((seed, [1, 7]) for seed in _SEEDS),
    lambda value, random: (vary_bytes(value[0], random), value[1]),
)

MQTT_SESSION: Final = Target(
    "mqtt-session",
    "a connection to a broker, which may say anything at any time",
    st.tuples(_STREAMS.map(_HELLO.__add__), cuts()),
    _check_session,
    (BrokerError,),
    tuple((_HELLO + seed, [3]) for seed in _SEEDS),
    lambda value, random: (vary_bytes(value[0], random), value[1]),
)
