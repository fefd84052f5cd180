from __future__ import annotations

import pytest

from tailrace.operator.host_names import Host, host_name, parse_host


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("pump-7", Host("pump-7")),
        ("pi@pump-7", Host("pump-7", None, "pi")),
        ("pump-7.tunnel", Host("pump-7")),
        ("a@b@pump-7.ADMIN.tunnel", Host("pump-7", "ADMIN", "a@b")),
        ("pump-7.local", Host("pump-7.local")),
        ("@pump-7..tunnel", Host("pump-7")),
    ],
)
def test_what_a_name_stands_for(text: str, host: Host) -> None:
    assert parse_host(text) == host


def test_each_service_is_a_host_of_its_own() -> None:
    assert host_name("pump-7", "SSH") == "pump-7.tunnel"
    assert host_name("pump-7", "ADMIN") == "pump-7.ADMIN.tunnel"
    assert parse_host(host_name("pump-7", "ADMIN")) == Host("pump-7", "ADMIN")
