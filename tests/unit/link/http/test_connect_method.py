"""CONNECT: the request to the byte, every answer, and what a user is told about it."""

from __future__ import annotations

import base64
import itertools
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.cli.exit_codes import ExitCode, exit_code_of
from tailrace.common.secret import Secret
from tailrace.errors import ProxyRefused
from tailrace.link.endpoint import ServiceEndpoint
from tailrace.link.http.connect_method import ConnectParser, build_connect
from tailrace.link.proxy.settings import WebProxy, parse_web_proxy
from tailrace.wire import Side

PASSWORD = "hunter2<&>hunter3"
PLAIN = WebProxy("http", "proxy.example", 3128)
KNOWN = WebProxy("http", "proxy.example", 3128, "user", Secret(PASSWORD))
BASIC = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
WHO = "web proxy http://proxy.example:3128"


def endpoint(**changes: Any) -> ServiceEndpoint:
    fields: dict[str, Any] = {
        "host": "data.example.com",
        "port": 8443,
        "side": Side.SOURCE,
        "access_token": Secret("token"),
    }
    return ServiceEndpoint(**(fields | changes))


def answer(status: str, body: bytes = b"", *fields: str) -> bytes:
    lines = "".join(f"{each}\r\n" for each in fields)
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


def refused(data: bytes, proxy: WebProxy = PLAIN, pieces: int = 0) -> ProxyRefused:
    """Return the error an answer ends in; the connection ends behind it."""
    parser = ConnectParser(endpoint(), proxy)
    step = pieces or max(1, len(data))
    with pytest.raises(ProxyRefused) as caught:
        for start in range(0, len(data), step):
            assert not parser.feed(data[start : start + step])
        parser.finish("the connection was closed")
    error = caught.value
    assert exit_code_of(error) is ExitCode.NETWORK
    assert str(error).isprintable()
    for hidden in (PASSWORD, PASSWORD[:7], BASIC):
        assert hidden not in str(error)
    return error


def test_request_to_the_byte() -> None:
    assert build_connect(endpoint(), PLAIN, "agent/1").decode() == (
        "CONNECT data.example.com:8443 HTTP/1.1\r\n"
        "Host: data.example.com:8443\r\n"
        "User-Agent: agent/1\r\n"
        "\r\n"
    )


def test_request_with_credentials() -> None:
    assert build_connect(endpoint(), KNOWN, "agent/1").decode() == (
        "CONNECT data.example.com:8443 HTTP/1.1\r\n"
        "Host: data.example.com:8443\r\n"
        f"Proxy-Authorization: Basic {BASIC}\r\n"
        "User-Agent: agent/1\r\n"
        "\r\n"
    )


def test_request_for_an_ipv6_address() -> None:
    lines = build_connect(endpoint(host="2001:db8::1"), PLAIN, "a").decode().split("\r\n")
    assert lines[:2] == ["CONNECT [2001:db8::1]:8443 HTTP/1.1", "Host: [2001:db8::1]:8443"]


@given(user=st.text(min_size=1, max_size=20), password=st.text(max_size=20))
def test_credentials_are_those_of_rfc_7617(user: str, password: str) -> None:
    proxy = WebProxy("http", "proxy", 1, user.replace(":", "") or "u", Secret(password))
    request = build_connect(endpoint(), proxy, "a").decode("ascii")
    encoded = re.search(r"Basic (\S+)\r\n", request)
    assert encoded is not None
    name, _, secret = base64.b64decode(encoded[1]).decode().partition(":")
    assert (name, secret) == (proxy.username, password)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://u:p@proxy:1", "http://proxy:1"),
        ("https://[::1]:8080", "https://[::1]:8080"),
        ("socks5h://proxy", "socks5h://proxy:1080"),
    ],
)
def test_a_place_is_no_secret(url: str, place: str) -> None:
    assert parse_web_proxy(url).place == place


