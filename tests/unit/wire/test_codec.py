"""The codec against fixed vectors, against protobuf's own library, and against rubbish."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.oracles.protobuf import OracleError, oracle_decode, oracle_encode
from support.session.messages import Vector, bodies, load_vectors, messages, varint
from tailrace.errors import DecodeError, LocalProtocolError
from tailrace.wire.codec import DataHeader, decode, encode, encode_delimited
from tailrace.wire.messages import Message, MessageType
from tailrace.wire.protocol import MAX_CONNECTION_ID, MAX_MESSAGE, MAX_PAYLOAD, MAX_STREAM_ID

VECTORS = load_vectors()
VALID = [vector for vector in VECTORS if vector.message is not None]
CANONICAL = [vector for vector in VALID if vector.canonical]
REFUSED = [vector for vector in VECTORS if vector.message is None]

MAX_GROUP_DEPTH = 32
"""Our limit; protobuf's is 100."""


def name(vector: Vector) -> str:
    return vector.name


def groups(depth: int) -> bytes:
    """Unknown field 11 as that many groups inside each other."""
    return b"\x5b" * depth + b"\x5c" * depth


class TestVectors:
    """The messages every implementation must agree on."""

    @pytest.mark.parametrize("vector", VALID, ids=name)
    def test_decodes(self, vector: Vector) -> None:
        assert decode(vector.body) == vector.message

    @pytest.mark.parametrize("vector", CANONICAL, ids=name)
    def test_encodes(self, vector: Vector) -> None:
        assert vector.message is not None
        assert encode_delimited(vector.message) == vector.frame
        assert encode(vector.message) == bytes(vector.body)

    @pytest.mark.parametrize("vector", REFUSED, ids=name)
    def test_refuses(self, vector: Vector) -> None:
        with pytest.raises(DecodeError):
            decode(vector.body)

    @pytest.mark.parametrize("vector", VECTORS, ids=name)
    def test_length_prefix_is_that_of_the_body(self, vector: Vector) -> None:
        assert int.from_bytes(vector.frame[:2], "big") == len(vector.body)

    @pytest.mark.parametrize("vector", VECTORS, ids=name)
    def test_oracle_agrees(self, vector: Vector) -> None:
        if vector.message is None:
            with pytest.raises(OracleError):
                oracle_decode(bytes(vector.body))
        else:
            assert oracle_decode(bytes(vector.body)) == vector.message


ALSO_FUZZED = settings(max_examples=max(1, settings.default.max_examples // 3))
"""The fuzz target codec makes up bodies of the same kinds, and checks as much."""


class TestAgainstProtobuf:
    """Equality with protobuf's own library in both directions."""

    @given(messages())
    def test_we_write_what_protobuf_writes(self, message: Message) -> None:
        assert encode(message) == oracle_encode(message)

    @given(messages())
    def test_we_read_what_protobuf_writes(self, message: Message) -> None:
        assert decode(memoryview(oracle_encode(message))) == message

    @given(messages())
    def test_protobuf_reads_what_we_write(self, message: Message) -> None:
        assert oracle_decode(encode(message)) == message

    @ALSO_FUZZED
    @given(bodies())
    def test_odd_but_valid_bytes_mean_the_same(self, body: bytes) -> None:
        assert decode(memoryview(body)) == oracle_decode(body)

    @given(st.binary(max_size=80))
    def test_random_bytes(self, body: bytes) -> None:
        self.same_verdict(body)

    @ALSO_FUZZED
    @given(st.data())
    def test_damaged_bytes(self, data: st.DataObject) -> None:
        body = bytearray(data.draw(bodies().filter(bool)))
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(body) - 1))
            body[at] = data.draw(st.integers(0, 255))
        self.same_verdict(bytes(body))

    @ALSO_FUZZED
    @given(st.data())
    def test_cut_bytes(self, data: st.DataObject) -> None:
        body = data.draw(bodies().filter(bool))
        self.same_verdict(body[: data.draw(st.integers(0, len(body) - 1))])

    @staticmethod
    def same_verdict(body: bytes) -> None:
        """Both accept with the same fields, or ours raises DecodeError and nothing else.

        Of the points where ours is stricter only field number 0 inside a group can
        come up here; for the others these bytes are too short.
        """
        try:
            message = decode(memoryview(body))
        except DecodeError as error:
            if str(error) != "field number 0 is invalid":
                with pytest.raises(OracleError):
                    oracle_decode(body)
        else:
            assert message == oracle_decode(body)


