"""Documents of files and lines, whole and in pieces."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.agent.notification import MAX_PAYLOAD
from tailrace.agent.sources.base import Delivery
from tailrace.agent.sources.documents import (
    MAX_DOCUMENT,
    Lines,
    delivery_of,
    is_whole,
    split_documents,
)

PLAIN = {"clientAccessToken": "T", "clientMode": "destination"}


def test_a_notification_is_delivered_as_it_is() -> None:
    document = json.dumps(PLAIN).encode()
    assert delivery_of(document) == Delivery(document)


def test_what_the_service_gives_its_command_is_unwrapped() -> None:
    document = {"thingName": "pump-7", "tunnelId": "t-1", "topic": "x", "notification": PLAIN}
    delivery = delivery_of(json.dumps(document).encode())
    assert delivery.thing_name == "pump-7"
    assert json.loads(delivery.payload) == PLAIN | {"tunnelId": "t-1"}
    inner = {**PLAIN, "tunnelId": "t-2"}
    delivery = delivery_of(json.dumps(document | {"notification": inner, "thingName": 7}).encode())
    assert delivery.thing_name is None
    assert json.loads(delivery.payload) == inner


@pytest.mark.parametrize(
    "document",
    [b"", b"x", b"[]", b"[" * 10_000, b"\xff", b'{"notification": []}', b'{"a":1,"a":1}'],
)
def test_everything_else_is_delivered_to_be_judged(document: bytes) -> None:
    assert delivery_of(document) == Delivery(document[: MAX_PAYLOAD + 1])


def test_no_delivery_is_longer_than_what_tells_that_it_is_too_long() -> None:
    long = {"notification": PLAIN | {"zz": "z" * MAX_PAYLOAD}}
    for document in (b"x" * MAX_DOCUMENT, json.dumps(long).encode(), b"{" + b" " * 100_000):
        assert len(delivery_of(document).payload) == MAX_PAYLOAD + 1


@pytest.mark.parametrize(
    ("content", "documents"),
    [
        (b"", []),
        (b"\n \n", []),
        (b'{\n "a": 1\n}\n', [b'{\n "a": 1\n}\n']),
        (b'{"a": 1}\n{"a": 2}\r\n\n', [b'{"a": 1}', b'{"a": 2}']),
        (b"junk", [b"junk"]),
    ],
)
def test_a_file_is_one_document_or_one_for_each_line(
    content: bytes, documents: list[bytes]
) -> None:
    assert split_documents(content) == documents


@pytest.mark.parametrize(
    ("content", "whole"),
    [(b"", True), (b'{"a": 1}', True), (b'{"a": 1', False), (b"x\n", True), (b"{}\n{}", False)],
)
def test_what_is_being_written_shows(content: bytes, whole: bool) -> None:
    assert is_whole(content) is whole


def test_lines_that_are_too_long_are_dropped_and_counted() -> None:
    lines = Lines(most=5)
    assert lines.feed(b"ab\ncdefgh\nij") == [b"ab"]
    assert lines.dropped == 1
    assert lines.feed(b"k\n") == [b"ijk"]
    for _ in range(100):
        assert lines.feed(b"z" * 1000) == []
    assert lines.dropped == 2
    assert lines.feed(b"zzz\nlast") == []
    assert lines.end() == [b"last"]
    assert lines.dropped == 2
    assert Lines().end() == []


@given(st.lists(st.text("abc \r", max_size=8)), st.data())
def test_pieces_make_no_difference(texts: list[str], data: st.DataObject) -> None:
    content = "\n".join(texts).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=6)))
    whole, pieces = Lines(most=5), Lines(most=5)
    expected = [*whole.feed(content), *whole.end()]
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
        found += pieces.feed(content[start:end])
    assert [*found, *pieces.end()] == expected
    assert pieces.dropped == whole.dropped
