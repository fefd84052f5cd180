"""docs/internals/sessions.md: its bytes are those of the program, its figures the program's own."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

import pytest

from conformance import payloads
from conformance.messages import read
from support.repository import ROOT
from tailrace.flow import receive_buffers
from tailrace.localproxy import link_session
from tailrace.localproxy.settings import ProxySettings
from tailrace.session import ledger, replay
from tailrace.wire import (
    MAX_OFFER,
    NOBODY,
    OFFER,
    RESUME,
    Message,
    MessageType,
    Place,
    Progress,
    SessionOffer,
    capabilities,
    decode,
    decode_fin,
    decode_offer,
    decode_progress,
    encode_delimited,
    encode_fin,
    encode_offer,
    encode_progress,
    format_capabilities,
)

PAGE = (ROOT / "docs" / "internals" / "sessions.md").read_text()
LISTED = re.compile(r"^\| ([A-Z_]+) \| (\d+) \|", re.MULTILINE)


def vectors(text: str) -> list[bytes]:
    """Return what the blocks of bytes say, their comments left out: each follows two blanks."""
    blocks = re.findall(r"^```hex\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [
        bytes.fromhex("".join(line.partition("  ")[0] for line in block.splitlines()))
        for block in blocks
    ]


SOURCE_ID = bytes.fromhex("00112233445566778899aabbccddeeff")
FIRST_OFFER = SessionOffer(SOURCE_ID, NOBODY, 1, 0)
PLACE = Place("SSH", 1, 7, Progress(40, 262_184, fin_seen=False))
OFFER_AFTER_A_CUT = SessionOffer(SOURCE_ID[::-1], SOURCE_ID, 2, 3, {"SSH": 7}, (PLACE,))
ACKNOWLEDGED = Progress(131_072, 655_360, fin_seen=False)


def of_the_session(kind: MessageType, payload: bytes = b"") -> Message:
    return Message(kind, payload=payload, ignorable=True)


def of_a_connection(kind: MessageType, payload: bytes = b"") -> Message:
    ignorable = kind is not MessageType.CONNECTION_RESET
    return Message(kind, 1, "SSH", 7, payload, ignorable=ignorable)


SHOWN = [
    of_the_session(MessageType.SESSION_OFFER, *encode_offer(FIRST_OFFER)),
    of_the_session(MessageType.SESSION_OFFER, *encode_offer(OFFER_AFTER_A_CUT)),
    of_a_connection(MessageType.CONNECTION_ACK, encode_progress(ACKNOWLEDGED)),
    of_a_connection(MessageType.CONNECTION_FIN, encode_fin(40)),
    of_the_session(MessageType.PEER_JOINED, format_capabilities(OFFER | RESUME).encode()),
    of_the_session(MessageType.PEER_LEFT),
    of_a_connection(MessageType.CONNECTION_RESUME),
    of_a_connection(MessageType.CONNECTION_RESET, b"it is gone"),
]
"""The messages of the page, in its order."""


@pytest.mark.parametrize(("shown", "raw"), list(zip(SHOWN, vectors(PAGE), strict=True)))
def test_messages_are_those_of_the_page(shown: Message, raw: bytes) -> None:
    assert encode_delimited(shown) == raw
    decoded = decode(memoryview(raw)[2:])
    assert decoded._replace(payload=bytes(decoded.payload)) == shown


def test_payloads_are_read_as_the_page_has_them() -> None:
    first, second, acknowledgement, fin, *_ = [read(raw) for raw in vectors(PAGE)]
    assert decode_offer(first.payload) == FIRST_OFFER
    assert decode_offer(second.payload) == OFFER_AFTER_A_CUT
    assert decode_progress(acknowledgement.payload) == ACKNOWLEDGED
    assert decode_fin(fin.payload) == 40


def test_the_conformance_suite_reads_them_alike() -> None:
    first, second, acknowledgement, fin, *_ = [read(raw) for raw in vectors(PAGE)]
    place = payloads.Connection("SSH", 1, 7)
    assert payloads.Offer.read(first) == payloads.Offer(SOURCE_ID, 1)
    assert payloads.Offer.read(second).places == {place: payloads.Progress(40, 262_184)}
    assert payloads.read_ack(acknowledgement) == payloads.Progress(131_072, 655_360)
    assert payloads.fin(place, 40) == fin.raw


def test_numbers_are_those_of_the_program() -> None:
    listed = {name: int(number) for name, number in LISTED.findall(PAGE)}
    assert listed == {each.name: each.value for each in MessageType if each > 1000}


def test_capabilities_are_those_of_the_program() -> None:
    assert f"\n{capabilities.CAPABILITIES_FIELD}: {format_capabilities(OFFER | RESUME)}\n" in PAGE
    listed = re.findall(r"^\| `([a-z]+)` \|", PAGE, re.MULTILINE)
    assert set(listed) == set(capabilities.Capability)


@dataclass(frozen=True)
class Figure:
    """A figure of the page: a pattern with one group, a factor, and the program's value."""

    pattern: str
    factor: int
    value: float


