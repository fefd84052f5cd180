"""Message: the one value that travels between the rooms."""

from __future__ import annotations

import pytest

from tailrace.wire.messages import (
    FLOW_MESSAGES,
    PEER_MESSAGES,
    RESUME_MESSAGES,
    Message,
    MessageType,
)

OURS = FLOW_MESSAGES | PEER_MESSAGES | RESUME_MESSAGES


def test_type_numbers_are_those_of_the_schema() -> None:
    # Guide V3, message schema.
    assert {kind.name: kind.value for kind in MessageType} == {
        "UNKNOWN": 0,
        "DATA": 1,
        "STREAM_START": 2,
        "STREAM_RESET": 3,
        "SESSION_RESET": 4,
        "SERVICE_IDS": 5,
        "CONNECTION_START": 6,
        "CONNECTION_RESET": 7,
    } | {kind.name: kind.value for kind in OURS}


def test_types_of_our_own_are_far_from_those_of_the_schema() -> None:
    assert {kind.name: kind.value for kind in OURS} == {
        "CONNECTION_PAUSE": 1001,
        "CONNECTION_RESUME": 1002,
        "PEER_JOINED": 1003,
        "PEER_LEFT": 1004,
        "SESSION_OFFER": 1005,
        "CONNECTION_ACK": 1006,
        "CONNECTION_FIN": 1007,
    }


def test_fields_left_out_are_unset() -> None:
    assert Message(MessageType.SESSION_RESET) == (4, 0, "", 0, b"", (), False)


def test_a_type_of_a_later_version_is_a_plain_number() -> None:
    assert Message(99).type not in set(MessageType)


def test_messages_compare_by_value_across_buffer_types() -> None:
    assert Message(1, payload=b"abc") == Message(MessageType.DATA, payload=memoryview(b"abc"))


def test_a_message_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        setattr(Message(1), "stream_id", 2)  # noqa: B010 - the point is the assignment
