"""Upgrade requests, judged without a socket (conformance scenario 57)."""

from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import ConfigurationError
from tailrace.service.relay.handshake import (
    Handshake,
    HandshakeRefused,
    RequestLine,
    UpgradeRequest,
    check_request_line,
    parse_origin,
    read_handshake,
    read_request_line,
    refuse_admission,
)
from tailrace.service.tunnels.rules import Refusal
from tailrace.wire import (
    CAPABILITIES_FIELD,
    NO_CAPABILITIES,
    OFFER,
    SUBPROTOCOL_V1,
    SUBPROTOCOL_V2,
    SUBPROTOCOL_V3,
    Side,
    format_capabilities,
)

TARGET = "/tunnel?local-proxy-mode=source"
UPGRADE = [
    ("Host", "localhost"),
    ("Upgrade", "websocket"),
    ("Connection", "upgrade"),
    ("Sec-WebSocket-Key", "9/h0zvwMEXrg06G+RjnmcA=="),
    ("Sec-WebSocket-Version", "13"),
]
PROTOCOL = ("Sec-WebSocket-Protocol", SUBPROTOCOL_V3)
TOKEN = ("access-token", "tok")
AGENT = "localproxy linux 64-bit/python-3.11.7/openssl-3.0.2/tailrace-0.1.0"
CLIENT = ("client-token", "2da438cf-9a30-4148-b236-c338182f243c")


def read(
    *headers: tuple[str, str],
    target: str = TARGET,
    origins: frozenset[str] = frozenset(),
    **changes: object,
) -> Handshake:
    values = {"method": "GET", "head_size": 500} | changes
    request = UpgradeRequest(target=target, headers=[*UPGRADE, *headers], **values)
    return read_handshake(request, origins=origins)


def refused(*headers: tuple[str, str], **options: object) -> HandshakeRefused:
    with pytest.raises(HandshakeRefused) as caught:
        read(*headers, **options)
    assert 400 <= caught.value.status < 500
    assert caught.value.text
    return caught.value


def test_the_guides_example() -> None:
    handshake = read(PROTOCOL, TOKEN, CLIENT)
    assert handshake.side is Side.SOURCE
    assert handshake.token.reveal() == "tok"
    assert handshake.client_token is not None
    assert handshake.client_token.reveal() == CLIENT[1]
    assert handshake.subprotocol == SUBPROTOCOL_V3


def test_the_destination_without_client_token() -> None:
    handshake = read(PROTOCOL, TOKEN, target="/tunnel?local-proxy-mode=destination")
    assert handshake.side is Side.DESTINATION
    assert handshake.client_token is None


@pytest.mark.parametrize(
    ("agent", "is_tailrace"),
    [
        (AGENT, True),
        ("localproxy Linux 64-bit/boost-1.87.0/openssl-3.0.2/protobuf-3.17.3", False),
        ("tailrace", False),
    ],
)
def test_a_proxy_of_this_project_that_makes_no_offer(agent: str, is_tailrace: bool) -> None:
    handshake = read(PROTOCOL, TOKEN, ("User-Agent", agent))
    assert handshake.capabilities == ({"flow", "pings"} if is_tailrace else NO_CAPABILITIES)
    assert handshake.agreement == (("X-Tailrace-Flow", "1") if is_tailrace else None)
    nameless = read(PROTOCOL, TOKEN)
    assert (nameless.capabilities, nameless.agreement) == (NO_CAPABILITIES, None)


@pytest.mark.parametrize(
    ("offer", "capabilities", "passed_on"),
    [
        ("flow, pings", {"flow", "pings"}, "flow"),
        ("juggling,flow", {"flow"}, "flow"),
        ("resume, pings, flow", {"flow", "pings", "resume"}, "flow, resume"),
        ("pings", {"pings"}, ""),
        ("", set(), ""),
    ],
)
@pytest.mark.parametrize("agent", [AGENT, "curl/8"])
def test_an_offer_is_answered_with_what_is_passed_on(
    offer: str, capabilities: set[str], passed_on: str, agent: str
) -> None:
    """Whatever the client is called."""
    offered = ("x-tailrace-capabilities", offer)
    handshake = read(PROTOCOL, TOKEN, ("User-Agent", agent), offered)
    assert handshake.capabilities == capabilities
    assert handshake.agreement == ("X-Tailrace-Capabilities", passed_on)