KIB, MIB = 1024, 1024 * 1024
UNCOUNTED = replay._UNCOUNTED
RESUME_TIMEOUT = {each.name: each.default for each in fields(ProxySettings)}["resume_timeout"]
FIGURES = [
    Figure(r"^- (\d+) KiB may be sent before the first", KIB, ledger.FIRST_LIMIT),
    Figure(r"up to\s+(\d+) MiB, and never shrinks", MIB, ledger.MAX_WINDOW),
    Figure(r"only up to its share of (\d+) MiB", MIB, ledger._SHARED_WINDOW),
    Figure(r"its window: (\d+) KiB to 8 MiB", KIB, ledger.FIRST_LIMIT),
    Figure(r"its window: 256 KiB to (\d+) MiB", MIB, ledger.MAX_WINDOW),
    Figure(r"and from (\d+) MiB on no local socket", MIB, replay.MAX_KEPT),
    Figure(r"read until (\d+) MiB are left", MIB, replay._LOW),
    Figure(r"of all connections of a tunnel \| (\d+) MiB,", MIB, replay.MAX_KEPT + UNCOUNTED),
    Figure(r"MiB, and (\d+) KiB of each:", KIB, replay._LEAST_SHARE),
    Figure(r"a message of (\d+) KiB or more stays", KIB, replay.LARGE),
    Figure(r"further than (\d+) MiB ahead of what has come", MIB, ledger.MAX_WINDOW),
    Figure(r"of all connections \| (\d+) KiB each from", KIB, receive_buffers.PAUSE_HIGH_CROWDED),
    Figure(r"KiB each from (\d+) MiB on, then", MIB, receive_buffers.TOTAL_CROWDED),
    Figure(r"MiB on, then (\d+) MiB in all", MIB, receive_buffers.TOTAL_HIGH),
    Figure(r"of these, \[(\d+) in one turn\]", 1, link_session._REQUESTS),
    Figure(r"\| one offer \| ([\d,]+) bytes", 1, MAX_OFFER),
    Figure(r"`--resume-timeout`, (\d+) s; counted", 1, RESUME_TIMEOUT),
    Figure(r"more than (\d+) KiB, unless it has a window", KIB, receive_buffers.PAUSE_HIGH),
    Figure(r"(\d+) KiB while all together", KIB, receive_buffers.PAUSE_HIGH_CROWDED),
    Figure(r"while all together have more than (\d+) MiB", MIB, receive_buffers.TOTAL_CROWDED),
    Figure(r"(\d+) KiB or less: the kernel's", KIB, receive_buffers.PAUSE_LOW),
    Figure(r"more than (\d+) MiB for this connection", MIB, receive_buffers.CONNECTION_HIGH),
    Figure(r"more than (\d+) MiB for all together", MIB, receive_buffers.TOTAL_HIGH),
]


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.pattern)
def test_figures_are_those_of_the_program(figure: Figure) -> None:
    (found,) = re.findall(figure.pattern, PAGE, re.MULTILINE)
    assert float(found.replace(",", "")) * figure.factor == figure.value


def test_the_rules_can_fail() -> None:
    assert vectors("```hex\n00 01  one  two\nff\n```\n") == [b"\x00\x01\xff"]
    with pytest.raises(ValueError, match="non-hexadecimal"):
        vectors("```hex\n00 one\n```\n")
