"""Packets: bytes of the standard, bytes cut anywhere, and bytes that must be refused."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.network.scripted_broker import message, packet
from tailrace.mqtt.codec import (
    DISCONNECT,
    MAX_PAYLOAD,
    MAX_SKIPPED,
    PINGREQ,
    Connack,
    Oversized,
    Packet,
    PacketReader,
    Pingresp,
    Puback,
    Publish,
    Pubrel,
    Suback,
    encode_connect,
    encode_puback,
    encode_pubcomp,
    encode_publish,
    encode_pubrec,
    encode_subscribe,
)
from tailrace.mqtt.errors import BrokerError, BrokerFault


def read(*pieces: bytes, reader: PacketReader | None = None) -> list[Packet]:
    reader = reader or PacketReader()
    found = []
    for piece in pieces:
        reader.feed(piece)
        while (each := reader.next()) is not None:
            found.append(each)
    return found


class TestWriting:
    """Against the figures of the standard, and mosquitto reads the same in test_connection."""

    def test_connect(self) -> None:
        # Figure 3.6 and section 3.1.2: flags of user, password and clean session, keep-alive 10.
        made = encode_connect("dev", keep_alive=10, clean_session=True, user="u", password="pä")
        assert made == bytes.fromhex(
            "10 17 0004 4d515454 04 c2 000a 0003 646576 0001 75 0003 70c3a4"
        )
        assert encode_connect("dev", keep_alive=65535, clean_session=False) == bytes.fromhex(
            "10 0f 0004 4d515454 04 00 ffff 0003 646576"
        )

    def test_subscribe(self) -> None:
        # Section 3.8.3, example "a/b".
        assert encode_subscribe(10, "a/b", 1) == bytes.fromhex("82 08 000a 0003 612f62 01")

    def test_publish(self) -> None:
        # Figure 3.11: topic "a/b", packet id 10.
        assert encode_publish(10, "a/b", b"!") == bytes.fromhex("32 08 0003 612f62 000a 21")

    def test_answers(self) -> None:
        assert encode_puback(0x1234) == b"\x40\x02\x12\x34"
        assert encode_pubrec(1) == b"\x50\x02\x00\x01"
        assert encode_pubcomp(65535) == b"\x70\x02\xff\xff"
        assert (PINGREQ, DISCONNECT) == (b"\xc0\x00", b"\xe0\x00")

    @pytest.mark.parametrize(
        ("size", "length"),
        [(127, "7f"), (128, "8001"), (16_383, "ff7f"), (16_384, "808001"), (2_097_152, "80808001")],
    )
    def test_lengths(self, size: int, length: str) -> None:
        """Table 2.4."""
        made = encode_publish(1, "a", bytes(size - 5))
        assert made[1 : 1 + len(length) // 2].hex() == length
        assert len(made) == 1 + len(length) // 2 + size


class TestReading:
    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            ("20 02 00 00", Connack(False, 0)),
            ("20 02 01 00", Connack(True, 0)),
            ("20 02 00 05", Connack(False, 5)),
            ("30 07 0003 612f62 6869", Publish("a/b", b"hi")),
            ("31 05 0003 612f62", Publish("a/b", b"", retain=True)),
            ("32 08 0003 612f62 000a 21", Publish("a/b", b"!", 1, 10)),
            ("3a 07 0003 612f62 000a", Publish("a/b", b"", 1, 10, dup=True)),
            ("34 07 0003 612f62 ffff", Publish("a/b", b"", 2, 65535)),
            # Figure 1.3: U+2A6D4 in a text, and no byte order mark is cut off (MQTT-1.5.3-3).
            ("30 07 0005 41f0aa9b94", Publish("A\U0002a6d4", b"")),
            ("30 05 0003 efbbbf", Publish("\ufeff", b"")),
            ("40 02 1234", Puback(0x1234)),
            ("62 02 0001", Pubrel(1)),
            ("90 03 000a 01", Suback(10, 1)),
            ("90 03 000a 80", Suback(10, 0x80)),
            ("d0 00", Pingresp()),
            # A length need not be written in the fewest bytes.
            ("40 8280 00 1234", Puback(0x1234)),
        ],
    )
    def test_packets(self, data: str, expected: Packet) -> None:
        raw = bytes.fromhex(data)
        assert read(raw) == [expected]
        assert read(*(raw[i : i + 1] for i in range(len(raw)))) == [expected]
        assert read(raw[:-1]) == []
        assert read(raw * 3) == [expected] * 3

    @pytest.mark.parametrize(
        ("data", "text"),
        [
            ("00", "0x00 begins no packet"),
            ("48545450", "0x48 begins no packet"),  # HTTP
            ("10 00", "0x10"),
            ("21 02 0000", "0x21"),
            ("60 02 0001", "0x60"),
            ("f0 00", "0xf0"),
            ("36", "QoS 3"),
            ("40 80808080", "more than four bytes"),
            ("30 ffffff ff", "more than four bytes"),
            ("20 03 000000", "packet of type 2 with 3 bytes"),
            ("20 ffffff7f", "packet of type 2 with 268435455 bytes"),
            ("20 02 0200", "reserved flags"),
            ("40 02 0000", "packet id 0"),
            ("62 02 0000", "packet id 0"),
            ("90 03 0000 01", "packet id 0"),
            ("90 03 0001 03", "SUBACK with code 0x03"),
            ("90 04 0001 0101", "packet of type 9 with 4 bytes"),
            ("d0 01 00", "packet of type 13"),
            ("30 00", "ends within its topic"),
            ("30 01 00", "ends within its topic"),
            ("30 02 0001", "ends within its topic"),
            ("32 04 0001 61 00", "ends within its topic"),
            ("32 05 0001 61 0000", "packet id 0"),
            ("30 02 0000", "empty"),
            ("30 03 0001 2b", "wildcard"),
            ("30 05 0003 612f23", "wildcard"),
            ("30 04 0002 6100", "NUL"),
            ("30 05 0002 fffe21", "not UTF-8"),
            ("30 05 0003 eda080", "not UTF-8"),  # U+D800, MQTT-1.5.3-1
            ("30 04 0002 c080", "not UTF-8"),
        ],
    )
    def test_violations(self, data: str, text: str) -> None:
        with pytest.raises(BrokerError, match=re.escape(text)) as caught:
            read(bytes.fromhex(data))
        assert caught.value.fault is BrokerFault.VIOLATION

    def test_a_payload_does_not_show(self) -> None:
        assert "token" not in repr(read(message("a", b"token")))


class TestSizes:
    """A length is judged before anything is kept (rule 7, vector 20)."""

    @pytest.mark.parametrize("qos", [0, 1, 2])
    @pytest.mark.parametrize("piece", [1, 1000, 1 << 20])
    def test_too_large_is_dropped_and_the_next_one_read(self, qos: int, piece: int) -> None:
        data = message("a/b", bytes(MAX_PAYLOAD + 1), qos=qos, packet_id=7) + message("c", b"x")
        pieces = [data[i : i + piece] for i in range(0, len(data), piece)]
        packet_id = 7 if qos else 0
        assert read(*pieces) == [
            Oversized("a/b", MAX_PAYLOAD + 1, qos, packet_id),
            Publish("c", b"x"),
        ]

    def test_the_largest_is_kept(self) -> None:
        assert read(message("a", bytes(MAX_PAYLOAD))) == [Publish("a", bytes(MAX_PAYLOAD))]

    def test_nothing_of_it_is_kept(self) -> None:
        reader = PacketReader()
        read(message("a", bytes(MAX_SKIPPED))[:100_000], reader=reader)
        assert not reader._buffer

    def test_nobody_waits_for_the_largest_lengths(self) -> None:
        header = packet(0x30, bytes(MAX_SKIPPED + 4))[:5]
        with pytest.raises(BrokerError, match="a message of 16777217 bytes"):
            read(header + b"\0\1a")

    def test_a_long_topic_counts_nothing(self) -> None:
        topic = "t" * 65_535
        assert read(message(topic, b"x", qos=1)) == [Publish(topic, b"x", 1, 1)]


topics = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="+#\0"), min_size=1, max_size=40
)
packets = st.one_of(
    st.builds(
        lambda topic, payload, qos, packet_id, retain, dup: (
            message(topic, payload, qos=qos, packet_id=packet_id, retain=retain, dup=dup),
            Publish(topic, payload, qos, packet_id if qos else 0, retain, dup),
        ),
        topics,
        st.binary(max_size=300),
        st.integers(0, 2),
        st.integers(1, 65_535),
        st.booleans(),
        st.booleans(),
    ),
    st.integers(1, 65_535).map(lambda n: (packet(0x40, n.to_bytes(2, "big")), Puback(n))),
    st.just((packet(0xD0), Pingresp())),
)


@given(st.lists(packets, max_size=6), st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_streams_cut_anywhere(sent: list[tuple[bytes, Packet]], sizes: list[int]) -> None:
    data, pieces = b"".join(raw for raw, _ in sent), []
    while data:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[:size])
        data = data[size:]
    assert read(*pieces) == [expected for _, expected in sent]


@given(topics, st.binary(max_size=300), st.integers(1, 65_535))
def test_what_is_published_can_be_read(topic: str, payload: bytes, packet_id: int) -> None:
    made = encode_publish(packet_id, topic, payload)
    assert read(made) == [Publish(topic, payload, 1, packet_id)]


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    with contextlib.suppress(BrokerError):
        read(data)