def test_what_proxies_offer_is_understood() -> None:
    offered = (CAPABILITIES_FIELD, format_capabilities(OFFER))
    assert read(PROTOCOL, TOKEN, offered).capabilities == OFFER


@pytest.mark.parametrize(
    "cookies",
    [
        ["awsiot-tunnel-token=tok"],
        ["a=b; awsiot-tunnel-token=tok; c=d"],
        ["a=b", ' awsiot-tunnel-token="tok"'],
    ],
)
def test_a_token_in_a_cookie(cookies: list[str]) -> None:
    handshake = read(PROTOCOL, *[("Cookie", cookie) for cookie in cookies])
    assert handshake.token.reveal() == "tok"


COOKIE = ("Cookie", "awsiot-tunnel-token=tok")
CONSOLE = frozenset({"https://console.example"})


@pytest.mark.parametrize(
    "origins",
    [
        ["https://evil.example"],
        ["null"],
        [""],
        ["https://console.example:444"],
        ["https://console.example", "https://evil.example"],
    ],
)
def test_a_web_page_cannot_use_the_cookie(origins: list[str]) -> None:
    fields = [("Origin", origin) for origin in origins]
    for allowed in (frozenset(), CONSOLE):
        error = refused(PROTOCOL, COOKIE, *fields, origins=allowed)
        assert (error.status, error.cause) == (HTTPStatus.FORBIDDEN, "origin")
    # No page can set this field.
    assert read(PROTOCOL, TOKEN, *fields).token.reveal() == "tok"


def test_a_web_page_that_is_allowed_to() -> None:
    for origin in ("https://console.example", "HTTPS://Console.example"):
        handshake = read(PROTOCOL, COOKIE, ("Origin", origin), origins=CONSOLE)
        assert handshake.token.reveal() == "tok"
    refused(PROTOCOL, COOKIE, ("Origin", "https://console.example"))


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://console.example", "https://console.example"),
        ("HTTPS://Console.Example:443", "https://console.example"),
        ("http://console.example:443", "http://console.example:443"),
        ("http://[2001:DB8::1]:80", "http://[2001:db8::1]"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
    ],
)
def test_origins(text: str, origin: str) -> None:
    assert parse_origin(text, "--x") == origin


@pytest.mark.parametrize(
    "text", ["", "null", "*", "console.example", "https://", "https://a/", "https://a b", "//a"]
)
def test_what_is_no_origin(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--x "):
        parse_origin(text, "--x")


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/x?local-proxy-mode=source",
        "/tunnel/?local-proxy-mode=source",
        "/Tunnel?local-proxy-mode=source",
        "//tunnel?local-proxy-mode=source",
        "https://host/tunnel?local-proxy-mode=source",
        "/tunnel",
        "/tunnel?local-proxy-mode=",
        "/tunnel?local-proxy-mode=Source",
        "/tunnel?local-proxy-mode=both",
        "/tunnel?local-proxy-mode=source&local-proxy-mode=source",
        "/tunnel?mode=source",
    ],
)
def test_targets_that_are_refused(target: str) -> None:
    assert refused(PROTOCOL, TOKEN, target=target).status is HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [TOKEN, TOKEN],
        [TOKEN, ("Access-Token", "other")],
        [TOKEN, ("Cookie", "awsiot-tunnel-token=tok")],
        [("Cookie", "awsiot-tunnel-token=a; awsiot-tunnel-token=b")],
        [("Cookie", "awsiot-tunnel-token=a"), ("cookie", "awsiot-tunnel-token=b")],
    ],
)
def test_exactly_one_access_token(headers: list[tuple[str, str]]) -> None:
    assert refused(PROTOCOL, *headers).status is HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize("token", ["", "with space", "caf\u00e9", "\udc80"])
