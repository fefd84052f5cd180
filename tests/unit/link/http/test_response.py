"""Answers of HTTP/1.x: every shape, in any pieces, and what is none."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.common.secret import Secret
from tailrace.errors import RemoteProtocolError
from tailrace.link.http.response import MAX_BODY, MAX_HEAD, Response, ResponseReader, scrub

SECRET = "a-secret-nobody-may-see"


def answer(status: str, body: bytes = b"", *fields: str) -> bytes:
    lines = "".join(f"{each}\r\n" for each in fields)
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode("latin-1") + body


def read(data: bytes, pieces: int = 0, method: str = "GET") -> Response | None:
    """Feed a reader; nothing may follow what completes the answer."""
    reader = ResponseReader(method, [Secret(SECRET)])
    step = pieces or max(1, len(data))
    for start in range(0, len(data), step):
        found = reader.feed(data[start : start + step])
        if found is not None:
            assert start + step >= len(data), "complete before its end"
            return found
    return None


CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize("pieces", [0, 1, 2, 7])
@pytest.mark.parametrize(
    ("data", "status", "reason", "body"),
    [
        (answer("200 OK", b"hello", "Content-Length: 5"), 200, "OK", b"hello"),
        (answer("200 OK", b"hello", "content-LENGTH:\t5 "), 200, "OK", b"hello"),
        (answer("407", b"", "Content-Length: 0"), 407, "", b""),
        (answer("407 ", b"", "Content-Length: 0"), 407, "", b""),
        (answer("404 Not  Found", b"", "Content-Length: 0"), 404, "Not  Found", b""),
        (answer("204 No Content"), 204, "No Content", b""),
        (answer("304 Not Modified", b"", "Content-Length: 7"), 304, "Not Modified", b""),
        (answer("400 \xe4\xf6", b"", "Content-Length: 0"), 400, "\xe4\xf6", b""),
        (answer("400 B", b"aa", "Content-Length: 2", "Content-Length: 2"), 400, "B", b"aa"),
        (answer("400 B", b"3\r\nabc\r\n0\r\n", CHUNKED), 400, "B", b"abc"),
        (answer("400 B", b"3;x=1\r\nabc\r\n1\r\nd\r\n0\r\n", CHUNKED), 400, "B", b"abcd"),
        (answer("400 B", b"zz\r\n", CHUNKED), 400, "B", b""),
        (answer("400 B", b"-5\r\n", CHUNKED), 400, "B", b""),
        (b"HTTP/1.0  500   Oops \r\nContent-Length:0\r\n\r\n", 500, "Oops ", b""),
        (answer("100 Continue") + answer("103 Hints") + answer("204 N"), 204, "N", b""),
    ],
)
def test_answers_in_any_pieces(
    data: bytes, status: int, reason: str, body: bytes, pieces: int
) -> None:
    found = read(data, pieces)
    assert found is not None
    assert (found.status, found.reason, found.body, found.leftover) == (status, reason, body, b"")
    assert not found.cut


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
def test_what_follows_a_switch_of_protocols_is_not_http(method: str) -> None:
    found = read(answer("101 Switching", b"\x82\x00", "Content-Length: 9"), method=method)
    assert found is not None
    assert (found.status, found.body, found.leftover) == (101, b"", b"\x82\x00")


@pytest.mark.parametrize("status", ["200 Connection established", "204 Yes", "299 Why not"])
@pytest.mark.parametrize("pieces", [0, 1])
def test_what_follows_an_accepted_connect_is_not_http(status: str, pieces: int) -> None:
    found = read(answer(status, b"", "Content-Length: 9", CHUNKED), pieces, "CONNECT")
    assert found is not None
    assert (found.body, found.leftover) == (b"", b"")
    found = read(answer(status, b"\x16\x03"), method="CONNECT")
    assert found is not None
    assert found.leftover == b"\x16\x03"


def test_a_refused_connect_has_a_body_as_any_answer() -> None:
    found = read(answer("407 No", b"why", "Content-Length: 3"), 1, "CONNECT")
    assert found is not None
    assert found.body == b"why"


def test_fields() -> None:
    data = answer("204 N", b"", "A: 1", "a:2 ", "B: x, Y ,z", "no colon", "Via: a: b")
    found = read(data)
    assert found is not None
    assert found.values("a") == ["1", "2"]
    assert found.values("via") == ["a: b"]
    assert found.values("missing") == []
    assert found.tokens("b") == {"x", "y", "z"}
    assert found.tokens("missing") == set()


@pytest.mark.parametrize("pieces", [0, 1000])
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", 'the answer is not HTTP: "SSH-2.0-OpenSSH_9.2"'),
        (b"\x15\x03\x01\x00", 'the answer is not HTTP: ""'),
        (b"HTTP/2 200\r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 OK\r\n\r\n", 'the answer begins with "HTTP/1.1 OK"'),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "the answer begins with"),
        (b"HTTP/1.2 200 OK\r\n\r\n", "the answer begins with"),
        ("HTTP/1.1 \u0662\u0660\u0660 OK\r\n\r\n".encode(), "the answer begins with"),
        (answer("100 Continue") + b"rubbish", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEAD, f"longer than {MAX_HEAD} bytes"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEAD + b"\r\n\r\n", "longer than"),
    ],
)
def test_what_is_no_answer(data: bytes, said: str, pieces: int) -> None:
    with pytest.raises(RemoteProtocolError, match=re.escape(said)) as caught:
        read(data, pieces)
    assert str(caught.value).isprintable()


def test_a_head_of_just_the_limit() -> None:
    filler = MAX_HEAD - len(answer("204 N", b"", "X: ")) + len(b"\r\n\r\n")
    assert read(answer("204 N", b"", "X: " + "y" * filler)) is not None
    with pytest.raises(RemoteProtocolError, match="longer than"):
        read(answer("204 N", b"", "X: " + "y" * (filler + 1)))


@pytest.mark.parametrize(
    "fields",
    [
        (),
        ("Content-Length: many",),
        ("Content-Length: \u0663".encode().decode("latin-1"),),
        ("Content-Length: 3", "Content-Length: 4"),
        ("Content-Length: 99",),
        ("Content-Length: 9" + "9" * 5000,),
        (CHUNKED,),
    ],
)
def test_a_body_without_an_end_ends_with_the_connection(fields: tuple[str, ...]) -> None:
    body = b"4\r\nwhy?" if CHUNKED in fields else b"why?"
    reader = ResponseReader("GET")
    assert reader.feed(answer("403 No", body, *fields)) is None
    found = reader.finish("not said")
    assert (found.status, found.body, found.cut) == (403, b"why?", True)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it was closed"),
        (b"HTTP/1.1 1", "it was closed (in the middle of its answer)"),
        (answer("100 Continue"), "it was closed"),
    ],
)
def test_an_end_before_the_head(data: bytes, said: str) -> None:
    reader = ResponseReader("GET")
    assert reader.feed(data) is None
    with pytest.raises(RemoteProtocolError) as caught:
        reader.finish("it was closed")
    assert str(caught.value) == said


def test_no_more_of_a_body_is_read_than_needed() -> None:
    reader = ResponseReader("GET")
    assert reader.feed(answer("403 No", b"x" * (MAX_BODY - 1))) is None
    found = reader.feed(b"xyz")
    assert found is not None
    assert found.body[:MAX_BODY] == b"x" * MAX_BODY
    assert found.cut


def test_no_more_chunks_are_read_than_needed() -> None:
    chunks = b"1\r\nx\r\n" * (2 * MAX_BODY // 6 + 1)
    found = read(answer("403 No", chunks, CHUNKED))
    assert found is not None
    assert set(found.body) == set(b"x")
    assert found.cut


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"bad token {SECRET}!", "bad token <redacted>!"),
        (f"cut: {SECRET[:-1]}", "cut: <redacted>"),
        (f"cut: {SECRET[:4]}", "cut: <redacted>"),
        (f"too short to tell: {SECRET[:3]}", f"too short to tell: {SECRET[:3]}"),
        ("two\r\nlines\x00\u2028\x9b\x1b[31m", "two lines [31m"),
        ("", ""),
    ],
)
def test_scrub(text: str, clean: str) -> None:
    assert scrub(text, [Secret(SECRET)]) == clean


def test_scrub_leaves_the_end_of_whole_text_alone() -> None:
    text = f"whole: {SECRET[:8]}"
    assert scrub(text, [Secret(SECRET)], cut=False) == text


def test_scrub_takes_the_longer_secret_first_and_ignores_empty_ones() -> None:
    secrets = [Secret(SECRET[:18]), Secret(""), Secret(SECRET)]
    assert scrub(f"x {SECRET} y {SECRET[:18]} z", secrets) == "x <redacted> y <redacted> z"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("wrong: pass word!", ""),
        ("wrong: pass\u00a0word!", ""),
        ("wrong: pass\r\n word!", ""),
        ("wrong: pass\t", ""),
        (f"wrong: {SECRET} pass word", ""),
        ("pass the word", "pass the word"),
    ],
)
def test_scrub_knows_a_secret_by_any_blank(text: str, clean: str) -> None:
    assert scrub(text, [Secret("pass word"), Secret("   "), Secret(SECRET)]) == clean


@pytest.mark.parametrize("word", ["proxy", "no", "1", "Access denied"])
def test_a_text_with_a_secret_that_may_be_a_word_is_none(word: str) -> None:
    """A gap would show which of its words is the secret."""
    text = "Access denied: no way through this proxy, rule 1"
    assert scrub(text, [Secret(word)]) == ""
    assert scrub("Access refused", [Secret(word)]) == "Access refused"


def test_a_reason_that_cannot_be_shown_is_the_standard_one() -> None:
    def shown(status: str, secret: str) -> str:
        found = read(answer(status, b"", "Content-Length: 0"))
        assert found is not None
        return found.shown_reason([Secret(secret)])

    assert shown("407 wrong: hunter2", "hunter2") == "Proxy Authentication Required"
    assert shown(f"407 wrong: {SECRET}", SECRET) == "wrong: <redacted>"
    assert shown("407 Go away", "hunter2") == "Go away"
    assert shown("407", "hunter2") == ""
    assert shown("499 wrong: hunter2", "hunter2") == ""


@pytest.mark.parametrize("data", [f"{SECRET}\r\n", f"HTTP/1.1 {SECRET}\r\n\r\n"])
def test_a_quoted_secret_does_not_come_through(data: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        read(data.encode())
    assert SECRET[:6] not in str(caught.value)


ANSWERS = [
    answer("101 Switching Protocols", b"\x82\x03abc", "Upgrade: websocket"),
    answer("400 Bad", b"abc", "Content-Length: 3"),
    answer("502 Bad", b"3\r\nabc\r\n0\r\n", CHUNKED),
    answer("100 Continue") + answer("200 OK", b"rest"),
]


@given(
    method=st.sampled_from(["GET", "CONNECT"]),
    cuts=st.lists(st.integers(0, 200), max_size=6),
    data=st.sampled_from(ANSWERS),
)
def test_pieces_make_no_difference(method: str, cuts: list[int], data: bytes) -> None:
    def outcome(pieces: list[bytes]) -> Response:
        reader = ResponseReader(method)
        for number, piece in enumerate(pieces):
            found = reader.feed(piece)
            if found is not None:
                rest = b"".join(pieces[number + 1 :])
                return replace(found, leftover=found.leftover + rest)
        return reader.finish("")

    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert outcome([data[a:b] for a, b in itertools.pairwise(bounds)]) == outcome([data])


@given(
    method=st.sampled_from(["GET", "CONNECT"]),
    head=st.sampled_from([b"", b"HTTP/1.1 ", ANSWERS[2][:-9]]),
    data=st.binary(max_size=300),
)
def test_any_bytes_give_an_answer_or_the_documented_error(
    method: str, head: bytes, data: bytes
) -> None:
    reader = ResponseReader(method)
    try:
        found = reader.feed(head + data) or reader.finish("closed")
        said = found.reason
    except RemoteProtocolError as error:
        found = None
        said = str(error)
    assert said.isprintable() if found is None else 101 <= found.status <= 999
