"""Endpoints: what can be asked for, and that no field can add a header to a request."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.common.secret import Secret
from tailrace.errors import ConfigurationError
from tailrace.link.endpoint import ServiceEndpoint, TLSOptions, user_agent
from tailrace.link.http.upgrade import build_request
from tailrace.link.proxy.settings import parse_web_proxy
from tailrace.wire import Side


def endpoint(**changes: Any) -> ServiceEndpoint:
    fields: dict[str, Any] = {
        "host": "data.example.com",
        "side": Side.SOURCE,
        "access_token": Secret("an-access-token"),
    }
    return ServiceEndpoint(**(fields | changes))


def test_defaults_are_those_of_the_service() -> None:
    made = endpoint()
    assert (made.port, made.client_token, made.web_proxy) == (443, None, None)
    assert made.subprotocol == "aws.iot.securetunneling-3.0"
    assert made.tls == TLSOptions(capath=None, verify=True)


@pytest.mark.parametrize(
    ("host", "header", "authority", "server_name"),
    [
        ("data.example.com", "data.example.com", "data.example.com:443", "data.example.com"),
        ("data.example.com.", "data.example.com.", "data.example.com.:443", "data.example.com"),
        ("tunnel_service", "tunnel_service", "tunnel_service:443", "tunnel_service"),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1:443", "127.0.0.1"),
        ("::1", "[::1]", "[::1]:443", "::1"),
    ],
)
def test_forms_of_the_host(host: str, header: str, authority: str, server_name: str) -> None:
    made = endpoint(host=host)
    assert (made.host_header, made.authority, made.server_name) == (header, authority, server_name)
    assert endpoint(host=host, port=8443).host_header == f"{header}:8443"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"host": ""}, "host ''"),
        ({"host": "."}, "host '.'"),
        ({"host": "a b"}, "host 'a b'"),
        ({"host": "host\r\nX: y"}, "host 'host"),
        ({"host": "user@host"}, "host 'user@host'"),
        ({"host": "host/path"}, "host 'host/path'"),
        ({"host": "höst"}, "host 'höst'"),
        ({"host": "h" * 64}, "host 'hhh"),
        ({"host": "h.i" * 85}, "host 'h.i"),
        ({"host": "a..b"}, "host 'a..b'"),
        ({"host": ".example"}, "host '.example'"),
        ({"host": "::1%eth0\r\n"}, "IPv6"),
        ({"host": "host:443"}, "IPv6"),
        ({"port": 0}, "port 0"),
        ({"port": 65_536}, "port 65536"),
        ({"subprotocol": ""}, "subprotocol ''"),
        ({"subprotocol": "a, b"}, "subprotocol 'a, b'"),
        ({"subprotocol": "a\r\nX: y"}, "subprotocol 'a"),
        ({"connect_timeout": 0.0}, "connect timeout 0"),
        ({"connect_timeout": float("nan")}, "connect timeout nan"),
        ({"access_token": Secret("")}, "access token is empty"),
        ({"access_token": Secret("a\r\nX: y")}, "access token holds a control character"),
        ({"access_token": Secret("token\x00")}, "access token holds a control character"),
        ({"access_token": Secret(" token")}, "access token holds a control character"),
        ({"access_token": Secret("tökén")}, "access token holds a control character"),
        ({"client_token": Secret("b\nX: y")}, "client token holds a control character"),
    ],
)
def test_what_cannot_be_sent_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        endpoint(**changes)


def test_an_empty_client_token_counts_as_none() -> None:
    made = endpoint(client_token=Secret(""))
    assert b"client-token" not in build_request(made, "key", "agent")
    assert made.secrets == (Secret("an-access-token"),)


def test_secrets_are_not_shown() -> None:
    made = endpoint(
        client_token=Secret("a-client-token"),
        web_proxy=parse_web_proxy("http://user:hunter2@proxy:1"),
    )
    for shown in (repr(made), str(made), f"{made}"):
        assert "an-access-token" not in shown
        assert "a-client-token" not in shown
        assert "hunter2" not in shown


def test_no_error_shows_a_token() -> None:
    with pytest.raises(ConfigurationError) as caught:
        endpoint(access_token=Secret("an-access-token\n"))
    assert "an-access-token" not in str(caught.value)


def test_endpoints_are_values() -> None:
    assert endpoint(tls=TLSOptions(Path("/ca"))) == endpoint(tls=TLSOptions(Path("/ca")))
    assert endpoint() != endpoint(port=444)


@given(
    host=st.text(max_size=30),
    side=st.sampled_from(Side),
    token=st.text(max_size=30),
    client_token=st.none() | st.text(max_size=30),
    subprotocol=st.text(max_size=30),
)
def test_no_field_can_add_a_line(
    host: str, side: Side, token: str, client_token: str | None, subprotocol: str
) -> None:
    try:
        made = ServiceEndpoint(
            host=host,
            side=side,
            access_token=Secret(token),
            client_token=None if client_token is None else Secret(client_token),
            subprotocol=subprotocol,
        )
    except ConfigurationError:
        return
    request = build_request(made, "key", "agent")
    # The request line, eight fields to ten, and the empty line that ends them.
    fields = 8 + bool(client_token) + (not made.is_aws)
    assert request.count(b"\n") == request.count(b"\r\n") == fields + 2
    assert request.count(b"\r") == request.count(b"\n")


@given(
    token=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1),
    side=st.sampled_from(Side),
)
def test_every_printable_token_is_sent_as_it_is(token: str, side: Side) -> None:
    request = build_request(endpoint(access_token=Secret(token), side=side), "key", "agent")
    assert f"\r\naccess-token: {token}\r\n".encode() in request
    assert request.startswith(f"GET /tunnel?local-proxy-mode={side} HTTP/1.1\r\n".encode())


def test_user_agent_names_system_libraries_and_version() -> None:
    assert re.fullmatch(
        r"localproxy \S+ \d+-bit/python-3\.\d+\.\S+/openssl-[\d.]+\S*/tailrace-\S+", user_agent()
    )
