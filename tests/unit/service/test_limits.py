"""Limits and what they go by."""

import math
from dataclasses import replace

import pytest

from tailrace.errors import ConfigurationError
from tailrace.service.limits import (
    AWS,
    COMMON_QUOTAS,
    DEFAULT,
    PRESETS,
    RANGES,
    Limits,
    Quotas,
    Range,
    check_limits,
    network,
)


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


class TestRanges:
    def test_every_limit_has_one(self) -> None:
        assert RANGES.keys() == Limits.__dataclass_fields__.keys()
        for limits in PRESETS.values():
            check_limits(limits)

    @pytest.mark.parametrize("name", RANGES)
    def test_their_ends(self, name: str) -> None:
        allowed = RANGES[name]
        for value in (allowed.minimum, allowed.maximum):
            check_limits(replace(DEFAULT, **{name: value}))
        for value in (allowed.minimum - 0.001, allowed.maximum + 1, -1, math.nan, math.inf):
            with pytest.raises(ConfigurationError, match=f"limits: {name} .* is not a ") as caught:
                check_limits(replace(DEFAULT, **{name: value}))
            assert caught.value.setting == "limits"

    def test_words(self) -> None:
        assert Range(1, 450).fault(1.5) == "is not a whole number from 1 to 450"
        off = Range(0.5, 9, can_be_off=True, is_whole=False)
        assert off.fault(0.1) == "is not a number from 0.5 to 9, or 0 for no limit"
        assert off.fault(0) == off.fault(1.5) == ""
