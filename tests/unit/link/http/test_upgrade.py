"""The upgrade: the request to the byte, and every answer one can get, in any pieces."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tailrace.common.secret import Secret
from tailrace.errors import (
    AccessRefused,
    HandshakeAltered,
    HandshakeFailed,
    LinkError,
    NotTunnelingService,
    ServiceUnavailable,
)
from tailrace.link.endpoint import ServiceEndpoint
from tailrace.link.http.response import MAX_BODY, MAX_HEAD
from tailrace.link.http.upgrade import UpgradeAccepted, UpgradeParser, accept_for, build_request
from tailrace.service.relay.handshake import refuse_admission
from tailrace.service.tunnels.rules import Refusal
from tailrace.wire import FLOW, NO_CAPABILITIES, OFFER, RESUME, Capabilities, Side

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 section 1.3
TOKEN = "the-access-token"
CLIENT_TOKEN = "the-client-token-0123456789abcdef"
V3 = "aws.iot.securetunneling-3.0"


def endpoint(**changes: Any) -> ServiceEndpoint:
    fields: dict[str, Any] = {
        "host": "data.example.com",
        "port": 8443,
        "side": Side.DESTINATION,
        "access_token": Secret(TOKEN),
        "client_token": Secret(CLIENT_TOKEN),
    }
    return ServiceEndpoint(**(fields | changes))


def answer(status: str = "101 Switching Protocols", **fields: str | None) -> bytes:
    """Return the head of an answer: an acceptance, but for the fields named (``_`` is ``-``)."""
    headers: dict[str, str | None] = {
        "Upgrade": "websocket",
        "Connection": "upgrade",
        "Sec-WebSocket-Accept": ACCEPT,
        "Sec-WebSocket-Protocol": V3,
        "channel-id": "0a1b2c",
    }
    headers |= {name.replace("_", "-"): value for name, value in fields.items()}
    lines = "".join(f"{name}: {text}\r\n" for name, text in headers.items() if text is not None)
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode("latin-1")


def refusal(status: str, body: bytes = b"", *fields: str) -> bytes:
    lines = "".join(f"{each}\r\n" for each in fields)
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


def feed(data: bytes, pieces: int = 0) -> UpgradeAccepted | None:
    parser = UpgradeParser(endpoint(), KEY)
    step = pieces or len(data)
    for start in range(0, len(data), step):
        accepted = parser.feed(data[start : start + step])
        if accepted is not None:
            return accepted
    return None


@pytest.mark.parametrize(
    ("port", "host"), [(443, "data.example.com"), (8443, "data.example.com:8443")]
)
def test_request_to_the_byte(port: int, host: str) -> None:
    assert build_request(endpoint(port=port), KEY, "agent/1").decode() == (
        "GET /tunnel?local-proxy-mode=destination HTTP/1.1\r\n"
        f"Host: {host}\r\n"
        "Upgrade: websocket\r\n"
        "Connection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {KEY}\r\n"
        f"Sec-WebSocket-Protocol: {V3}\r\n"
        f"access-token: {TOKEN}\r\n"
        f"client-token: {CLIENT_TOKEN}\r\n"
        "User-Agent: agent/1\r\n"
        "X-Tailrace-Capabilities: flow, pings\r\n"
        "\r\n"
    )


@pytest.mark.parametrize(
    "host",
    [
        "data.tunneling.iot.us-east-1.amazonaws.com",
        "data.tunneling.iot.cn-north-1.amazonaws.com.cn",
        "vpce-0a1b-2c3d.data.tunneling.iot.eu-west-1.vpce.amazonaws.com.",
        "Data.Tunneling.IoT.eusc-de-east-1.AmazonAWS.eu",
        "data.iot-tunneling.us-east-1.api.aws",
    ],
)
@pytest.mark.parametrize("capabilities", [OFFER, OFFER | RESUME])
def test_nothing_is_offered_to_aws(host: str, capabilities: Capabilities) -> None:
    """Recorded from a proxy that knew no offers."""
    target = endpoint(host=host, port=443, capabilities=capabilities)
    assert build_request(target, KEY, "agent/1").decode() == (
        "GET /tunnel?local-proxy-mode=destination HTTP/1.1\r\n"
        f"Host: {host}\r\n"
        "Upgrade: websocket\r\n"
        "Connection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {KEY}\r\n"
        f"Sec-WebSocket-Protocol: {V3}\r\n"
        f"access-token: {TOKEN}\r\n"
        f"client-token: {CLIENT_TOKEN}\r\n"
        "User-Agent: agent/1\r\n"
        "\r\n"
    )


@pytest.mark.parametrize("host", ["amazonaws.com.example", "amazonaws.com", "data.notaws.com"])
def test_a_service_of_another_name_is_made_an_offer(host: str) -> None:
    assert b"X-Tailrace-Capabilities: " in build_request(endpoint(host=host), KEY, "agent/1")


def test_client_token_only_when_there_is_one() -> None:
    assert b"client-token" not in build_request(endpoint(client_token=None), KEY, "agent/1")


def test_accept_is_that_of_the_rfc() -> None:
    assert accept_for(KEY) == ACCEPT


@pytest.mark.parametrize("pieces", [0, 1, 2, 7])
def test_acceptance_in_any_pieces(pieces: int) -> None:
    assert feed(answer(), pieces) == UpgradeAccepted(V3, "0a1b2c", b"")


def test_first_frames_behind_the_answer() -> None:
    accepted = feed(answer() + b"\x82\x05hello")
    assert accepted is not None
    assert accepted.leftover == b"\x82\x05hello"


@pytest.mark.parametrize(
    "fields",
    [
        {"Upgrade": "WebSocket"},
        {"Connection": "Upgrade"},
        {"Connection": "keep-alive, Upgrade"},
        {"Connection": "UPGRADE ,keep-alive"},
        {"Upgrade": "h2c, websocket"},
        {"Sec-WebSocket-Extensions": ""},
        {"Server": "anything: at all"},
    ],
)
def test_lists_and_case_of_header_fields(fields: dict[str, str]) -> None:
    assert feed(answer(**fields)) == UpgradeAccepted(V3, "0a1b2c", b"")


def test_a_list_may_come_in_several_fields() -> None:
    data = answer(Connection="close").replace(b"channel-id", b"connection: upgrade\r\nchannel-id")
    assert feed(data) is not None


def test_names_of_fields_have_no_case_and_values_no_margin() -> None:
    data = answer().replace(b"Sec-WebSocket-Accept: ", b"sec-websocket-ACCEPT:\t ")
    assert feed(data) is not None


def test_a_line_that_is_no_field_is_passed_over() -> None:
    assert feed(answer().replace(b"channel-id", b"nonsense\r\nchannel-id")) is not None


def test_a_missing_channel_id_is_empty() -> None:
    assert feed(answer(channel_id=None)) == UpgradeAccepted(V3, "", b"")


@pytest.mark.parametrize(
    ("value", "passed_on"), [("1", True), ("2", False), ("", False), ("1, 1", False), (None, False)]
)
def test_flow_messages_are_for_a_service_that_says_it_passes_them_on(
    value: str | None, passed_on: bool
) -> None:
    accepted = feed(answer(x_tailrace_flow=value))
    assert accepted is not None
    assert accepted.capabilities == (FLOW if passed_on else NO_CAPABILITIES)


@pytest.mark.parametrize(
    ("value", "capabilities"),
    [
        ("flow", {"flow"}),
        ("flow,\tpings , juggling", {"flow", "pings"}),
        ("Flow", set()),
        ("", set()),
        (None, set()),
    ],
)
def test_the_capabilities_are_those_that_both_know(
    value: str | None, capabilities: set[str]
) -> None:
    accepted = feed(answer(x_tailrace_capabilities=value))
    assert accepted is not None
    assert accepted.capabilities == capabilities


def test_interim_answers_are_passed_over() -> None:
    data = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + answer()
    for pieces in (0, 1):
        assert feed(data, pieces) == UpgradeAccepted(V3, "0a1b2c", b"")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (answer(Upgrade=None), "header Upgrade"),
        (answer(Upgrade="h2c"), "header Upgrade"),
        (answer(Connection=None), "header Connection"),
        (answer(Connection="upgrade-later"), "header Connection"),
        (answer(Sec_WebSocket_Accept=None), "header Sec-WebSocket-Accept"),
        (answer(Sec_WebSocket_Accept=ACCEPT.lower()), "header Sec-WebSocket-Accept"),
        (answer(Sec_WebSocket_Extensions="permessage-deflate"), "extension"),
        (answer(Sec_WebSocket_Protocol=None), "names no subprotocol"),
        (answer(Sec_WebSocket_Protocol="aws.iot.securetunneling-2.0"), "tunneling-2.0"),
        (answer(Sec_WebSocket_Protocol=V3.upper()), V3.upper()),
        (answer(Sec_WebSocket_Protocol=f"{V3}, {V3}"), "names the subprotocol"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", '"SSH-2.0-OpenSSH_9.2"'),
        (b"\x15\x03\x01", "not HTTP"),
        (b"HTTP/2 200\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 OK\r\n\r\n", "begins with"),
        (b"HTTP/1.1 2000 x\r\n\r\n", "begins with"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEAD, "longer than"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEAD + b"\r\n\r\n", "longer than"),
    ],
)
def test_what_is_no_websocket_answer(data: bytes, said: str) -> None:
    for pieces in (0, 1000):
        with pytest.raises(HandshakeFailed, match=re.escape(said)) as caught:
            feed(data, pieces)
        assert type(caught.value) is HandshakeFailed
        assert caught.value.retryable
        assert "data.example.com:8443" in str(caught.value)


def test_a_head_of_just_the_limit() -> None:
    filler = MAX_HEAD - len(answer(X="")) + len(b"\r\n\r\n")
    assert feed(answer(X="y" * filler)) is not None
    with pytest.raises(HandshakeFailed, match="longer than"):
        feed(answer(X="y" * (filler + 1)))


@pytest.mark.parametrize("pieces", [0, 1, 3])
@pytest.mark.parametrize(
    ("data", "status", "reason", "body"),
    [
        (refusal("400 Bad Request", b"used", "Content-Length: 4"), 400, "Bad Request", "used"),
        (refusal("403 Forbidden", b"", "Content-Length: 0"), 403, "Forbidden", ""),
        (refusal("404", b"", "content-length: 0"), 404, "", ""),
        (
            refusal(
                "400 Bad Request",
                b"5;x=y\r\nhello\r\n6\r\n there\r\n0\r\n\r\n",
                "Transfer-Encoding: chunked",
            ),
            400,
            "Bad Request",
            "hello there",
        ),
        (
            refusal(
                "400 Bad Request",
                b"",
                "Content-Length: 0",
                "X-Status-Reason: Tunnel is closed",
            ),
            400,
            "Bad Request",
            "Tunnel is closed",
        ),
        (
            refusal("400 Bad Request", b"text", "Content-Length: 4", "X-Status-Reason: other"),
            400,
            "Bad Request",
            "text",
        ),
        (
            refusal("400 Bad\x1b[31m Request", b" \x1b[0m a\r\n b\t ", "Content-Length: 12"),
            400,
            "Bad [31m Request",
            "[0m a b",
        ),
        (
            refusal("400 Bad Request", b"\xff\xfe", "Content-Length: 2", "Content-Length: 2"),
            400,
            "Bad Request",
            "\ufffd\ufffd",
        ),
    ],
)
def test_refusals_in_any_pieces(
    data: bytes, status: int, reason: str, body: str, pieces: int
) -> None:
    with pytest.raises(AccessRefused) as caught:
        feed(data, pieces)
    assert (caught.value.status, caught.value.reason, caught.value.body) == (status, reason, body)
    assert not caught.value.retryable


@pytest.mark.parametrize("pieces", [0, 1])
def test_5xx_is_worth_another_try(pieces: int) -> None:
    data = refusal("503 Service Unavailable", b"later", "Content-Length: 5")
    with pytest.raises(ServiceUnavailable) as caught:
        feed(data, pieces)
    assert str(caught.value) == 'HTTP/1.1 503 Service Unavailable: "later"'
    assert caught.value.retryable


@pytest.mark.parametrize("status", [408, 425, 429, 503])
@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ((), 0),
        (("Retry-After: 7",), 7),
        (("retry-after: 99999999999999999999",), 9_999_999_999),
        (("Retry-After: -1",), 0),
        (("Retry-After: \u0663",), 0),
        (("Retry-After: Fri, 31 Dec 1999 23:59:59 GMT",), 0),
    ],
)
def test_a_refusal_that_may_pass(status: int, fields: tuple[str, ...], seconds: float) -> None:
    with pytest.raises(ServiceUnavailable) as caught:
        feed(refusal(f"{status} Later", b"", "Content-Length: 0", *fields))
    assert caught.value.retryable
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize("pieces", [0, 1, 3])
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (refusal("204 No Content"), '204 No Content: ""'),
        (refusal("304 Not Modified", b"", "Content-Length: 9"), '304 Not Modified: ""'),
        (refusal("200 OK", b"<html>", "Content-Length: 6"), '200 OK: "<html>"'),
        (refusal("302 Found", b"", "Content-Length: 0", "Location: x"), '302 Found: ""'),
        # AWS' control API; that of tailrace serve has the same word.
        (
            refusal("404 Not Found", b"<UnknownOperationException/>", "Content-Length: 28"),
            '404 Not Found: "<UnknownOperationException/>"',
        ),
    ],
)
def test_what_no_tunneling_service_answers(data: bytes, said: str, pieces: int) -> None:
    with pytest.raises(NotTunnelingService) as caught:
        feed(data, pieces)
    assert str(caught.value) == (
        "something else answered for data.example.com:8443, not a tunneling service:"
        f" HTTP/1.1 {said}"
    )
    assert not caught.value.retryable


ALTERED = [
    ("426 Upgrade Required", "This is a WebSocket endpoint"),
    ("405 Method Not Allowed", ""),
    ("431 Request Header Fields Too Large", "The upgrade request is larger than 4096 bytes"),
    ("400 Bad Request", "The header Connection must contain Upgrade"),
    ("400 Bad Request", "The header Sec-WebSocket-Key must hold 16 bytes in base64, once"),
    ("400 Bad Request", "Unsupported HTTP version: b'HTTP/1.0'"),
    ("400 Bad Request", "An access token is required; a proxy in between may have removed it"),
    ("400 Bad Request", "The path must be /tunnel; a proxy in between may have changed it"),
]


@pytest.mark.parametrize("pieces", [0, 1])
@pytest.mark.parametrize(("status", "text"), ALTERED)
def test_what_was_changed_on_the_way_is_not_the_token(status: str, text: str, pieces: int) -> None:
    with pytest.raises(HandshakeAltered) as caught:
        feed(refusal(status, text.encode(), f"Content-Length: {len(text)}"), pieces)
    error = caught.value
    assert str(error) == (
        "data.example.com:8443 got another upgrade request than was sent:"
        f' HTTP/1.1 {status}: "{text}"'
    )
    assert (f"{error.status} {error.reason}", error.body) == (status, text)
    assert not error.retryable
    assert error.retryable_once_worked


@pytest.mark.parametrize(
    "text",
    [refuse_admission(each).text for each in Refusal]
    + ["The access token was not found", "Forbidden", "denied by policy"],
)
def test_what_refuses_a_token_is_about_the_token(text: str) -> None:
    for status in ("400 Bad Request", "403 Forbidden"):
        with pytest.raises(AccessRefused):
            feed(refusal(status, text.encode(), f"Content-Length: {len(text)}"))


@pytest.mark.parametrize("status", ["400 Bad Request", "403 Forbidden", "404 Not Found", "426 x"])
def test_a_page_is_not_the_service(status: str) -> None:
    page = b"<!DOCTYPE html><title>blocked</title>"
    for fields in ([], ["Content-Type: text/plain"], ["Content-Type: text/html"]):
        with pytest.raises(NotTunnelingService) as caught:
            feed(refusal(status, page, f"Content-Length: {len(page)}", *fields))
        assert caught.value.login_page is None


@pytest.mark.parametrize(
    ("data", "page"),
    [
        (refusal("200 OK", b"<html>", "Content-Length: 6"), ""),
        (refusal("200 OK", b"hello", "Content-Length: 5"), None),
        (refusal("302 Found", b"", "Content-Length: 0", "Location: http://a.b/c"), "http://a.b"),
        (refusal("302 Found", b"", "Content-Length: 0"), None),
    ],
)
def test_a_login_page_is_recognised(data: bytes, page: str | None) -> None:
    with pytest.raises(NotTunnelingService) as caught:
        feed(data)
    assert caught.value.login_page == page


def test_a_network_that_requires_authentication() -> None:
    with pytest.raises(ServiceUnavailable, match="login page of a network: log in") as caught:
        feed(refusal("511 Network Authentication Required", b"", "Content-Length: 0"))
    assert caught.value.retryable


@pytest.mark.parametrize(
    "fields",
    [
        (),
        ("Content-Length: many",),
        ("Content-Length: 3", "Content-Length: 4"),
        ("Content-Length: 99",),
        ("Content-Length: 9" + "9" * 5000,),
        ("Transfer-Encoding: chunked",),
    ],
)
def test_a_refusal_without_an_end_waits_for_the_end(fields: tuple[str, ...]) -> None:
    body = b"4\r\nwhy?" if "Transfer-Encoding: chunked" in fields else b"why?"
    parser = UpgradeParser(endpoint(), KEY)
    assert parser.feed(refusal("403 Forbidden", body, *fields)) is None
    with pytest.raises(AccessRefused) as caught:
        parser.finish("the connection was closed")
    assert caught.value.body == "why?"


@pytest.mark.parametrize("body", [b"not chunked\r\n", b"-5\r\n", b"zz\r\n\r\n"])
def test_a_body_that_only_claims_to_be_chunked(body: bytes) -> None:
    with pytest.raises(AccessRefused) as caught:
        feed(refusal("403 Forbidden", body, "Transfer-Encoding: chunked"))
    assert caught.value.body == ""


def test_no_more_of_a_text_is_read_than_needed() -> None:
    parser = UpgradeParser(endpoint(), KEY)
    parser.feed(refusal("403 Forbidden", b"x" * (MAX_BODY - 1)))
    with pytest.raises(AccessRefused) as caught:
        parser.feed(b"x" * 10)
    assert caught.value.body == "x" * MAX_BODY


def test_no_more_chunks_are_read_than_needed() -> None:
    chunks = b"1\r\nx\r\n" * (2 * MAX_BODY // 6 + 1)
    with pytest.raises(AccessRefused) as caught:
        feed(refusal("403 Forbidden", chunks, "Transfer-Encoding: chunked"))
    assert set(caught.value.body) == {"x"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "failed: the connection was closed"),
        (b"HTTP/1.1 1", "failed: the connection was closed (in the middle of its answer)"),
    ],
)
def test_an_end_before_the_answer(data: bytes, said: str) -> None:
    parser = UpgradeParser(endpoint(), KEY)
    parser.feed(data)
    with pytest.raises(HandshakeFailed, match=re.escape(said) + "$") as caught:
        parser.finish("the connection was closed")
    assert type(caught.value) is HandshakeFailed


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"Invalid access token: {TOKEN}.", "Invalid access token: <redacted>."),
        (f"{TOKEN}{CLIENT_TOKEN}", "<redacted><redacted>"),
        (f"no {TOKEN[:-1]}", f"no {TOKEN[:-1]}"),
    ],
)
def test_a_whole_text_is_quoted_but_for_the_tokens(text: str, shown: str) -> None:
    with pytest.raises(AccessRefused) as caught:
        feed(refusal("403 Forbidden", text.encode(), f"Content-Length: {len(text)}"))
    assert caught.value.body == shown


@pytest.mark.parametrize("tail", [TOKEN[:-1], CLIENT_TOKEN[:8], TOKEN[:4]])
def test_a_text_that_goes_on_may_end_within_a_token(tail: str) -> None:
    parser = UpgradeParser(endpoint(), KEY)
    parser.feed(refusal("403 Forbidden", f"no {tail}".encode()))
    with pytest.raises(AccessRefused) as caught:
        parser.finish("the connection was closed")
    assert caught.value.body == "no <redacted>"


@pytest.mark.parametrize(
    "data",
    [
        refusal(f"400 {TOKEN}", TOKEN.encode(), f"Content-Length: {len(TOKEN)}"),
        refusal("400 Bad", b"", "Content-Length: 0", f"X-Status-Reason: {CLIENT_TOKEN}"),
        refusal("400 Bad", b"x" * (MAX_BODY - 10) + TOKEN.encode() * 2),
        refusal(f"503 {TOKEN}", CLIENT_TOKEN.encode(), f"Content-Length: {len(CLIENT_TOKEN)}"),
        answer(Sec_WebSocket_Protocol=TOKEN),
        f"{TOKEN}\r\n".encode(),
        f"HTTP/1.1 {TOKEN}\r\n\r\n".encode(),
    ],
)
def test_a_quoted_token_does_not_come_through(data: bytes) -> None:
    with pytest.raises(LinkError) as caught:
        feed(data)
    for text in (str(caught.value), repr(caught.value), repr(vars(caught.value))):
        assert TOKEN[:6] not in text
        assert CLIENT_TOKEN[:6] not in text


def test_a_token_as_channel_id_does_not_come_through() -> None:
    accepted = feed(answer(channel_id=TOKEN))
    assert accepted is not None
    assert accepted.channel_id == "<redacted>"


@given(data=st.binary(max_size=300), head=st.sampled_from([b"", b"HTTP/1.1 ", answer()[:-9]]))
@example(data=b"\r\n\r\n", head=answer()[:-9])
@example(data=b"\x00\r\n\r\n", head=answer()[:-9])
@example(data=b"\n\n", head=answer()[:-9])
def test_any_bytes_give_an_answer_or_an_error_of_the_tree(data: bytes, head: bytes) -> None:
    parser = UpgradeParser(endpoint(), KEY)
    refused: HandshakeFailed | None = None
    try:
        accepted = parser.feed(head + data) or parser.finish("the connection was closed")
    except HandshakeFailed as error:
        refused = error
    # The cut answer becomes an acceptance again when its last field and the head are ended.
    if refused is None:
        assert head.startswith(b"HTTP/1.1 101")
        assert re.search(rb"\r?\n\r?\n", data)
        assert accepted.channel_id.isprintable()
    else:
        assert str(refused).isprintable()
        assert not (head.startswith(b"HTTP/1.1 101") and data.startswith(b"\r\n\r\n"))


@given(
    cuts=st.lists(st.integers(0, 400), max_size=6),
    data=st.sampled_from(
        [
            answer() + b"\x82\x03abc",
            refusal("400 Bad Request", b"abc", "Content-Length: 3"),
            refusal("502 Bad Gateway", b"3\r\nabc\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
        ]
    ),
)
def test_pieces_make_no_difference(cuts: list[int], data: bytes) -> None:
    def outcome(pieces: list[bytes]) -> object:
        parser = UpgradeParser(endpoint(), KEY)
        rest = list(pieces)
        while rest:
            try:
                accepted = parser.feed(rest.pop(0))
            except HandshakeFailed as error:
                return type(error), str(error)
            if accepted is not None:
                return accepted.subprotocol, accepted.leftover + b"".join(rest)
        raise AssertionError("no answer")

    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(bounds)]
    assert outcome(pieces) == outcome([data])
