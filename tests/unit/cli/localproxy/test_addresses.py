"""Addresses in options and files: parse, print, parse again."""

from __future__ import annotations

import logging
from string import ascii_letters, digits

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.oracles.refusals import value_unless_refused
from tailrace.cli.localproxy.addresses import (
    parse_bind_address,
    parse_local_address,
    parse_service_map,
)
from tailrace.common.addresses import (
    LocalAddress,
    TCPAddress,
    UnixAddress,
    format_local_address,
    format_service_map,
)
from tailrace.errors import ConfigurationError
from tailrace.wire import Side

SOURCE, DESTINATION = Side.SOURCE, Side.DESTINATION

hosts = st.from_regex(r"[a-z0-9-]{1,20}(\.[a-z0-9-]{1,20}){0,2}", fullmatch=True)
ipv6 = st.ip_addresses(v=6).map(str)
ports = st.integers(1, 65_535)
sides = st.sampled_from(Side)
near_misses = st.text(alphabet="aZ09.:[]-_/=, %unix\0\u00e9\ud800", max_size=24)
addresses: st.SearchStrategy[LocalAddress] = st.one_of(
    st.builds(TCPAddress, st.one_of(st.just(""), hosts, ipv6), ports),
    st.text(alphabet=ascii_letters + digits + "/.-_: ", min_size=1, max_size=107)
    .filter(lambda path: path == path.strip())
    .map(UnixAddress),
)
service_ids = st.text(alphabet=ascii_letters + digits + ":_-", min_size=1, max_size=128)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("0.0.0.0", "0.0.0.0"),
        ("localhost", "localhost"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_bind_addresses(text: str, expected: str) -> None:
    assert parse_bind_address(text) == expected
    assert parse_bind_address(expected) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a b", "Bind address contains invalid characters"),
        ("a" * 254, "Bind address exceeds maximum allowed length"),
        ("localhost:80", "Bind address 'localhost:80' is neither"),
        ("[]", "Bind address '[]' is neither"),
        ("[x]", "Bind address '[x]' is neither"),
        ("a..b", "Bind address 'a..b' is neither"),
    ],
)
def test_no_bind_addresses(text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_bind_address(text)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("22", TCPAddress("", 22)),
        ("05555", TCPAddress("", 5555)),
        ("localhost:22", TCPAddress("localhost", 22)),
        ("10.0.0.1:80", TCPAddress("10.0.0.1", 80)),
        ("[::1]:22", TCPAddress("::1", 22)),
        ("[fe80::1%eth0]:22", TCPAddress("fe80::1%eth0", 22)),
        ("/run/app.sock", UnixAddress("/run/app.sock")),
        ("./app:80", UnixAddress("./app:80")),
        ("unix:app.sock", UnixAddress("app.sock")),
        ("unix:/run/app", UnixAddress("/run/app")),
        ("unix:22", UnixAddress("22")),
        ("unix:unix:x", UnixAddress("unix:x")),
        ("unix:///run/app", UnixAddress("///run/app")),
        ("unix:x:80/app", UnixAddress("x:80/app")),
    ],
)
def test_local_addresses(side: Side, text: str, expected: LocalAddress) -> None:
    assert parse_local_address(text, side) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "Endpoint cannot be empty"),
        ("0", "Port must be between 1 and 65535"),
        ("x:0", "Port must be between 1 and 65535"),
        ("99999999999", "Port value is too large"),
        ("x y:1", "Bind address contains invalid characters"),
        ("a_b:1", "Bind address contains invalid characters"),
        ("\uff11", "Bind address contains invalid characters"),
        ("x", "Address 'x' has no port; -d takes PORT, HOST:PORT or the path of a unix socket"),
        ("x:", "Address 'x:' has no port; -d takes PORT, HOST:PORT or the path of a unix socket"),
        ("[::1]", "Address '[::1]' has no port; -d takes PORT, HOST:PORT or the path of a unix"),
        ("::1", "Invalid address '::1'; put IPv6 addresses in brackets, [::1]:22"),
        ("a..b:1", "Invalid address 'a..b:1'"),
        ("http://x:1", "Address 'http://x:1' is a URL; write x:1"),
        ("http://x/y", "Address 'http://x' is a URL; write x:80"),
        ("https://[::1]?y", "Address 'https://[::1]' is a URL; write [::1]:443"),
        ("tcp://[::1]:22", "Address 'tcp://[::1]:22' is a URL; write [::1]:22"),
        ("tcp://x", "Address 'tcp://x' is a URL; write x:PORT"),
        ("ssh://user:password@x:22", "Address 'ssh://x:22' is a URL; write x:22"),
        ("http://", "Address 'http://' is a URL; write HOST:PORT"),
        ("x:1/", "Address 'x:1/' has a path behind the port; write x:1"),
        ("unix:", "Path cannot be empty"),
        ("unix: ", "Path cannot be empty"),
        ("/a\0", "Path contains invalid null byte"),
        ("/" * 108, "The path of a unix socket has at most 107 bytes: " + "/" * 61 + "..."),
    ],
)
def test_no_local_addresses(text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_local_address(text, DESTINATION)
    assert str(caught.value).startswith(sentence)


@given(addresses, sides)
def test_local_addresses_print_and_parse(address: LocalAddress, side: Side) -> None:
    assert parse_local_address(format_local_address(address), side) == address


@given(st.one_of(st.text(), near_misses), sides)
def test_any_text_is_a_local_address_or_an_error(text: str, side: Side) -> None:
    address = value_unless_refused(parse_local_address, text, side)
    assert address is None or parse_local_address(format_local_address(address), side) == address


@given(st.one_of(st.text(), near_misses))
def test_any_text_is_a_bind_address_or_an_error(text: str) -> None:
    address = value_unless_refused(parse_bind_address, text)
    assert address is None or parse_bind_address(address) == address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        (",,", {}),
        ("22", {"": TCPAddress("", 22)}),
        (" 22 ", {"": TCPAddress("", 22)}),
        (",22,", {"": TCPAddress("", 22)}),
        ("/run/x", {"": UnixAddress("/run/x")}),
        ("A=1,B=x:2", {"A": TCPAddress("", 1), "B": TCPAddress("x", 2)}),
        ("A==1,,B=[::1]:2,", {"A": TCPAddress("", 1), "B": TCPAddress("::1", 2)}),
        (" A = 1 ", {"A": TCPAddress("", 1)}),
        ("a:b=unix:c", {"a:b": UnixAddress("c")}),
    ],
)
def test_service_maps(text: str, expected: dict[str, LocalAddress]) -> None:
    services = parse_service_map(text, DESTINATION)
    assert services == expected
    assert list(services) == list(expected)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1,2", "Wrong format for the port mappings! Example: SSH1=5555,SSH2=6666."),
        ("1,a=2", "Wrong format for the port mappings! Example: SSH1=5555,SSH2=6666."),
        ("a=1=2", "Wrong format for the port mappings! Example: SSH1=5555,SSH2=6666."),
        ("a=/x=y", "Wrong format for the port mappings! Example: SSH1=5555,SSH2=6666."),
        ("=", "Wrong format for the port mappings: = .Example: SSH1=5555"),
        ("a=", "Wrong format for the port mappings: a= .Example: SSH1=5555"),
        ("==1", "Wrong format for the port mappings: ==1 .Example: SSH1=5555"),
        (" ", "Endpoint cannot be empty"),
        ("a b=1", "Service ID must contain only"),
        ("a.b=1", "Service ID must contain only"),
        ("a=0", "Port must be between 1 and 65535"),
        ("a=1,b=1", "Services a and b cannot both listen on 1"),
        ("a=/x,b=/x", "Services a and b cannot both listen on /x"),
    ],
)
def test_no_service_maps(text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_service_map(text, SOURCE)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("text", "side", "warned"),
    [
        ("SSH:22", DESTINATION, "-d SSH:22 means port 22 of a host named SSH; "),
        ("SSH:5555", SOURCE, "-s SSH:5555 means port 5555 of a host named SSH; "),
        ("5555:22", SOURCE, "-s 5555:22 means port 22 of a host named 5555; "),
        ("ssh:22", DESTINATION, ""),
        ("SSH.example:22", DESTINATION, ""),
        ("SSH=DB:22", DESTINATION, ""),
        ("10.0.0.1:22", DESTINATION, ""),
    ],
)
def test_a_host_like_a_service_id_is_warned_of(
    text: str, side: Side, warned: str, caplog: pytest.LogCaptureFixture
) -> None:
    parse_service_map(text, side)
    assert [message[: len(warned)] for message in caplog.messages] == ([warned] if warned else [])
    assert all(text.replace(":", "=") in message for message in caplog.messages)


def test_services_may_share_an_application() -> None:
    assert len(parse_service_map("a=1,b=1", DESTINATION)) == 2


def test_the_first_of_two_equal_ids_counts(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        services = parse_service_map("a=1,b=2,a=3", SOURCE)
    assert services == {"a": TCPAddress("", 1), "b": TCPAddress("", 2)}
    assert caplog.messages == ["Duplicate mappings, ignore. This mapping already exists: a : 1"]


@given(
    st.one_of(
        st.fixed_dictionaries({"": addresses}),
        st.dictionaries(service_ids, addresses, max_size=4),
    )
)
def test_service_maps_print_and_parse(services: dict[str, LocalAddress]) -> None:
    assert parse_service_map(format_service_map(services), DESTINATION) == services


@given(st.one_of(st.text(), near_misses), sides)
def test_any_text_is_a_service_map_or_an_error(text: str, side: Side) -> None:
    services = value_unless_refused(parse_service_map, text, side)
    if services is None:
        return
    assert parse_service_map(format_service_map(services), side) == services
