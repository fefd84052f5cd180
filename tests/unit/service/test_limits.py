"""Limits and what they go by."""

import pytest

from tailrace.service.limits import AWS, DEFAULT, PRESETS, network


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
