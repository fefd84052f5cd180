"""Network addresses as text."""

from __future__ import annotations

import pytest

from tailrace.common.addresses import format_host_port


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("localhost", "localhost:443"),
        ("127.0.0.1", "127.0.0.1:443"),
        ("::1", "[::1]:443"),
        ("fe80::1%eth0", "[fe80::1%eth0]:443"),
        ("", ":443"),
    ],
)
def test_only_an_ipv6_address_has_brackets(host: str, text: str) -> None:
    assert format_host_port(host, 443) == text
