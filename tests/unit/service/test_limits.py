"""Limits and what they go by."""

import pytest

from tailrace.service.limits import AWS, COMMON_QUOTAS, DEFAULT, PRESETS, Limits, Quotas, network


def test_presets() -> None:
    assert PRESETS == {"default": DEFAULT, "aws": AWS}
    assert (AWS.services, AWS.bandwidth) == (3, 800_000)
    assert DEFAULT.bandwidth == 0


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("/run/socket", "/run/socket"),
        ("", ""),
    ],
)
def test_networks(host: str, expected: str) -> None:
    assert network(host) == expected


def test_quotas() -> None:
    """A key's own come first; what nothing else limits has ten times as much; 0 stays 0."""
    limits = Limits(key_open_tunnels=5, key_opened_per_hour=0, key_stored_bytes=100)
    assert limits.quotas(COMMON_QUOTAS, privileged=False) == Quotas(5, 0, 100)
    assert limits.quotas(COMMON_QUOTAS, privileged=True) == Quotas(50, 0, 1000)
    own = Quotas(opened_per_hour=7, stored_bytes=0)
    for privileged in (False, True):
        found = limits.quotas(own, privileged=privileged)
        assert (found.opened_per_hour, found.stored_bytes) == (7, 0)
