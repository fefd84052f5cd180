from __future__ import annotations

import pytest

from tailrace.agent.service_map import (
    MAX_SERVICES,
    check_services,
    describe_changes,
    parse_bandwidth,
    parse_services,
    rule_of,
)
from tailrace.common.addresses import TCPAddress, UnixAddress
from tailrace.errors import ConfigurationError
from tailrace.library import ServiceRule


def test_options_are_rules():
    given = ("SSH=22", "WEB=10.0.0.5:80", "DB=/run/db.sock", "X=unix:/run/a=b", "PLC-*=[::1]:1")
    assert parse_services((*given, "*=camera.local:80")) == {
        "SSH": ServiceRule(TCPAddress("", 22)),
        "WEB": ServiceRule(TCPAddress("10.0.0.5", 80)),
        "DB": ServiceRule(UnixAddress("/run/db.sock")),
        "X": ServiceRule(UnixAddress("/run/a=b")),
        "PLC-*": ServiceRule(TCPAddress("::1", 1)),
        "*": ServiceRule(TCPAddress("camera.local", 80)),
    }
    assert parse_services(()) == {}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["22"], "service '22': write ID=TARGET, as SSH=22, WEB=10.0.0.5:80, DB=/run/db.sock"),
        (["=22"], "service '=22': write ID=TARGET"),
        (["SSH=22", "SSH=23"], "service 'SSH' is given twice"),
        (["SSH="], "service 'SSH': '' has no valid host name"),
        (["SSH=h"], "service 'SSH': 'h' has no port; write HOST:PORT"),
        (["SSH=http://h"], "service 'SSH': Address 'http://h' is a URL; write h:80"),
        (["A B=22"], "service 'A B': Service ID must contain only"),
        (["A\n=22"], "service 'A\\n': Service ID must contain only"),
        (["A**=22"], "service 'A**': Service ID must contain only"),
    ],
)
def test_options_that_are_no_rules(options: list[str], sentence: str):
    with pytest.raises(ConfigurationError) as caught:
        parse_services(options)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_there_are_not_more_rules_than_anybody_needs():
    rule = rule_of("A", "22")
    check_services({f"A{number}": rule for number in range(MAX_SERVICES)})
    with pytest.raises(ConfigurationError, match="there are 1001 services, more than 1000"):
        parse_services(f"A{number}=22" for number in range(MAX_SERVICES + 1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1000B/s", 1000),
        ("800kB/s", 800_000),
        ("1.5MiB/s", 1_572_864),
        ("1.5 MB/s", 1_500_000),
        ("2GiB/s", 2**31),
        ("8Mbit/s", 1_000_000),
        ("64 kbit/s", 8000),
        ("0B/s", 0),
    ],
)
def test_bandwidths(text: str, expected: int):
    assert parse_bandwidth(text) == expected


@pytest.mark.parametrize(
    "text", ["", "800", "800kB", "800KB/s", "-1kB/s", "1e3B/s", ".5MB/s", "1 MB/s ", "\u0661B/s"]
)
def test_what_is_no_bandwidth(text: str):
    with pytest.raises(ConfigurationError, match="is not a bandwidth: write it as 800kB/s"):
        parse_bandwidth(text)


def test_changes_are_told_in_few_words():
    before = parse_services(["SSH=22", "DB=/run/db", "SAME=1"])
    bounded = {"SSH": rule_of("SSH", "22", allow=["127.0.0.1", "::1"], bandwidth=5000)}
    assert describe_changes(before, before) == ""
    assert describe_changes({}, parse_services(["A=1"])) == "+A"
    after = parse_services(["SSH=2222", "WEB=h:80", "SAME=1"])
    assert describe_changes(before, after) == "+WEB, -DB, SSH 22 -> 2222"
    assert describe_changes(before, {**before, **bounded}) == (
        "SSH allow all -> 127.0.0.1/::1 bandwidth unlimited -> 5000 B/s"
    )
    assert describe_changes(bounded, {"SSH": rule_of("SSH", "22", max_connections=8)}) == (
        "SSH allow 127.0.0.1/::1 -> all max-connections unlimited -> 8 "
        "bandwidth 5000 B/s -> unlimited"
    )

    async def handler(*_: object) -> None:
        """Serve nothing."""

    assert describe_changes(before, {**before, "SSH": ServiceRule(handler)}) == (
        "SSH 22 -> in process"
    )