def test_what_cannot_be_a_token_is_an_unknown_one(token: str) -> None:
    error = refused(PROTOCOL, ("access-token", token))
    assert (error.status, error.text) == (HTTPStatus.FORBIDDEN, "Invalid access-token")


@pytest.mark.parametrize(
    "tokens", [["a" * 31], ["a" * 129], [""], ["a" * 31 + "_"], ["a" * 32 + "\n"], ["a" * 32] * 2]
)
def test_client_tokens_that_are_refused(tokens: list[str]) -> None:
    error = refused(PROTOCOL, TOKEN, *[("client-token", token) for token in tokens])
    assert error.text.startswith("Invalid client token: ")


@pytest.mark.parametrize("token", ["a" * 32, "Z" * 128])
def test_client_tokens_at_the_limits(token: str) -> None:
    assert read(PROTOCOL, TOKEN, ("client-token", token)).client_token is not None


@pytest.mark.parametrize(
    ("offers", "answer"),
    [
        ([SUBPROTOCOL_V1], SUBPROTOCOL_V1),
        ([SUBPROTOCOL_V2], SUBPROTOCOL_V2),
        ([f"{SUBPROTOCOL_V1}, {SUBPROTOCOL_V3}"], SUBPROTOCOL_V3),
        ([SUBPROTOCOL_V2, SUBPROTOCOL_V1], SUBPROTOCOL_V2),
        (["soap", f"mqtt ,{SUBPROTOCOL_V1}"], SUBPROTOCOL_V1),
    ],
)
def test_the_newest_offered_subprotocol(offers: list[str], answer: str) -> None:
    headers = [("Sec-WebSocket-Protocol", offer) for offer in offers]
    assert read(TOKEN, *headers).subprotocol == answer


@pytest.mark.parametrize("offers", [[], ["aws.iot.securetunneling-4.0"], [""]])
def test_no_known_subprotocol(offers: list[str]) -> None:
    refused(TOKEN, *[("Sec-WebSocket-Protocol", offer) for offer in offers])


def test_the_size_limit() -> None:
    read(PROTOCOL, TOKEN, head_size=4096)
    error = refused(PROTOCOL, TOKEN, head_size=4097)
    assert error.status is HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Upgrade", []),
        ("Upgrade", ["h2c"]),
        ("Connection", ["keep-alive"]),
        ("Sec-WebSocket-Key", []),
        ("Sec-WebSocket-Key", ["short"]),
        ("Sec-WebSocket-Key", ["caf\u00e9"]),
        ("Sec-WebSocket-Key", ["9/h0zvwMEXrg06G+RjnmcA=="] * 2),
        ("Sec-WebSocket-Version", ["12"]),
        ("Sec-WebSocket-Version", []),
    ],
)
def test_requests_that_are_no_upgrade(name: str, values: list[str]) -> None:
    headers = [header for header in UPGRADE if header[0] != name]
    headers += [(name, value) for value in values]
    with pytest.raises(HandshakeRefused):
        read_handshake(UpgradeRequest("GET", TARGET, [*headers, PROTOCOL, TOKEN], 500))


def test_a_browsers_connection_header() -> None:
    headers = [header for header in UPGRADE if header[0] != "Connection"]
    headers += [("Connection", "keep-alive, Upgrade"), PROTOCOL, TOKEN]
    assert read_handshake(UpgradeRequest("GET", TARGET, headers, 500)).token


@pytest.mark.parametrize(
    ("without", "missing"),
    [
        ("Upgrade", "Upgrade"),
        ("Connection", "Connection"),
        ("Sec-WebSocket-Key", "Sec-WebSocket-Key"),
        ("Sec-WebSocket-Version", "Sec-WebSocket-Version"),
        ("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol"),
        ("access-token", "access token"),
    ],
)
def test_what_a_proxy_in_between_removed_is_named(without: str, missing: str) -> None:
    headers = [header for header in [*UPGRADE, PROTOCOL, TOKEN] if header[0] != without]
    with pytest.raises(HandshakeRefused) as caught:
        read_handshake(UpgradeRequest("GET", TARGET, headers, 500))
    assert missing in caught.value.text
    assert caught.value.text.endswith("; a proxy in between may have removed it")


