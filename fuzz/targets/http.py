"""HTTP from outside: upgrade requests, answers to an upgrade, answers of web proxies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from ipaddress import ip_address, ip_network
from random import Random
from typing import Final

from hypothesis import strategies as st

from tailrace.common.secret import Secret
from tailrace.errors import (
    AccessRefused,
    HandshakeFailed,
    ProxyRefused,
    RemoteProtocolError,
    ServiceUnavailable,
    TailraceError,
)
from tailrace.link.endpoint import ServiceEndpoint
from tailrace.link.http.connect_method import ConnectParser
from tailrace.link.http.upgrade import UpgradeAccepted, UpgradeParser, accept_for, build_request
from tailrace.link.proxy.settings import WebProxy
from tailrace.service.networks import forwarded_client
from tailrace.service.relay.handshake import (
    HandshakeRefused,
    UpgradeRequest,
    check_request_line,
    read_handshake,
    read_request_line,
)
from tailrace.service.relay.health_check import answer_health_check
from tailrace.service.relay.proxy_protocol import header_size, read_header
from tailrace.wire import SUBPROTOCOLS, Side

from ..checks import cuts, is_one_line, pieces
from ..mutate import mutated, vary_bytes
from ..target import Target

__all__ = ["CONNECT_REPLY", "PROXY_HEADER", "UPGRADE_ANSWER", "UPGRADE_REQUEST"]

_TOKEN: Final = "AQGAAXiVSMpWtOkSecretTokenOfTheTunnel0123456789"
_CLIENT_TOKEN: Final = "client-token-0123456789-0123456789"
_PASSWORD: Final = "pass word:<b>&amp;"
_KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="
_TARGET: Final = ServiceEndpoint(
    host="data.example.test",
    side=Side.SOURCE,
    access_token=Secret(_TOKEN),
    client_token=Secret(_CLIENT_TOKEN),
)
_PROXY: Final = WebProxy("http", "proxy.example.test", 3128, "user", Secret(_PASSWORD))

_HEAD: Final = (
    f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Accept: {accept_for(_KEY)}\r\n"
    f"Sec-WebSocket-Protocol: {_TARGET.subprotocol}\r\nchannel-id: abc\r\n"
)
_WORDS: Final = tuple(
    word.encode("latin-1")
    for word in (
        "\r\n",
        "\r\n\r\n",
        "HTTP/1.1 101 ",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.0 200 OK\r\n",
        "HTTP/1.1 403 Forbidden\r\n",
        "HTTP/1.1 500 \r\n",
        "Transfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Type: text/html\r\n",
        "X-Status-Reason: no\r\n",
        'Proxy-Authenticate: NTLM, Basic realm="a, b"\r\n',
        "Sec-WebSocket-Extensions: permessage-deflate\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "-5\r\n",
        "<script>",
        "</script >",
        "<!--",
        "&amp;",
        "&#x0a;",
        _TOKEN,
        _CLIENT_TOKEN,
        _PASSWORD,
        "\x1b[31m",
        "\x00",
        "\x85",
    )
)

# -- answers ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Answer:
    """What comes back, and the sizes of the pieces it comes in."""

    data: bytes
    sizes: list[int]


_ANSWERS: Final = (
    _HEAD.encode() + b"\r\n",
    _HEAD.encode() + b"\r\n\x82\x04\x00\x02\x08\x05",
    b"HTTP/1.1 100 Continue\r\n\r\n" + _HEAD.encode() + b"\r\n",
    b"HTTP/1.1 403 Forbidden\r\nContent-Length: 20\r\n\r\nInvalid access-token",
    b"HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\nuntil the end " + _TOKEN.encode(),
    b"HTTP/1.1 404\r\nX-Status-Reason: no such tunnel\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.0 200 Connection established\r\n\r\n",
    b'HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="x"\r\n'
    b"Content-Type: text/html\r\nContent-Length: 60\r\n\r\n"
    b"<html><title>t</title><!-- c --><body>Wrong&nbsp;password</body>",
    b"HTTP/1.1 407 No\r\nContent-Type: text/html\r\nContent-Length: 32\r\n\r\n"
    b"<p>pass&nbsp;word:&lt;b&gt;&amp;amp;</p>",
    b"pass\xa0word:<b>&amp;\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"HTTP/2 200\r\n\r\n",
)


def _answers() -> st.SearchStrategy[_Answer]:
    return st.builds(_Answer, mutated(_ANSWERS, _WORDS), cuts())


def _vary_answer(answer: _Answer, random: Random) -> _Answer:
    return replace(answer, data=vary_bytes(answer.data, random))


_ANSWER_CORPUS: Final = tuple(_Answer(data, [size]) for data in _ANSWERS for size in (1, 70_000))


def _outcome(
    data: bytes, feed: Callable[[bytes], object], finish: Callable[[str], None], sizes: list[int]
) -> object:
    """Feed all pieces, then say that the connection has ended; return what came of it."""
    for piece in pieces(data, sizes):
        result = feed(piece)
        if result:
            return result
    finish("the connection was closed")
    raise AssertionError("an answer that does not go on was not judged")


def _check_text(error: TailraceError, secrets: tuple[str, ...]) -> None:
    text = str(error)
    assert is_one_line(text), text
    for secret in secrets:
        assert secret not in text, "a secret is shown"


def _check_upgrade_answer(answer: _Answer) -> None:
    parser = UpgradeParser(_TARGET, _KEY)
    try:
        accepted = _outcome(answer.data, parser.feed, parser.finish, answer.sizes)
    except HandshakeFailed as error:
        _check_text(error, (_TOKEN, _CLIENT_TOKEN))
        if isinstance(error, AccessRefused):
            assert error.status != 101
            assert error.status < 500
        raise
    assert isinstance(accepted, UpgradeAccepted)
    assert accepted.subprotocol == _TARGET.subprotocol
    assert is_one_line(accepted.channel_id)
    assert answer.data.find(accepted.leftover) >= 0
    assert accept_for(_KEY).encode() in answer.data


def _check_connect_reply(answer: _Answer) -> None:
    reply = ConnectParser(_TARGET, _PROXY)
    try:
        _outcome(answer.data, reply.feed, reply.finish, answer.sizes)
    except ProxyRefused as error:
        _check_text(error, (_PASSWORD,))
        raise


UPGRADE_ANSWER: Final = Target(
    "upgrade-answer",
    "what a service answers to an upgrade, in pieces of any size",
    _answers(),
    _check_upgrade_answer,
    (AccessRefused, ServiceUnavailable, HandshakeFailed),
    _ANSWER_CORPUS,
    _vary_answer,
)

CONNECT_REPLY: Final = Target(
    "connect-reply",
    "what a web proxy answers to CONNECT, in pieces of any size",
    _answers(),
    _check_connect_reply,
    (ProxyRefused,),
    _ANSWER_CORPUS,
    _vary_answer,
)

# -- upgrade requests ------------------------------------------------------------------------

_TRUSTED: Final = (ip_network("10.0.0.0/8"),)
_REQUEST: Final = build_request(_TARGET, _KEY, "localproxy linux 64-bit/tailrace-1").decode()


def _read_request(data: bytes) -> UpgradeRequest | None:
    """Split a request as the WebSocket library does; ``None`` when it would refuse it."""
    prefix, end, _ = data.partition(b"\r\n\r\n")
    first, *lines = prefix.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if not end or len(words) != 3:
        return None
    headers = [tuple(line.partition(":")[::2]) for line in lines]
    fields = [(name, value.strip(" \t")) for name, value in headers]
    return UpgradeRequest(words[0], words[1], fields, len(prefix) + 4)


def _check_upgrade_request(data: bytes) -> None:
    line = read_request_line(data)
    try:
        check_request_line(line)
    except HandshakeRefused as error:
        assert is_one_line(error.text)
    else:
        assert line is not None
    answer_health_check(line)
    request = _read_request(data)
    if request is None:
        raise HandshakeRefused(HTTPStatus.BAD_REQUEST, "")
    client = forwarded_client(request.values("x-forwarded-for"), "10.0.0.1", _TRUSTED)
    assert ip_address(client)
    try:
        handshake = read_handshake(request, origins={"https://console.example"})
    except HandshakeRefused as error:
        assert 400 <= error.status < 500
        # The text becomes a header field.
        assert is_one_line(error.text)
        assert error.text.isascii()
        assert _TOKEN not in error.text
        raise
    token = handshake.token.reveal()
    assert token.isascii()
    assert token.isprintable()
    assert token.encode() in data
    assert handshake.subprotocol in SUBPROTOCOLS
    assert handshake.subprotocol.encode() in data
    assert handshake.client_token is None or handshake.client_token.reveal().encode() in data


_REQUESTS: Final = tuple(
    text.encode()
    for text in (
        _REQUEST,
        _REQUEST.replace("source", "destination"),
        _REQUEST.replace("access-token", "Cookie: a=b; awsiot-tunnel-token=abc\r\nX"),
        _REQUEST.replace("Sec-WebSocket-Protocol: ", "Sec-WebSocket-Protocol: a, "),
        _REQUEST.replace("client-token: ", "client-token: !"),
    )
)
_REQUEST_WORDS: Final = tuple(
    word.encode()
    for word in (
        "\r\n",
        "access-token: a\r\n",
        "access-token:\r\n",
        "Cookie: awsiot-tunnel-token=\r\n",
        'Cookie: awsiot-tunnel-token="x"; ',
        "client-token: \r\n",
        "?local-proxy-mode=source&local-proxy-mode=destination",
        "%73ource",
        "&a=%ff",
        "&" * 100,
        "Upgrade: h2c, WebSocket\r\n",
        "Connection: keep-alive, Upgrade\r\n",
        "Sec-WebSocket-Key: ====\r\n",
        "Sec-WebSocket-Version: 8\r\n",
        "X-Forwarded-For: 192.0.2.1, 10.0.0.2\r\n",
        "X-Forwarded-For: [2001:db8::1]:80, unknown, 10.0.0.2\r\n",
        "Origin: https://console.example\r\n",
        "Origin: null\r\n",
        "GET /healthz HTTP/1.0\r\n",
        "HEAD /healthz ",
        "Sec-WebSocket-Protocol: aws.iot.securetunneling-1.0\r\n",
        "\u00e9",
        "x" * 4096,
    )
)

UPGRADE_REQUEST: Final = Target(
    "upgrade-request",
    "what a client asks the service for",
    mutated(_REQUESTS, _REQUEST_WORDS),
    _check_upgrade_request,
    (HandshakeRefused,),
    _REQUESTS,
    vary_bytes,
)

# -- the PROXY protocol ----------------------------------------------------------------------

_V2: Final = b"\r\n\r\n\0\r\nQUIT\n"
_PROXY_HEADERS: Final = (
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 443\r\nrest",
    b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n",
    b"PROXY UNKNOWN\r\n",
    _V2 + b"\x21\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\x04\xd2\x01\xbb\x16\x03",
    _V2 + b"\x21\x21\x00\x24" + bytes(36),
    _V2 + b"\x20\x00\x00\x00",
    b"GET / HTTP/1.1\r\n",
)


def _check_proxy_header(value: tuple[bytes, list[int]]) -> None:
    data, sizes = value
    come = b""
    for piece in pieces(data, sizes):
        come += piece
        size = header_size(come)
        if size is not None:
            assert size <= len(come)
            client = read_header(come[:size])
            assert client is None or (is_one_line(client[0]) and 0 <= client[1] <= 65_535)
            return


PROXY_HEADER: Final = Target(
    "proxy-header",
    "what a load balancer puts in front of a connection",
    st.tuples(mutated(_PROXY_HEADERS, (_V2, b"PROXY ", b"\r\n", b"TCP4 ", b"::")), cuts()),
    _check_proxy_header,
    (RemoteProtocolError,),
    tuple((data, [1]) for data in _PROXY_HEADERS),
    lambda value, random: (vary_bytes(value[0], random), value[1]),
)
