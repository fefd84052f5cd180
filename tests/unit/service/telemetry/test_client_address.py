"""Whose connection code runs for."""

from __future__ import annotations

from contextvars import Context, copy_context

import pytest

from tailrace.service.telemetry.client_address import (
    client_address,
    format_peer,
    set_client_address,
)


@pytest.mark.parametrize(
    ("peer", "text"),
    [
        (("192.0.2.1", 7), "192.0.2.1:7"),
        (("2001:db8::7", 7, 0, 0), "[2001:db8::7]:7"),
        (None, "unknown"),
        ("", "unknown"),
    ],
)
def test_addresses(peer: object, text: str) -> None:
    assert format_peer(peer) == text


def test_a_copy_of_the_context_keeps_the_address() -> None:
    def accept(port: int) -> str:
        set_client_address(("192.0.2.1", port))
        first = copy_context()
        set_client_address(("192.0.2.1", port + 1))
        assert client_address() == f"192.0.2.1:{port + 1}"
        return first.run(client_address)

    assert copy_context().run(accept, 7) == "192.0.2.1:7"
    assert Context().run(client_address) == "unknown"