@pytest.mark.parametrize("pieces", [0, 1, 3])
@pytest.mark.parametrize(
    "data",
    [
        answer("200 Connection established"),
        answer("200 OK", b"", "Content-Length: 5"),
        answer("201"),
        answer("204 Yes", b"", "Transfer-Encoding: chunked"),
        answer("100 Continue") + answer("299 Fine"),
        b"HTTP/1.0 200 Connection established\r\nProxy-agent: tinyproxy/1.11\r\n\r\n",
    ],
)
def test_2xx_opens_the_way(data: bytes, pieces: int) -> None:
    parser = ConnectParser(endpoint(), KNOWN)
    step = pieces or len(data)
    *before, last = (parser.feed(data[start : start + step]) for start in range(0, len(data), step))
    assert set(before) <= {None}
    assert last is not None


def test_what_follows_at_once_is_not_the_service() -> None:
    error = refused(answer("200 OK", b"SSH-2.0"))
    assert str(error) == (
        f"{WHO} did not connect to data.example.com:8443: unexpected bytes follow the answer"
    )
    assert error.retryable


@pytest.mark.parametrize("pieces", [0, 1])
@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("403 Forbidden", "403 Forbidden"),
        ("405 Method Not Allowed", "405 Method Not Allowed"),
        ("404", "404"),
        ("302 Found", "302 Found"),
        ("101 Switching Protocols", "101 Switching Protocols"),
    ],
)
def test_3xx_and_most_4xx_are_final(status: str, said: str, pieces: int) -> None:
    error = refused(answer(status, b"", "Content-Length: 0"), pieces=pieces)
    assert str(error) == (
        f"{WHO} refused to connect to data.example.com:8443: {said}; the proxy has to allow"
        " connections to data.example.com:8443, or no_proxy to name data.example.com"
    )
    assert not error.retryable


def test_a_login_page_in_place_of_the_service() -> None:
    location = "Location: http://portal.example/login?mac=1"
    error = refused(answer("302 Found", b"", "Content-Length: 0", location))
    assert str(error).endswith(
        "; this looks like the login page of a network at http://portal.example:"
        " log in there with a browser"
    )
    assert not error.retryable
    assert error.retryable_once_worked
    error = refused(answer("200 OK", b"<html><title>Welcome", "Content-Type: text/html"))
    assert "unexpected bytes follow the answer; this looks like the login page" in str(error)
    assert error.retryable
    error = refused(answer("511 Network Authentication Required", b"", "Content-Length: 0"))
    assert "this looks like the login page of a network: log in" in str(error)
    assert error.retryable


def test_what_is_forbidden_stays_so() -> None:
    for status in ("403 Forbidden", "407 No", "101 Switching Protocols"):
        assert not refused(answer(status, b"", "Content-Length: 0")).retryable_once_worked


def test_a_proxy_may_ask_for_a_delay() -> None:
    assert refused(answer("503 Busy", b"", "Content-Length: 0", "Retry-After: 9")).retry_after == 9
    assert refused(answer("503 Busy", b"", "Content-Length: 0")).retry_after == 0


@pytest.mark.parametrize("pieces", [0, 1, 3])
@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.0 200 Connection established\n\n",
        b"HTTP/1.1 200 OK\nProxy-Agent: x\n\n",
        b"HTTP/1.1 200 OK\r\nProxy-Agent: x\n\r\n",
        b"HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\n\n",
    ],
)
def test_lines_that_end_without_a_carriage_return(data: bytes, pieces: int) -> None:
    parser = ConnectParser(endpoint(), KNOWN)
    step = pieces or len(data)
    answers = [parser.feed(data[start : start + step]) for start in range(0, len(data), step)]
    assert answers[-1] is not None
    assert set(answers[:-1]) <= {None}


def test_a_refusal_of_such_lines() -> None:
    error = refused(b"HTTP/1.0 403 Forbidden\nContent-Length: 7\n\ngo away")
    assert '403 Forbidden: "go away"' in str(error)


@pytest.mark.parametrize(
    "status",
    ["500 Unable to connect", "502 Bad Gateway", "503", "504 Slow", "408", "425 Early", "429 Many"],
)
def test_what_may_pass_is_worth_another_try(status: str) -> None:
    error = refused(answer(status, b"later", "Content-Length: 5"))
    assert str(error) == f'{WHO} refused to connect to data.example.com:8443: {status}: "later"'
    assert error.retryable


DENIED = "407 Proxy Authentication Required"


