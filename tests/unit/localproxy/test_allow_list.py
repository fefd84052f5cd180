"""What the allow-list of a destination lets through."""

from __future__ import annotations

import pytest

from tailrace.cli.localproxy.allow_list import parse_allow_list
from tailrace.common.addresses import LocalAddress, TCPAddress, UnixAddress
from tailrace.localproxy.allow_list import is_allowed

SSH = TCPAddress("127.0.0.1", 22)
SOCKET = UnixAddress("/run/app.sock")


@pytest.mark.parametrize(
    ("address", "allowed", "expected"),
    [
        (SSH, "127.0.0.1:22", True),
        (SSH, "22", True),
        (TCPAddress("", 22), "127.0.0.1:22", True),
        (SSH, "80,127.0.0.1:22,/x", True),
        (TCPAddress("DB.Internal.", 1), "db.internal:1", True),
        (TCPAddress("0:0::1", 1), "[::1]:1", True),
        (TCPAddress("2001:DB8::1", 1), "[2001:db8:0:0::1]:1", True),
        (SOCKET, "/run/app.sock", True),
        (SOCKET, "unix:/run/app.sock", True),
        (TCPAddress("127.0.0.1", 23), "127.0.0.1:22", False),
        (TCPAddress("127.0.0.2", 22), "127.0.0.1:22", False),
        (TCPAddress("localhost", 22), "127.0.0.1:22", False),
        (SSH, "localhost:22", False),
        (TCPAddress("evil-db.internal", 1), "db.internal:1", False),
        (TCPAddress("db.internal.evil", 1), "db.internal:1", False),
        (TCPAddress("::ffff:127.0.0.1", 22), "127.0.0.1:22", False),
        (UnixAddress("/run/../run/app.sock"), "/run/app.sock", False),
        (UnixAddress("/run/APP.sock"), "/run/app.sock", False),
        (UnixAddress("127.0.0.1:22"), "127.0.0.1:22", False),
        (SSH, "0.0.0.0:22", False),
    ],
)
def test_what_is_let_through(address: LocalAddress, allowed: str, expected: bool) -> None:
    assert is_allowed(address, parse_allow_list(allowed)) is expected


def test_no_list_allows_everything_and_an_empty_one_nothing() -> None:
    assert is_allowed(SSH, None)
    assert not is_allowed(SSH, ())
