"""The text of --allow: parse and print."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.oracles.refusals import refusal, value_unless_refused
from tailrace.cli.localproxy.allow_list import format_allow_list, parse_allow_list
from tailrace.common.addresses import LocalAddress, TCPAddress, UnixAddress
from tailrace.localproxy.allow_list import is_allowed

SSH = TCPAddress("127.0.0.1", 22)
SOCKET = UnixAddress("/run/app.sock")

near_misses = st.text(alphabet="aZ09.:[]-_/=, %unix\0\u00e9\ud800", max_size=24)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:22", (SSH,)),
        ("22", (TCPAddress("", 22),)),
        (" 127.0.0.1:22 ,, /run/app.sock,", (SSH, SOCKET)),
        ("unix:app", (UnixAddress("app"),)),
        ("[::1]:22,db.internal:5432", (TCPAddress("::1", 22), TCPAddress("db.internal", 5432))),
    ],
)
def test_lists(text: str, expected: tuple[LocalAddress, ...]) -> None:
    assert parse_allow_list(text) == expected
    assert parse_allow_list(format_allow_list(expected)) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "--allow has no address; leave it out to allow the whole map"),
        (" , ", "--allow has no address; leave it out to allow the whole map"),
        ("SSH=22", "--allow takes addresses without service ids, not 'SSH=22'"),
        ("22,db", "--allow: Address 'db' has no port"),
        ("::1:22", "--allow: Invalid address '::1:22'; put IPv6 addresses in brackets"),
        ("db:0", "--allow: Port must be between 1 and 65535"),
        ("db:*", "--allow: Bind address contains invalid characters"),
        ("0.0.0.0/0", None),
        ("/" + "a" * 107, "--allow: The path of a unix socket has at most 107 bytes"),
    ],
)
def test_what_is_no_list(text: str, sentence: str | None) -> None:
    said = refusal(parse_allow_list, text)
    if sentence is None:
        assert parse_allow_list(text) == (UnixAddress(text),), "a network is no wildcard"
    else:
        assert sentence in said


@given(near_misses)
def test_any_text_is_a_list_or_refused(text: str) -> None:
    allowed = value_unless_refused(parse_allow_list, text)
    if allowed is not None:
        assert all(is_allowed(address, allowed) for address in allowed)
