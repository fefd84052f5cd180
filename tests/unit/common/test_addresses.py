"""Addresses: parse, print, parse again."""

from __future__ import annotations

import re
from string import ascii_letters, digits

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.oracles.refusals import value_unless_refused
from tailrace.common.addresses import (
    MAX_UNIX_PATH,
    AddressError,
    AddressFault,
    LocalAddress,
    TCPAddress,
    UnixAddress,
    format_host,
    format_host_port,
    format_local_address,
    format_service_map,
    is_host_name,
    is_ipv6,
    is_unix_path,
    parse_local_address,
    parse_port,
    parse_tcp_address,
    refuse_url,
    split_host_port,
)
from tailrace.errors import ConfigurationError

hosts = st.from_regex(r"[a-z0-9-]{1,20}(\.[a-z0-9-]{1,20}){0,2}", fullmatch=True)
ipv6 = st.ip_addresses(v=6).map(str)
ports = st.integers(1, 65_535)
near_misses = st.text(alphabet="aZ09.:[]-_/=, %unix\0\u00e9\ud800", max_size=24)
addresses: st.SearchStrategy[LocalAddress] = st.one_of(
    st.builds(TCPAddress, st.one_of(st.just(""), hosts, ipv6), ports),
    st.text(alphabet=ascii_letters + digits + "/.-_: ", min_size=1, max_size=MAX_UNIX_PATH)
    .filter(lambda path: path == path.strip())
    .map(UnixAddress),
)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (TCPAddress("", 22), "22"),
        (TCPAddress("localhost", 22), "localhost:22"),
        (TCPAddress("::1", 22), "[::1]:22"),
        (UnixAddress("/run/x"), "/run/x"),
    ],
)
def test_addresses_print(address: LocalAddress, text: str) -> None:
    assert str(address) == text


@pytest.mark.parametrize(
    ("host", "text"), [("h.example", "h.example"), ("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")]
)
def test_hosts_print(host: str, text: str) -> None:
    assert format_host(host) == text
    assert format_host_port(host, 443) == f"{text}:443"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("h", "h", None),
        ("h.example.:1", "h.example.", "1"),
        ("h:", "h", ""),
        ("H:x", "H", "x"),
        ("[::1]", "::1", None),
        ("[::1]:", "::1", ""),
        ("[fe80::1%eth0]:22", "fe80::1%eth0", "22"),
    ],
)
def test_hosts_and_ports_are_split(text: str, host: str, port: str | None) -> None:
    assert split_host_port(text) == (host, port)


@pytest.mark.parametrize("text", ["", ":", ":1", "a b", "a..b:1", "::1", "[::1", "[::1]1", "[x]:1"])
def test_what_has_no_host(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        split_host_port(text)
    assert caught.value.fault is AddressFault.HOST
    assert caught.value.text == text


@pytest.mark.parametrize(
    ("text", "minimum", "port"), [("1", 1, 1), ("65535", 1, 65535), ("000022", 1, 22), ("0", 0, 0)]
)
def test_ports(text: str, minimum: int, port: int) -> None:
    assert parse_port(text, minimum) == port


@pytest.mark.parametrize("text", ["", "0", "65536", "-1", "+1", "1.", "x", "\u0661", "9" * 5000])
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_port(text)
    assert (caught.value.fault, caught.value.text) == (AddressFault.PORT, text)
    assert str(caught.value) == f"{text!r} is not a port number"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:7443", "127.0.0.1", 7443),
        ("localhost:0", "localhost", 0),
        ("[::1]:80", "::1", 80),
        ("[::]:65535", "::", 65535),
        ("8443", "127.0.0.1", 8443),
    ],
)
def test_tcp_addresses(text: str, host: str, port: int) -> None:
    assert parse_tcp_address(text, "127.0.0.1", 0) == TCPAddress(host, port)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", AddressFault.HOST),
        (":", AddressFault.HOST),
        (":80", AddressFault.HOST),
        ("::1:80", AddressFault.HOST),
        ("[]:80", AddressFault.HOST),
        ("host", AddressFault.PORT_MISSING),
        ("host:", AddressFault.PORT_MISSING),
        ("[::1]", AddressFault.PORT_MISSING),
        ("host:x", AddressFault.PORT),
        ("host:65536", AddressFault.PORT),
        ("host:-1", AddressFault.PORT),
        ("a:\u0661", AddressFault.PORT),
    ],
)
def test_what_is_no_tcp_address(text: str, fault: AddressFault) -> None:
    with pytest.raises(AddressError) as caught:
        parse_tcp_address(text, "127.0.0.1", 0)
    assert caught.value.fault is fault
    assert caught.value.text in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("22", TCPAddress("", 22)),
        ("05555", TCPAddress("", 5555)),
        ("my_app:22", TCPAddress("my_app", 22)),
        ("[fe80::1%eth0]:22", TCPAddress("fe80::1%eth0", 22)),
        ("/run/app.sock", UnixAddress("/run/app.sock")),
        ("./app:80", UnixAddress("./app:80")),
        (" /x ", UnixAddress("/x")),
        ("unix:app.sock", UnixAddress("app.sock")),
        ("unix:22", UnixAddress("22")),
        ("unix:unix:x", UnixAddress("unix:x")),
        ("/" * MAX_UNIX_PATH, UnixAddress("/" * MAX_UNIX_PATH)),
    ],
)
def test_local_addresses(text: str, expected: LocalAddress) -> None:
    assert parse_local_address(text) == expected
    assert is_unix_path(text) is isinstance(expected, UnixAddress)


