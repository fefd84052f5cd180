"""Who is trusted to name clients, and whom they name."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import ConfigurationError
from tailrace.service.networks import contains, forwarded_client, parse_network

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def test_networks() -> None:
    assert str(parse_network("10.1.0.0/16", "--x")) == "10.1.0.0/16"
    assert str(parse_network("::1", "--x")) == "::1/128"
    for text in ("", "host", "10.0.0.1/8"):
        with pytest.raises(ConfigurationError, match="--x: "):
            parse_network(text, "--x")


@pytest.mark.parametrize(
    ("host", "is_in"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("fd00::1%eth0", True),
        ("11.0.0.1", False),
        ("2001:db8::1", False),
        ("lamp", False),
        ("", False),
    ],
)
def test_who_is_trusted(host: str, is_in: bool) -> None:
    assert contains(TRUSTED, host) is is_in
    assert not contains((), host)


@pytest.mark.parametrize(
    ("peer", "fields", "client"),
    [
        ("192.0.2.1", ["203.0.113.9"], "192.0.2.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["6.6.6.6, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["6.6.6.6", "203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["6.6.6.6,203.0.113.9\t, 10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["203.0.113.9:40000"], "203.0.113.9"),
        ("10.0.0.1", ["2001:db8::7"], "2001:db8::7"),
        ("fd00::1", ["[2001:db8::7]:40000, [fd00::2]"], "2001:db8::7"),
        ("10.0.0.1", ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["6.6.6.6, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["6.6.6.6, , 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["6.6.6.6" + ", 10.0.0.2" * 5000], "10.0.0.2"),
    ],
)
def test_whom_a_list_names(peer: str, fields: list[str], client: str) -> None:
    assert forwarded_client(fields, peer, TRUSTED) == client


@given(st.lists(st.text(max_size=40), max_size=5))
def test_any_list_names_an_address(fields: list[str]) -> None:
    assert forwarded_client(fields, "10.0.0.1", TRUSTED)
    assert forwarded_client(fields, "192.0.2.1", TRUSTED) == "192.0.2.1"