class TestDecode:
    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            pytest.param("", Message(0), id="nothing is the message of all defaults"),
            pytest.param("0801 0802", Message(2), id="the last type wins"),
            pytest.param("1001 1002", Message(0, 2), id="the last stream id wins"),
            pytest.param("1801 1800", Message(0), id="the last ignorable wins"),
            pytest.param("3801 3802", Message(0, connection_id=2), id="the last connection wins"),
            pytest.param("220161 220162", Message(0, payload=b"b"), id="the last payload wins"),
            pytest.param("220161 2200", Message(0), id="an empty payload replaces one"),
            pytest.param("2a0161 2a0162", Message(0, service_id="b"), id="the last service wins"),
            pytest.param(
                "320161 0805 3200 320162",
                Message(5, available_service_ids=("a", "", "b")),
                id="service ids add up, also apart and empty",
            ),
            pytest.param("1880808001", Message(0, ignorable=True), id="any bool but 0 is true"),
            pytest.param("18" + "80" * 9 + "02", Message(0), id="bits beyond 64 do not count"),
            pytest.param("1081 8080 00", Message(0, 1), id="a padded varint"),
            pytest.param("10" + "81" + "80" * 8 + "00", Message(0, 1), id="a varint of ten bytes"),
            pytest.param("10" + "81" + "80" * 9 + "00", None, id="a varint of eleven is refused"),
            pytest.param("1081808080f0ffffffff01", Message(0, 1), id="an int32 of 64 bits is cut"),
            pytest.param("10ffffffff0f", Message(0, -1), id="a negative int32 in five bytes"),
            pytest.param("108080808008", Message(0, -(2**31)), id="the smallest int32"),
            pytest.param(
                "3881808080f0ffffffff01",
                Message(0, connection_id=1),
                id="a uint32 of 64 bits is cut",
            ),
            pytest.param("888000 01", Message(1), id="a padded tag"),
            pytest.param("8880808000 01", Message(1), id="a tag of five bytes"),
            pytest.param("888080808000 01", None, id="a tag of six bytes is refused"),
            pytest.param("22818080800061", Message(0, payload=b"a"), id="a length of five bytes"),
            pytest.param("2281808080800061", None, id="a length of six bytes is refused"),
            pytest.param("42818080808000 61", None, id="an unknown field's length likewise"),
            pytest.param("0a0161", Message(0), id="a known number of another wire type is unknown"),
        ],
    )
    def test_reading_of_the_specification(self, body: str, expected: Message | None) -> None:
        raw = bytes.fromhex(body)
        if expected is None:
            with pytest.raises(OracleError):
                oracle_decode(raw)
            with pytest.raises(DecodeError):
                decode(memoryview(raw))
        else:
            assert oracle_decode(raw) == expected
            assert decode(memoryview(raw)) == expected

    @pytest.mark.parametrize(
        "unknown",
        [
            pytest.param("4001", id="varint"),
            pytest.param("410102030405060708", id="fixed64"),
            pytest.param("42026869", id="bytes"),
            pytest.param("4501020304", id="fixed32"),
            pytest.param("4344", id="empty group"),
            pytest.param("43 5001 51 0102030405060708 5200 55 01020304 5354 44", id="group"),
            pytest.param("f8ffffff0f 01", id="the largest field number"),
        ],
    )
    def test_unknown_fields_are_skipped_or_refused(self, unknown: str) -> None:
        body = memoryview(bytes.fromhex("0801" + unknown + "1002"))
        assert decode(body) == Message(1, 2)
        with pytest.raises(DecodeError, match="unknown field"):
            decode(body, strict=True)

    @pytest.mark.parametrize("vector", CANONICAL, ids=name)
    def test_strict_takes_every_known_field(self, vector: Vector) -> None:
        assert decode(vector.body, strict=True) == vector.message

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            ("10", "ends inside a varint"),
            ("10ff", "ends inside a varint"),
            ("10ffffffffffffffffffff01", "longer than 10 bytes"),
            ("ffffffffff01", "longer than 5 bytes"),
            ("2202 61", "ends inside a field"),
            ("2a0161 2a01ff", "not valid UTF-8"),
            ("3203eda080", "not valid UTF-8"),
            ("4202 61", "ends inside a field"),
            ("4101", "ends inside a field"),
            ("4501", "ends inside a field"),
            ("0001", "field number 0"),
            ("8080808010", "field number 536870912"),
            ("46", "wire type 6"),
            ("47", "wire type 7"),
            ("44", "wire type 4"),
            ("43", "ends inside a varint"),
            ("434c", "wrong field number"),
            ("4347", "wire type 7"),
            ("4302", "field number 0"),
        ],
    )
    def test_refusals_say_why(self, body: str, reason: str) -> None:
        with pytest.raises(DecodeError, match=reason):
            decode(memoryview(bytes.fromhex(body)))

    @given(messages())
    @example(Message(1, payload=b"x"))
    def test_the_payload_is_a_view_of_the_frame(self, message: Message) -> None:
        frame = bytearray(encode(message))
        payload = decode(memoryview(frame)).payload
        if message.payload:
            assert isinstance(payload, memoryview)
            assert payload.obj is frame
        else:
            assert payload == b""

    def test_the_longest_payload_is_taken_and_one_more_byte_is_not(self) -> None:
        prefix = b"\x08\x01\x22"
        fits = prefix + varint(MAX_PAYLOAD) + bytes(MAX_PAYLOAD)
        assert decode(memoryview(fits)).payload == bytes(MAX_PAYLOAD)
        over = prefix + varint(MAX_PAYLOAD + 1) + bytes(MAX_PAYLOAD + 1)
        assert oracle_decode(over).payload == bytes(MAX_PAYLOAD + 1)
        with pytest.raises(DecodeError, match="payload of 64513 bytes exceeds 64512"):
            decode(memoryview(over))

    def test_groups_are_followed_to_a_depth_and_no_deeper(self) -> None:
        assert decode(memoryview(groups(MAX_GROUP_DEPTH))) == Message(0)
        over = groups(MAX_GROUP_DEPTH + 1)
        assert oracle_decode(over) == Message(0)
        with pytest.raises(DecodeError, match="nested too deeply"):
            decode(memoryview(over))

    def test_field_number_0_is_invalid_inside_a_group_too(self) -> None:
        body = bytes.fromhex("43 0000 44")
        assert oracle_decode(body) == Message(0)
        with pytest.raises(DecodeError, match="field number 0"):
            decode(memoryview(body))

    def test_a_message_full_of_groups_does_not_exhaust_the_stack(self) -> None:
        with pytest.raises(DecodeError, match="nested too deeply"):
            decode(memoryview(groups(MAX_MESSAGE // 2)))

    def test_a_message_full_of_service_ids_is_read(self) -> None:
        many = MAX_MESSAGE // 2
        assert decode(memoryview(b"\x32\x00" * many)).available_service_ids == ("",) * many


class TestEncode:
    @given(messages())
    def test_frame_is_length_and_body(self, message: Message) -> None:
        body = encode(message)
        assert encode_delimited(message) == len(body).to_bytes(2, "big") + body

    @pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview])
    def test_any_buffer_can_be_the_payload(self, buffer: type) -> None:
        assert encode(Message(1, payload=buffer(b"abc"))) == bytes.fromhex("0801 2203 616263")

    @pytest.mark.parametrize(
        ("message", "reason"),
        [
            (Message(2**31), "not an int32"),
            (Message(-(2**31) - 1), "not an int32"),
            (Message(1, 2**31), "not an int32"),
            (Message(1, -(2**31) - 1), "not an int32"),
            (Message(1, connection_id=-1), "not a uint32"),
            (Message(1, connection_id=2**32), "not a uint32"),
            (Message(1, payload=bytes(MAX_PAYLOAD + 1)), "payload of 64513 bytes exceeds 64512"),
            (Message(1, service_id="\ud800"), "not valid text"),
            (Message(5, available_service_ids=("\udfff",)), "not valid text"),
            (Message(1, service_id="x" * MAX_MESSAGE), "message of 65541 bytes exceeds 65535"),
        ],
    )
    def test_our_own_mistakes_are_refused(self, message: Message, reason: str) -> None:
        with pytest.raises(LocalProtocolError, match=reason):
            encode(message)
        with pytest.raises(LocalProtocolError, match=reason):
            encode_delimited(message)

    def test_the_longest_legal_message_fits(self) -> None:
        longest = Message(
            MessageType.DATA,
            MAX_STREAM_ID,
            "s" * 128,
            MAX_CONNECTION_ID,
            bytes(MAX_PAYLOAD),
        )
        assert decode(memoryview(encode(longest))) == longest
        assert len(encode(longest)) <= MAX_MESSAGE


_SERVICE_IDS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=128)