def test_what_a_proxy_in_between_changed_is_named() -> None:
    for target, changed in (
        ("/svc/tunnel?local-proxy-mode=source", "path"),
        ("/tunnel", "local-proxy-mode"),
    ):
        text = refused(PROTOCOL, TOKEN, target=target).text
        assert changed in text
        assert text.endswith("; a proxy in between may have changed it")


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"GET / HTTP/1.1\r\n", RequestLine("GET", "/", "HTTP/1.1")),
        (b"HEAD /healthz HTTP/1.0\r\nHost: x\r\n\r\n", RequestLine("HEAD", "/healthz", "HTTP/1.0")),
        (b"GET / HTTP/1.1", RequestLine("GET", "/", "HTTP/1.1")),
        (b"GET /\r\n", None),
        (b"GET  / HTTP/1.1\r\n", None),
        (b"GET /\xff HTTP/1.1\r\n", None),
        (b"\r\nGET / HTTP/1.1\r\n", None),
        (b"", None),
    ],
)
def test_request_lines(data: bytes, line: RequestLine | None) -> None:
    assert read_request_line(data) == line


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (None, 400),
        (RequestLine("HEAD", "/tunnel"), 405),
        (RequestLine("GET", "/tunnel", "HTTP/1.0"), 426),
        (RequestLine("GET", "/tunnel", "HTTP/2.0"), 426),
    ],
)
def test_request_lines_that_cannot_be_upgraded(line: RequestLine | None, status: int) -> None:
    with pytest.raises(HandshakeRefused) as caught:
        check_request_line(line)
    assert caught.value.status == status
    check_request_line(RequestLine("GET", "/"))


def test_only_get() -> None:
    assert refused(PROTOCOL, TOKEN, method="POST").status is HTTPStatus.METHOD_NOT_ALLOWED


def test_admission_answers() -> None:
    answers = {refusal: refuse_admission(refusal) for refusal in Refusal}
    assert answers[Refusal.UNKNOWN_TOKEN].status is HTTPStatus.FORBIDDEN
    assert answers[Refusal.UNKNOWN_TOKEN].text == "Invalid access-token"
    assert answers[Refusal.TOKEN_USED].status is HTTPStatus.BAD_REQUEST
    assert answers[Refusal.TOKEN_USED].text == (
        "Invalid access token: The access token was previously used and can not be used again."
    )
    assert answers[Refusal.CLIENT_TOKEN_DIFFERS].status is HTTPStatus.BAD_REQUEST
    assert answers[Refusal.CLIENT_TOKEN_DIFFERS].text == (
        "Invalid client token: The provided client token does not match the client token "
        "that was previously set."
    )
    assert answers[Refusal.CLIENT_TOKEN_TAKEN].status is HTTPStatus.BAD_REQUEST
    assert answers[Refusal.CLIENT_TOKEN_TAKEN].text == (
        "Invalid client token: The provided client token belongs to another open tunnel."
    )
    assert answers[Refusal.TUNNEL_CLOSED].text == "Tunnel is closed"
    assert answers[Refusal.TUNNEL_CLOSED].cause == "tunnel_closed"
    assert refused(PROTOCOL).cause == "bad_request"


@given(
    method=st.sampled_from(["GET", "POST", ""]),
    target=st.one_of(st.text(max_size=60), st.just(TARGET)),
    headers=st.lists(
        st.tuples(
            st.sampled_from([name for name, _ in [*UPGRADE, PROTOCOL, TOKEN, CLIENT]] + ["Cookie"]),
            st.one_of(st.text(max_size=40), st.sampled_from([v for _, v in [*UPGRADE, PROTOCOL]])),
        ),
        max_size=12,
    ),
    size=st.integers(0, 10_000),
)
def test_any_request_is_read_or_refused(
    method: str, target: str, headers: list[tuple[str, str]], size: int
) -> None:
    status = 101
    try:
        read_handshake(UpgradeRequest(method, target, headers, size))
    except HandshakeRefused as error:
        status = error.status
    assert status == 101 or 400 <= status < 500
