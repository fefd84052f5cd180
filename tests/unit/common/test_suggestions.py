from __future__ import annotations

import pytest

from tailrace.common.suggestions import closest_name, did_you_mean

NAMES = ("--region", "--proxy-endpoint", "--access-token", "--access-token-file")


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("--regoin", "--region"),
        ("--Region", "--region"),
        ("--proxyendpoint", "--proxy-endpoint"),
        ("--acces-token", "--access-token"),
        ("--x", ""),
        ("", ""),
        ("--region" * 20, ""),
    ],
)
def test_the_name_most_like_a_word(word: str, name: str) -> None:
    assert closest_name(word, NAMES) == name
    assert did_you_mean(word, NAMES) == (f"Did you mean '{name}'?" if name else "")


def test_the_case_of_names_does_not_matter() -> None:
    assert closest_name("pmup-7", ["Pump-7", "SSH"]) == "Pump-7"
    assert closest_name("ssh", ["Pump-7", "SSH"]) == "SSH"
