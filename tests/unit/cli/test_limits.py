"""Options of limits."""

import argparse

import pytest

from tailrace.cli.limits import add_limit_options, read_limits
from tailrace.errors import ConfigurationError
from tailrace.service.limits import AWS, DEFAULT, Limits


def read(*argv: str) -> Limits:
    parser = argparse.ArgumentParser()
    add_limit_options(parser)
    return read_limits(parser.parse_args(argv))


def test_presets() -> None:
    assert read() == DEFAULT
    assert read("--limits", "aws") == AWS


def test_every_limit_has_its_option() -> None:
    argv = [
        *("--max-services", "7"),
        *("--max-open-tunnels", "8"),
        *("--max-bandwidth", "1.5M"),
        *("--max-connection-rate", "0.5"),
        *("--max-connections", "40"),
        *("--max-address-connections", "30"),
        *("--max-handshake-seconds", "2.5"),
        *("--max-handshake-bytes", "1000"),
        *("--max-idle-seconds", "90"),
        *("--max-request-bytes", "64k"),
        *("--max-request-rate", "5"),
        *("--max-waiting-things", "3"),
        *("--max-key-open-tunnels", "6"),
        *("--max-key-opened-per-hour", "0"),
        *("--max-key-stored-bytes", "10M"),
    ]
    expected = Limits(
        services=7,
        open_tunnels=8,
        bandwidth=1_500_000,
        connection_rate=0.5,
        connections=40,
        address_connections=30,
        handshake_seconds=2.5,
        handshake_bytes=1000,
        idle_seconds=90.0,
        request_bytes=64_000,
        request_rate=5.0,
        waiting_things=3,
        key_open_tunnels=6,
        key_opened_per_hour=0,
        key_stored_bytes=10_000_000,
    )
    assert read(*argv) == read("--limits", "aws", *argv) == expected
    assert all(
        getattr(expected, name) != getattr(DEFAULT, name) for name in Limits.__dataclass_fields__
    )


def test_single_figures_change_a_preset() -> None:
    limits = read("--limits", "aws", "--max-bandwidth", "0", "--max-idle-seconds", "0")
    assert (limits.services, limits.bandwidth, limits.idle_seconds) == (3, 0, 0)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--max-services", "0"),
        ("--max-services", "451"),
        ("--max-services", "1.5"),
        ("--max-open-tunnels", "0"),
        ("--max-bandwidth", "999"),
        ("--max-bandwidth", "fast"),
        ("--max-bandwidth", "k"),
        ("--max-bandwidth", ""),
        ("--max-bandwidth", "inf"),
        ("--max-connection-rate", "-1"),
        ("--max-connections", "0.5"),
        ("--max-address-connections", "-1"),
        ("--max-handshake-seconds", "0"),
        ("--max-handshake-bytes", "1000000"),
        ("--max-idle-seconds", "nan"),
        ("--max-request-bytes", "1"),
        ("--max-request-rate", "1e9"),
    ],
)
def test_what_is_refused(option: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(f"{option}={text}")
    assert str(caught.value).startswith(f"{option} {text!r} is not a ")
