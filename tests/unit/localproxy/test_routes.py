from __future__ import annotations

import ipaddress

import pytest

from tailrace.localproxy.routes import is_within

NETWORKS = tuple(map(ipaddress.ip_network, ("10.0.0.0/8", "192.168.1.5", "fd00::/8", "fe80::/10")))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("10.1.2.3", True),
        ("192.168.1.5", True),
        ("fd00::1", True),
        ("fe80::1%eth0", True),
        ("::ffff:10.1.2.3", True),
        ("192.168.1.6", False),
        ("11.0.0.1", False),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("::10.1.2.3", False),
    ],
)
def test_addresses_that_networks_have(host: str, expected: bool):
    assert is_within(host, NETWORKS) is expected
    assert not is_within(host, ())
    assert is_within(host, None)


def test_a_name_is_no_address():
    with pytest.raises(ValueError, match="localhost"):
        is_within("localhost", NETWORKS)