@pytest.mark.parametrize(
    ("proxy", "fields", "remedy"),
    [
        (
            PLAIN,
            ["Proxy-Authenticate: Basic realm=x"],
            "the proxy wants a user and a password: "
            "set https_proxy=http://USER:PASSWORD@proxy.example:3128",
        ),
        (PLAIN, [], "set https_proxy=http://USER:PASSWORD@proxy.example:3128"),
        (KNOWN, [], "check user and password in https_proxy"),
        (KNOWN, ['Proxy-Authenticate: basic realm="a, Digest b"'], "check user and password"),
        (KNOWN, ["Proxy-Authenticate: NTLM", "Proxy-Authenticate: BASIC"], "check user and"),
        (KNOWN, ["Proxy-Authenticate: Negotiate, Basic realm=x"], "check user and"),
        (KNOWN, ["Proxy-Authenticate: Negotiate"], "wants Negotiate, and only Basic is supported"),
        (KNOWN, ["Proxy-Authenticate: NTLM, Negotiate YWJj=="], "wants NTLM, Negotiate, and"),
        (
            KNOWN,
            ['Proxy-Authenticate: Digest realm="say \\", Basic x", nonce=abc , opaque = "x"'],
            "wants Digest, and only",
        ),
        (KNOWN, ["Proxy-Authenticate: ,"], "check user and password"),
    ],
)
def test_407_says_what_to_do_and_is_final(proxy: WebProxy, fields: list[str], remedy: str) -> None:
    error = refused(answer(DENIED, b"", "Content-Length: 0", *fields), proxy)
    assert str(error).startswith(f"{WHO} refused to connect to data.example.com:8443: {DENIED}; ")
    assert remedy in str(error)
    assert not error.retryable


def test_a_401_means_the_password_too() -> None:
    error = refused(answer("401 Unauthorized", b"", "Content-Length: 0"), KNOWN)
    assert "check user and password in https_proxy" in str(error)
    assert not error.retryable


PAGE = b"""<!DOCTYPE html><html><head><title>title</title>
<style type="text/css">h1 { color: red }</style><!-- <p>comment</p> --></head>
<body><h1>Access&nbsp;denied</h1><p>1 &lt; 2</p>
<script>alert("x")</script><p class='a'>Ask <a href="mailto:x">x</a>.</body></html>"""


@pytest.mark.parametrize(
    ("body", "fields", "text"),
    [
        (b"go away", [], '"go away"'),
        (b"two\r\nlines \x1b[31m\x00", [], '"two lines [31m"'),
        (b"1 < 2 > 1", [], '"1 < 2 > 1"'),
        (b"\xff\xfe", [], '"\ufffd\ufffd"'),
        (PAGE, [], '"Access denied 1 < 2 Ask x ."'),
        (b"say " + PAGE, ["Content-Type: Text/HTML; charset=utf-8"], '"say Access denied 1 < 2'),
        (b"<p>shown<style> h1 {", [], '"shown"'),
        (b"<p>shown<!-- not", [], '"shown"'),
        (b"<p>shown<div cla", [], '"shown"'),
        (b"<br>", [], "403 No;"),
        (b"x" * 301, [], f'"{"x" * 300}\u2026"'),
        (b"x" * 5000, [], f'"{"x" * 300}\u2026"'),
    ],
)
def test_the_answers_text_is_quoted(body: bytes, fields: list[str], text: str) -> None:
    assert text in str(refused(answer("403 No", body, *fields)))


@pytest.mark.parametrize(
    "data",
    [
        answer("407 No", f"wrong: {PASSWORD}".encode()),
        answer("407 No", f"wrong: {BASIC}".encode()),
        answer("407 No", f"<p>{PASSWORD}</p>".encode()),
        answer("407 No", b"<p>hunter2&lt;&amp;&gt;hunter3</p>"),
        answer("407 No", f"cut: {PASSWORD[:9]}".encode()),
        answer(f"407 {PASSWORD}"),
        answer("407 No", b"", "Content-Length: 0", f"Proxy-Authenticate: {BASIC[:-1]} a"),
        answer("502 No", PASSWORD.encode()),
        f"{BASIC}\r\n".encode(),
        f"HTTP/1.1 {PASSWORD}\r\n\r\n".encode(),
    ],
)
def test_quoted_credentials_do_not_come_through(data: bytes) -> None:
    refused(data, KNOWN)  # which looks for them