@pytest.mark.parametrize(
    "text", ["unix:", "unix: ", "/a\0", "/" * (MAX_UNIX_PATH + 1), "/\u00e9" * 40, "/\ud800"]
)
def test_what_is_no_path_of_a_socket(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_local_address(text)
    assert caught.value.fault is AddressFault.PATH


@given(addresses)
def test_local_addresses_print_and_parse(address: LocalAddress) -> None:
    assert parse_local_address(format_local_address(address)) == address


@given(st.one_of(st.text(), near_misses))
def test_any_text_is_a_local_address_or_an_error(text: str) -> None:
    address = value_unless_refused(parse_local_address, text)
    assert address is None or parse_local_address(format_local_address(address)) == address


def test_service_maps_print() -> None:
    services = {"SSH": TCPAddress("::1", 22), "WEB": UnixAddress("app")}
    assert format_service_map(services) == "SSH=[::1]:22,WEB=unix:app"
    assert format_service_map({"": TCPAddress("", 22)}) == "22"
    assert format_service_map({}) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost", True),
        ("a.b-c.d", True),
        ("my_app", True),
        ("127.0.0.1", True),
        ("example.com.", True),
        ("a" * 63 + ".b", True),
        ("a" * 64 + ".b", False),
        (".".join(["a" * 63] * 4), False),
        ("", False),
        (".", False),
        ("a..b", False),
        (".a", False),
        ("a b", False),
        ("::1", False),
        ("b\u00fccher", False),
    ],
)
def test_host_names(text: str, expected: bool) -> None:
    assert is_host_name(text) is expected


@given(st.text())
def test_resolvers_take_every_host_name(text: str) -> None:
    if is_host_name(text):
        assert text.encode("idna")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("::", True),
        ("::1", True),
        ("fe80::1%eth0", True),
        ("::ffff:10.0.0.1", True),
        ("1::2::3", False),
        ("::1%", False),
        ("::1%a/b", False),
        ("127.0.0.1", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_ipv6(text: str, expected: bool) -> None:
    assert is_ipv6(text) is expected


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("http://x:1", "x:1"),
        ("https://[::1]?y", "[::1]:443"),
        ("tcp://x", "x:PORT"),
        ("http://", "HOST:PORT"),
        ("x:80/y", "x:80"),
    ],
)
def test_a_url_is_no_address(text: str, written: str) -> None:
    with pytest.raises(ConfigurationError, match=f"; write {re.escape(written)}$"):
        refuse_url(text)


@pytest.mark.parametrize("text", ["22", "x:80", "/run/x", "unix:/x:80/y", "unix://run/x"])
def test_an_address_is_no_url(text: str) -> None:
    refuse_url(text)
