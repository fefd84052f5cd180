from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.oracles.refusals import value_unless_refused
from tailrace.common.addresses import format_host_port
from tailrace.errors import ConfigurationError
from tailrace.localproxy.endpoints import brackets_hint, endpoint_of, parse_endpoint

hosts = st.from_regex(r"[a-z0-9-]{1,20}(\.[a-z0-9-]{1,20}){0,2}", fullmatch=True)
ipv6 = st.ip_addresses(v=6).map(str)
ports = st.integers(1, 65_535)
near_misses = st.text(alphabet="aZ09.:[]-_/=, %unix\0\u00e9\ud800", max_size=24)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Data.Example.com", ("data.example.com", 443)),
        ("127.0.0.1:8443", ("127.0.0.1", 8443)),
        ("x:01", ("x", 1)),
        ("x:65535", ("x", 65_535)),
        ("[::1]", ("::1", 443)),
        ("[FE80::1]:8443", ("fe80::1", 8443)),
        ("wss://Example.com", ("example.com", 443)),
        ("WSS://example.com:1/", ("example.com", 1)),
        ("wss://[::1]:1/tunnel", ("::1", 1)),
        ("example.com.", ("example.com.", 443)),
        ("-x", ("-x", 443)),
    ],
)
def test_endpoints(text: str, expected: tuple[str, int]) -> None:
    assert parse_endpoint(text) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "Proxy endpoint cannot be empty"),
        ("wss://", "Proxy endpoint cannot be empty"),
        ("a" * 254, "Proxy endpoint exceeds maximum allowed length"),
        ("a b", "Proxy endpoint contains invalid characters"),
        ("ws://x", "Proxy endpoint contains invalid characters; give HOST or HOST:PORT"),
        ("https://x", "Proxy endpoint contains invalid characters; give HOST or HOST:PORT"),
        ("wss://user@x", "Proxy endpoint contains invalid characters"),
        ("b\u00fccher.de", "Proxy endpoint contains invalid characters"),
        (":", "Invalid endpoint specified: :"),
        (":1", "Invalid endpoint specified: :1"),
        ("x:", "Invalid endpoint specified: x:"),
        ("x:0", "Invalid endpoint specified: x:0 (Port must be between 1 and 65535)"),
        ("x:65536", "Invalid endpoint specified: x:65536 (Port must be between 1 and 65535)"),
        ("x:-1", "Invalid endpoint specified: x:-1 (Port must contain only digits)"),
        ("x:1x", "Invalid endpoint specified: x:1x (Port must contain only digits)"),
        ("a..b", "Invalid endpoint specified: a..b"),
        ("a" * 64, "Invalid endpoint specified: " + "a" * 64),
        ("[x]:1", "Invalid endpoint specified: [x]:1"),
        ("[::1", "Invalid endpoint specified: [::1; put IPv6 addresses in brackets, [::1]:443"),
        ("[::1]1", "Invalid endpoint specified: [::1]1; put IPv6 addresses in brackets, [::1]:443"),
        ("[::1]:", "Invalid endpoint specified: [::1]:; put IPv6 addresses in brackets, [::1]:443"),
        ("::1", "Invalid endpoint specified: ::1; put IPv6 addresses in brackets, [::1]:443"),
        ("wss://x/y", "Invalid endpoint specified: wss://x/y"),
        ("wss://x?y", "Proxy endpoint contains invalid characters"),
    ],
)
def test_no_endpoints(text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_endpoint(text)
    assert str(caught.value) == sentence


@given(st.one_of(hosts, ipv6), ports)
def test_endpoints_print_and_parse(host: str, port: int) -> None:
    text = format_host_port(host, port)
    assert parse_endpoint(text) == (host, port)
    assert parse_endpoint(f"wss://{text}/tunnel") == (host, port)


@given(st.one_of(st.text(), near_misses))
def test_any_text_is_an_endpoint_or_an_error(text: str) -> None:
    endpoint = value_unless_refused(parse_endpoint, text)
    assert endpoint is None or parse_endpoint(format_host_port(*endpoint)) == endpoint


@pytest.mark.parametrize(
    ("region", "endpoint"),
    [
        ("us-east-1", "data.tunneling.iot.us-east-1.amazonaws.com"),
        ("cn-north-1", "data.tunneling.iot.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_a_region_has_an_endpoint(region: str, endpoint: str) -> None:
    assert endpoint_of(region) == endpoint
    assert endpoint_of(region, {region: "h:1"}) == "h:1"
    assert endpoint_of("lab", endpoint_format="%s.example.com") == "lab.example.com"


def test_only_what_looks_like_ipv6_wants_brackets() -> None:
    assert brackets_hint("::1", 22) == "; put IPv6 addresses in brackets, [::1]:22"
    assert brackets_hint("host:22", 22) == ""