@pytest.mark.parametrize("password", ["proxy", "no", "1", "denied", "Digest", "Proxy", "p", " "])
@pytest.mark.parametrize(
    "data",
    [
        answer("407 Proxy Authentication Required", b"no: {} is wrong on this proxy 1 p"),
        answer("407 {} is wrong", b"<html><p class='{}'>Access denied: {}</p> no"),
        answer("407 No", b"", "Content-Length: 0", "Proxy-Authenticate: Digest realm={}, {} x"),
        answer("403 No", b"<script>{}</script> no proxy for 1 p"),
    ],
)
def test_a_password_that_is_a_word_leaves_no_gap(data: bytes, password: str) -> None:
    """Neither in what the proxy says nor in our own words."""
    proxy = WebProxy("http", "proxy.example", 3128, "user", Secret(password))
    said = str(refused(data.replace(b"{}", password.encode()), proxy))
    assert "<redacted>" not in said
    assert said.startswith(f"{WHO} refused to connect to data.example.com:8443: 40")
    assert said.endswith(
        (
            "; check user and password in https_proxy (percent-encode special characters)",
            ", and only Basic is supported",
            ", or no_proxy to name data.example.com",
        )
    )
    quoted = said.partition(': "')[2].partition('"')[0]
    assert password not in quoted or password == " "


def test_a_password_outside_ascii_does_not_come_through() -> None:
    proxy = WebProxy("http", "proxy.example", 3128, "user", Secret("p\xe4ssw\xf6rt"))
    for data in (answer("403 No", "p\xe4ssw\xf6rt".encode()), answer("403 p\xe4ssw\xf6rt")):
        assert "ssw" not in str(refused(data, proxy))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the connection was closed"),
        (b"HTTP/1.1 20", "the connection was closed (in the middle of its answer)"),
        (b"SSH-2.0-x\r\n", 'the answer is not HTTP: "SSH-2.0-x"; is this a web proxy?'),
        (b"\x15\x03\x01\x00\x02", "is this a web proxy?"),
        (b"HTTP/1.1 fine\r\n\r\n", 'the answer begins with "HTTP/1.1 fine"; is this a'),
    ],
)
def test_what_is_no_answer(data: bytes, said: str) -> None:
    error = refused(data)
    assert str(error).startswith(f"{WHO} did not connect to data.example.com:8443: ")
    assert said in str(error)
    assert error.retryable


def test_a_refusal_whose_end_does_not_come_is_still_that_refusal() -> None:
    error = refused(answer("403 No", b"beca", "Content-Length: 7"))
    assert '403 No: "beca"; ' in str(error)
    assert not error.retryable


@given(
    cuts=st.lists(st.integers(0, 120), max_size=6),
    data=st.sampled_from(
        [
            answer("200 Connection established", b"", "Via: x"),
            answer("403 No", b"because", "Content-Length: 7"),
            answer("407 No", b"7\r\nbecause\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
            answer("502 No", b"<b>because</b>", "Content-Type: text/html"),
            b"rubbish" * 5,
        ]
    ),
)
def test_pieces_make_no_difference(cuts: list[int], data: bytes) -> None:
    def outcome(pieces: list[bytes]) -> tuple[str, bool]:
        parser = ConnectParser(endpoint(), KNOWN)
        try:
            for piece in pieces:
                if parser.feed(piece):
                    return "open", True
            parser.finish("closed")
        except ProxyRefused as error:
            # Of what is no HTTP, as much is quoted as had come.
            return re.sub('".*"', "", str(error)) if "not HTTP" in str(error) else str(
                error
            ), error.retryable

    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert outcome([data[a:b] for a, b in itertools.pairwise(bounds)]) == outcome([data])


@given(
    head=st.sampled_from([b"", b"HTTP/1.1 ", b"HTTP/1.1 407 x\r\nProxy-Authenticate: "]),
    data=st.binary(max_size=300),
    text=st.text(max_size=100),
)
def test_any_bytes_open_the_way_or_give_the_documented_error(
    head: bytes, data: bytes, text: str
) -> None:
    for received in (head + data, head + text.encode()):
        parser = ConnectParser(endpoint(), KNOWN)
        said = "open"
        try:
            if not parser.feed(received):
                parser.finish("closed")
        except ProxyRefused as error:
            said = str(error)
        assert said.isprintable()
