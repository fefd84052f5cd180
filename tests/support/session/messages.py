"""Hypothesis strategies for tunnel messages and for the bytes peers may send for them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tailrace.wire import MAX_CONNECTION_ID, MAX_MESSAGE, MAX_PAYLOAD, Message

__all__ = ["Vector", "bodies", "load_vectors", "messages", "varint"]

_VECTORS = Path(__file__).parents[2] / "vectors" / "messages.json"

_INT32 = st.integers(-(2**31), 2**31 - 1)
_UINT64 = st.integers(0, 2**64 - 1)
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_UNKNOWN_FIELDS = st.integers(8, 2**29 - 1)


@dataclass(frozen=True)
class Vector:
    """One entry of ``vectors/messages.json``."""

    name: str
    frame: bytes
    """The message behind its length prefix."""
    message: Message | None
    """The decoded fields; ``None`` when the frame must be refused."""
    canonical: bool
    """Whether our encoder writes exactly these bytes."""

    @property
    def body(self) -> memoryview:
        """The frame without its length prefix."""
        return memoryview(self.frame)[2:]


def _frame(text: str) -> bytes:
    """Turn ``"0004 aa*3"`` into bytes; ``*`` repeats the byte before it."""
    out = bytearray()
    for part in text.split():
        digits, _, times = part.partition("*")
        out += bytes.fromhex(digits) * int(times or 1)
    return bytes(out)


def _message(fields: dict[str, Any]) -> Message:
    return Message(
        **fields
        | {
            "payload": _frame(fields.get("payload", "")),
            "available_service_ids": tuple(fields.get("available_service_ids", ())),
        }
    )


def load_vectors() -> list[Vector]:
    """Return all vectors of ``vectors/messages.json``."""
    listed = json.loads(_VECTORS.read_text())
    valid = [
        Vector(
            entry["name"],
            _frame(entry["frame"]),
            _message(entry["message"]),
            entry.get("canonical", True),
        )
        for entry in listed["valid"]
    ]
    refused = [
        Vector(entry["name"], _frame(entry["frame"]), None, False) for entry in listed["refused"]
    ]
    return valid + refused


def messages(max_payload: int = 300) -> st.SearchStrategy[Message]:
    """Any message that can be encoded, with values beyond what the session allows."""
    return st.builds(
        Message,
        type=st.one_of(st.integers(0, 7), _INT32),
        stream_id=st.one_of(st.integers(0, 300), _INT32),
        service_id=_TEXT,
        connection_id=st.one_of(st.integers(0, 300), st.integers(0, MAX_CONNECTION_ID)),
        payload=st.binary(max_size=max_payload),
        available_service_ids=st.lists(_TEXT, max_size=4).map(tuple),
        ignorable=st.booleans(),
    )


def varint(value: int, padding: int = 0) -> bytes:
    """Encode an unsigned number, made ``padding`` bytes longer than it needs to be."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F)
    groups += [0] * padding
    return bytes(group | 0x80 for group in groups[:-1]) + bytes(groups[-1:])


@st.composite
def _varints(draw: st.DrawFn, size: int, values: st.SearchStrategy[int] = _UINT64) -> bytes:
    """A varint of at most ``size`` bytes, sometimes longer than it needs to be."""
    value = draw(values)
    spare = size - len(varint(value))
    return varint(value, draw(st.one_of(st.just(0), st.integers(0, spare))))


def _tagged(
    number: st.SearchStrategy[int], kind: int, value: st.SearchStrategy[bytes]
) -> st.SearchStrategy[bytes]:
    tag = _varints(5, number.map(lambda n: n << 3 | kind))
    return st.tuples(tag, value).map(b"".join)


@st.composite
def _sized(draw: st.DrawFn, content: st.SearchStrategy[bytes]) -> bytes:
    data = draw(content)
    return draw(_varints(5, st.just(len(data)))) + data


_UTF8 = _TEXT.map(str.encode)
_KNOWN = st.one_of(
    _tagged(st.sampled_from((1, 2, 3, 7)), 0, _varints(10)),
    _tagged(st.just(4), 2, _sized(st.binary(max_size=200))),
    _tagged(st.sampled_from((5, 6)), 2, _sized(_UTF8)),
)
_LEAF = st.one_of(
    _KNOWN,
    _tagged(_UNKNOWN_FIELDS, 0, _varints(10)),
    _tagged(_UNKNOWN_FIELDS, 1, st.binary(min_size=8, max_size=8)),
    _tagged(_UNKNOWN_FIELDS, 2, _sized(st.binary(max_size=20))),
    _tagged(_UNKNOWN_FIELDS, 5, st.binary(min_size=4, max_size=4)),
    # A known number with another wire type is an unknown field.
    _tagged(st.sampled_from((1, 2, 3, 7)), 5, st.binary(min_size=4, max_size=4)),
    _tagged(st.sampled_from((4, 5, 6)), 0, _varints(10)),
)


@st.composite
def _groups(draw: st.DrawFn, inner: st.SearchStrategy[bytes]) -> bytes:
    number = draw(st.integers(1, 2**29 - 1))
    content = b"".join(draw(st.lists(inner, max_size=3)))
    return varint(number << 3 | 3) + content + varint(number << 3 | 4)


def bodies() -> st.SearchStrategy[bytes]:
    """Valid encodings no sensible peer writes, and valid all the same.

    Known and unknown fields in any order and any number, groups, values of the full
    64 bits, varints longer than they need to be.
    """
    field = st.recursive(_LEAF, _groups, max_leaves=8)
    return st.lists(field, max_size=12).map(b"".join).filter(lambda b: len(b) <= MAX_MESSAGE)


assert MAX_PAYLOAD < MAX_MESSAGE
