"""``https_proxy`` and ``no_proxy``: parse, print, parse again."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.network.web_proxies import proxy_url
from support.oracles.refusals import value_unless_refused
from tailrace.common.addresses import format_host_port
from tailrace.common.secret import Secret
from tailrace.errors import ConfigurationError
from tailrace.link.proxy.settings import (
    NoProxy,
    WebProxy,
    parse_no_proxy,
    parse_web_proxy,
    web_proxy_for,
    web_proxy_variable,
)

near_misses = st.text(alphabet="htps:/5@[].%2fAz+ *,_?#-\u00e9\ud800", max_size=24)
hosts = st.one_of(
    st.from_regex(r"[a-z0-9_-]{1,20}(\.[a-z0-9-]{1,20}){0,2}", fullmatch=True),
    st.ip_addresses(v=6).map(str),
)
credentials = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=63)
proxies = st.builds(
    WebProxy,
    st.sampled_from(["http", "https", "socks5", "socks5h"]),
    hosts,
    st.integers(1, 65_535),
    credentials.filter(lambda name: ":" not in name),
    st.one_of(st.just(""), credentials).map(Secret),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://x:1", WebProxy("http", "x", 1)),
        ("HTTPS://X.Y:443", WebProxy("https", "x.y", 443)),
        ("socks5://x:1", WebProxy("socks5", "x", 1)),
        ("socks5h://x:1", WebProxy("socks5h", "x", 1)),
        ("x:1", WebProxy("http", "x", 1)),
        ("localhost:3128", WebProxy("http", "localhost", 3128)),
        ("http://[::1]:8080", WebProxy("http", "::1", 8080)),
        ("http://my_proxy:1/path?a#b", WebProxy("http", "my_proxy", 1)),
        ("http://u:p@x:1", WebProxy("http", "x", 1, "u", Secret("p"))),
        ("u:p@x:1", WebProxy("http", "x", 1, "u", Secret("p"))),
        ("http://u:@x:1", WebProxy("http", "x", 1, "u", Secret(""))),
        ("http://u:a:b@x:1", WebProxy("http", "x", 1, "u", Secret("a:b"))),
        ("http://u:p@w/d@x:1", WebProxy("http", "x", 1, "u", Secret("p@w/d"))),
        ("http://u%40d:p%2Fw@x:1", WebProxy("http", "x", 1, "u@d", Secret("p/w"))),
        ("http://u:a+b%2Bc@x:1", WebProxy("http", "x", 1, "u", Secret("a b+c"))),
        ("http://u:%C3%A9@x:1", WebProxy("http", "x", 1, "u", Secret("\u00e9"))),
    ],
)
def test_proxies(text: str, expected: WebProxy) -> None:
    assert parse_web_proxy(text) == expected


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("http://x", 3128),
        ("https://x/", 3128),
        ("http://x:0", 3128),
        ("http://x:", 3128),
        ("http://[::1]", 3128),
        ("socks5://x", 1080),
        ("socks5h://x", 1080),
    ],
)
def test_default_ports(text: str, port: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert parse_web_proxy(text).port == port
    assert caplog.messages == [f"No port was provided for the web proxy, using default: {port}"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("://x", "Invalid URL, missing protocol"),
        ("ftp://x", "Unsupported protocol; a web proxy is one of http, https, socks5, socks5h"),
        ("", "The host is missing"),
        ("http://", "The host is missing"),
        ("http://:1", "The host is missing"),
        ("http://u:p@", "The host is missing"),
        ("http://x y", "The host is neither a name nor an address"),
        ("http://a..b", "The host is neither a name nor an address"),
        ("http://" + "a" * 64, "The host is neither a name nor an address"),
        ("http://b\u00fccher", "The host is neither a name nor an address"),
        ("http://[::1", "The IPv6 address has no closing ']'"),
        ("http://[x]:1", "What stands in brackets must be an IPv6 address"),
        ("http://[1.2.3.4]:1", "What stands in brackets must be an IPv6 address"),
        ("http://[fe80::1%eth0]:1", "What stands in brackets must be an IPv6 address"),
        ("http://[::1]1", "What stands in brackets must be an IPv6 address"),
        ("http://x:99999", "The port must be a number between 1 and 65535"),
        ("http://x:abc", "The port must be a number between 1 and 65535"),
        ("http://x:-1", "The port must be a number between 1 and 65535"),
        ("http://x:" + "9" * 5000, "The port must be a number between 1 and 65535"),
        ("http://@x", "Empty credentials; without any, leave out the '@'"),
        ("http://u@x", "The credentials must be USER:PASSWORD"),
        ("http://:p@x", "The credentials must be USER:PASSWORD"),
        ("http://u%3Av:p@x", "The user name has a colon (RFC 7617 section 2 forbids it)"),
        ("http://u:%zz@x", "The credentials have a '%' that two hex digits do not follow"),
        ("http://u:%4@x", "The credentials have a '%' that two hex digits do not follow"),
        ("http://u:%00@x", "The credentials have a control character"),
        ("http://u:%0d%0a@x", "The credentials have a control character"),
        ("http://u:%ff@x", "The credentials are not UTF-8"),
        ("http://u:\udcff@x", "The credentials are not UTF-8"),
        ("http://u:" + "p" * 256 + "@x", "The credentials have more than 255 bytes"),
    ],
)
def test_no_proxies(text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_web_proxy(text)
    assert str(caught.value) == sentence


@given(proxies)
def test_proxies_print_and_parse(proxy: WebProxy) -> None:
    assert parse_web_proxy(proxy_url(proxy)) == proxy


@given(st.one_of(st.text(), near_misses, near_misses.map(lambda text: f"http://u:{text}@x:1")))
def test_any_text_is_a_proxy_or_an_error(text: str) -> None:
    proxy = value_unless_refused(parse_web_proxy, text)
    assert proxy is None or parse_web_proxy(proxy_url(proxy)) == proxy


def test_passwords_are_not_shown() -> None:
    proxy = parse_web_proxy("http://us%65r:hunter2@[::1]:1")
    assert str(proxy) == "http://user:<redacted>@[::1]:1"
    assert "hunter2" not in f"{proxy}{proxy!r}"
    assert str(parse_web_proxy("http://x:1")) == "http://x:1"


@pytest.mark.parametrize(
    ("rules", "host", "port", "direct"),
    [
        ("", "example.com", 443, False),
        ("*", "example.com", 443, True),
        ("*", "::1", 443, True),
        ("example.com", "example.com", 443, True),
        ("EXAMPLE.com", "Example.Com.", 443, True),
        ("example.com.", "example.com", 443, True),
        ("example.com", "a.example.com", 443, True),
        (".example.com", "example.com", 443, True),
        (".example.com", "a.b.example.com", 443, True),
        ("*.example.com", "a.example.com", 443, True),
        ("example.com", "badexample.com", 443, False),
        ("example.com:443", "example.com", 443, True),
        ("example.com:8443", "example.com", 443, False),
        ("a, b  c\td", "c", 443, True),
        ("a, b  c\td", "e", 443, False),
        ("10.0.0.1", "10.0.0.1", 443, True),
        ("10.0.0.1", "10.0.0.2", 443, False),
        ("10.0.0.1:443", "10.0.0.1", 443, True),
        ("10.0.0.1:1", "10.0.0.1", 443, False),
        ("10.0.0.0/8", "10.200.0.1", 443, True),
        ("10.1.2.3/8", "10.200.0.1", 443, True),
        ("10.0.0.0/8", "11.0.0.1", 443, False),
        ("10.0.0.0/8", "ten.example.com", 443, False),
        ("::1", "::1", 443, True),
        ("[::1]", "0:0::1", 443, True),
        ("[::1]:443", "::1", 443, True),
        ("[::1]:1", "::1", 443, False),
        ("fd00::/8", "fd12::1", 443, True),
        ("fd00::/8", "10.0.0.1", 443, False),
        ("amazonaws.com", "data.tunneling.iot.us-east-1.amazonaws.com", 443, True),
        ("fe80::1%eth0", "fe80::1", 443, False),
        ("http://example.com,[x],a:b:c,*.,..", "example.com", 443, False),
    ],
)
def test_no_proxy(rules: str, host: str, port: int, direct: bool) -> None:
    assert parse_no_proxy(rules).matches(host, port) is direct


no_proxy_texts = st.one_of(
    st.text(),
    st.lists(
        st.one_of(
            hosts,
            hosts.map(lambda host: f"*.{host}:80"),
            st.ip_addresses().map(lambda address: f"{address}/20"),
            st.ip_addresses(v=6).map(lambda address: f"[{address}]:1"),
            st.text(alphabet="a*.:/[]1%", max_size=6),
        )
    ).map(",".join),
)


def written(no_proxy: NoProxy) -> str:
    """Return the text of some rules, in another spelling than the one they were parsed from."""
    texts = []
    for rule in no_proxy.rules:
        text = str(rule.target)
        if not isinstance(rule.target, str) and rule.target.num_addresses == 1:
            text = str(rule.target.network_address)
        texts.append(format_host_port(text, rule.port) if rule.port else text)
    return ",".join(texts)


@given(no_proxy_texts)
def test_no_proxy_prints_and_parses(text: str) -> None:
    rules = parse_no_proxy(text)
    assert parse_no_proxy(written(rules)) == rules


@given(no_proxy_texts, st.text(), st.integers(1, 65_535))
def test_any_host_can_be_matched(text: str, host: str, port: int) -> None:
    matched = parse_no_proxy(text).matches(host, port)
    assert matched == parse_no_proxy(written(parse_no_proxy(text))).matches(host, port)


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        ({}, ""),
        ({"https_proxy": "x"}, "https_proxy"),
        ({"HTTPS_PROXY": "x"}, "HTTPS_PROXY"),
        ({"https_proxy": "x", "HTTPS_PROXY": "y"}, "https_proxy"),
        ({"https_proxy": "", "HTTPS_PROXY": "y"}, ""),
        ({"HTTPS_PROXY": ""}, ""),
        ({"http_proxy": "x", "ALL_PROXY": "x"}, ""),
    ],
)
def test_variables(environ: dict[str, str], variable: str) -> None:
    assert web_proxy_variable(environ) == variable


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"https_proxy": "http://p:1"}, WebProxy("http", "p", 1)),
        ({"https_proxy": "http://p:1", "NO_PROXY": "example.com"}, None),
        ({"https_proxy": "http://p:1", "no_proxy": "example.com"}, None),
        (
            {"https_proxy": "http://p:1", "no_proxy": "", "NO_PROXY": "example.com"},
            WebProxy("http", "p", 1),
        ),
        ({"https_proxy": "nonsense:x", "no_proxy": "*"}, None),
    ],
)
def test_the_proxy_of_a_host(environ: dict[str, str], expected: WebProxy | None) -> None:
    assert web_proxy_for("data.example.com", 443, environ) == expected


def test_errors_name_the_variable_and_no_password() -> None:
    with pytest.raises(ConfigurationError) as caught:
        web_proxy_for("x", 443, {"HTTPS_PROXY": "http://user:hunter2@x:abc"})
    assert str(caught.value) == (
        "Failed to parse the value of environment variable HTTPS_PROXY:"
        " The port must be a number between 1 and 65535"
    )