class TestDataHeader:
    @given(
        st.integers(1, MAX_STREAM_ID),
        _SERVICE_IDS,
        st.integers(0, MAX_CONNECTION_ID),
        st.lists(st.integers(1, 400), min_size=1, max_size=4),
    )
    @example(MAX_STREAM_ID, "s" * 128, MAX_CONNECTION_ID, [MAX_PAYLOAD, 1, MAX_PAYLOAD])
    @example(1, "", 0, [127, 128, 16_383, 16_384])
    def test_header_and_payload_make_the_message(
        self, stream_id: int, service_id: str, connection_id: int, sizes: list[int]
    ) -> None:
        header = DataHeader(stream_id, service_id, connection_id)
        for size in sizes:
            payload = bytes(size)
            built = header.build(size)
            frame = built + payload
            message = Message(MessageType.DATA, stream_id, service_id, connection_id, payload)
            assert len(built) <= DataHeader.MAX_SIZE
            assert int.from_bytes(frame[:2], "big") == len(frame) - 2
            assert decode(memoryview(frame)[2:]) == message
            assert oracle_decode(frame[2:]) == message

    def test_the_largest_header_has_the_promised_size(self) -> None:
        # A negative stream id takes the most bytes; it is never sent, only bounded.
        header = DataHeader(-1, "s" * 128, MAX_CONNECTION_ID).build(MAX_PAYLOAD)
        assert len(header) == DataHeader.MAX_SIZE

    @pytest.mark.parametrize("size", [-1, 0, MAX_PAYLOAD + 1])
    def test_sizes_out_of_range(self, size: int) -> None:
        header = DataHeader(1, "SSH1", 1)
        with pytest.raises(LocalProtocolError, match=r"not in 1\.\.64512"):
            header.build(size)
        assert header.build(3) + b"abc" == encode_data(b"abc")

    def test_a_service_id_that_would_not_fit_the_headroom(self) -> None:
        with pytest.raises(LocalProtocolError, match="longer than 128 bytes"):
            DataHeader(1, "s" * 150, 1)

    def test_ids_out_of_range(self) -> None:
        with pytest.raises(LocalProtocolError, match="not a uint32"):
            DataHeader(1, "SSH1", 2**32)


def encode_data(payload: bytes) -> bytes:
    """A DATA message of stream 1, connection 1 of SSH1 with the payload last."""
    fields = bytes.fromhex("0801 1001 2a04 53534831 3801 22") + varint(len(payload)) + payload
    return len(fields).to_bytes(2, "big") + fields
