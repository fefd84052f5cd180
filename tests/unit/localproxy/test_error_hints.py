from __future__ import annotations

from dataclasses import replace

import pytest

from tailrace.common.secret import Secret
from tailrace.errors import (
    AccessRefused,
    ConnectFailed,
    ExitCode,
    HandshakeFailed,
    LinkError,
    NameResolutionFailed,
    ServiceUnavailable,
    TLSFailed,
)
from tailrace.localproxy.error_hints import describe, given_up, refusal
from tailrace.localproxy.settings import ProxySettings
from tailrace.wire import Side


def settings(side: Side) -> ProxySettings:
    return ProxySettings(
        side=side, host="data.tunneling.iot.eu-west-1.amazonaws.com", access_token=Secret("t0ken")
    )


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (NameResolutionFailed("x"), "Could not resolve DNS hostname of proxy host: x"),
        (ConnectFailed("x"), "Could not connect to proxy server: x"),
        (TLSFailed("x"), "Could not perform SSL handshake with proxy server: x"),
        (ServiceUnavailable("x"), "Proxy server rejected web socket upgrade request: x"),
        (HandshakeFailed("x"), "x"),
        (LinkError("x"), "x"),
    ],
)
def test_failures_begin_as_the_reference_words_them(error: LinkError, line: str):
    assert describe(error) == line


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (
            400,
            "Invalid access token: The access token was previously used and can not be used again.",
            ["rotate-tunnel-access-token", "--client-mode SOURCE", "--state-dir"],
        ),
        (
            400,
            "Invalid client token: The provided client token does not match the client token "
            "that was previously set.",
            ["rotate-tunnel-access-token", "--client-mode SOURCE"],
        ),
        (400, "Tunnel is closed", ["open a new one"]),
        (
            400,
            "Invalid access token: The access token is for the other local proxy mode.",
            ["token of the destination", "source token"],
        ),
        (
            403,
            "Invalid access-token",
            ["region of data.tunneling.iot.eu-west-1.amazonaws.com", "source token"],
        ),
        (404, "not here", ["data.tunneling.iot.eu-west-1.amazonaws.com:443", "-e", "-r"]),
    ],
)
def test_a_refusal_says_what_to_do(status: int, body: str, words: list[str]):
    advised = refusal(AccessRefused(status, "Reason", body), settings(Side.SOURCE))
    text = str(advised)
    assert text.startswith(f'HTTP/1.1 {status} Reason: "{body}". ')
    for word in words:
        assert word in advised.advice
    assert "t0ken" not in text


def test_the_advice_is_for_the_side_that_was_refused():
    advised = refusal(AccessRefused(400, "Bad", "previously used"), settings(Side.DESTINATION))
    assert "--client-mode DESTINATION" in advised.advice


def test_the_last_failure_says_how_many_tries_there_were():
    error = given_up(ConnectFailed("x"), replace(settings(Side.SOURCE), connect_retry_count=2))
    assert str(error) == (
        "Could not connect to proxy server: x; gave up after 3 tries: "
        "check the endpoint (-e, -r) and the network"
    )
    assert isinstance(error, ConnectFailed)
    once = given_up(LinkError("x"), replace(settings(Side.SOURCE), connect_retry_count=0))
    assert str(once) == "x; gave up after 1 try"


def test_the_last_failure_keeps_its_exit_code():
    failure = TLSFailed("x")
    failure.exit_code = ExitCode.NETWORK
    assert given_up(failure, settings(Side.SOURCE)).exit_code is ExitCode.NETWORK


def test_a_failure_that_is_final_is_left_alone():
    failure = TLSFailed("certificate does not verify")
    failure.retryable = False
    assert given_up(failure, settings(Side.SOURCE)) is failure
