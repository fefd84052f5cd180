"""Values of options: from text, and fit to be shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.oracles.refusals import value_unless_refused
from tailrace.cli.exit_codes import ExitCode, exit_code_of
from tailrace.cli.localproxy.options import OPTIONS, Kind, Option, option_named
from tailrace.cli.localproxy.values import UsageError, parse_value, printable


def named(name: str) -> Option:
    option = option_named(name)
    assert option is not None
    return option


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("verbose", "0", 0),
        ("verbose", "6", 6),
        ("verbose", "007", 7),
        ("verbose", "65535", 65_535),
        ("max-connections", "1000000", 1_000_000),
        ("linger", "0", 0.0),
        ("linger", "2.5", 2.5),
        ("linger", "86400", 86_400.0),
        ("stall-timeout", "0.1", 0.1),
        ("link", "picows", "picows"),
        ("loop", "auto", "auto"),
        ("json", "", True),
        ("json", "TRUE", True),
        ("json", "On", True),
        ("no-ssl-host-verify", "yes", True),
        ("no-ssl-host-verify", "1", True),
        ("no-ssl-host-verify", "off", False),
        ("no-ssl-host-verify", "no", False),
        ("no-ssl-host-verify", "0", False),
        ("no-ssl-host-verify", "False", False),
        ("access-token", "anything \n", "anything \n"),
        ("access-token", "", ""),
    ],
)
def test_values(name: str, text: str, value: object) -> None:
    found = parse_value(named(name), text, name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("verbose", "abc", "the argument ('abc') for option 'X' is invalid"),
        ("verbose", "", "the argument for option 'X' is invalid"),
        ("verbose", "70000", "the argument ('70000') for option 'X' is invalid"),
        ("verbose", "-1", "the argument ('-1') for option 'X' is invalid"),
        ("verbose", "4.0", "the argument ('4.0') for option 'X' is invalid"),
        ("verbose", "\u0664", "the argument ('\u0664') for option 'X' is invalid"),
        ("verbose", "9" * 5000, "the argument for option 'X' is invalid"),
        ("verbose", "a\nb", "the argument ('a\\nb') for option 'X' is invalid"),
        ("max-connections", "1000001", "the argument ('1000001') for option 'X' is invalid"),
        ("linger", "86401", "the argument ('86401') for option 'X' is invalid"),
        ("linger", "nan", "the argument ('nan') for option 'X' is invalid"),
        ("linger", "1e3", "the argument ('1e3') for option 'X' is invalid"),
        ("linger", "1.", "the argument ('1.') for option 'X' is invalid"),
        ("linger", ".5", "the argument ('.5') for option 'X' is invalid"),
        ("stall-timeout", "0", "the argument ('0') for option 'X' is invalid"),
        (
            "loop",
            "trio",
            "the argument ('trio') for option 'X' is invalid. Valid choices are auto, asyncio,"
            " uvloop",
        ),
        (
            "json",
            "bogus",
            "the argument ('bogus') for option 'X' is invalid. Valid choices are 'on|off',"
            " 'yes|no', '1|0' and 'true|false'",
        ),
    ],
)
def test_values_that_are_none(name: str, text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_value(named(name), text, "X")
    assert str(caught.value) == sentence
    assert exit_code_of(caught.value) is ExitCode.USAGE


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("verbose", "Give a whole number from 0 to 65535."),
        ("stall-timeout", "Give a number of seconds from 0.1 to 86400."),
        ("loop", ""),
    ],
)
def test_hints_tell_the_range(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_value(named(name), "?", name)
    assert caught.value.hint == hint


@given(st.sampled_from(OPTIONS), st.text())
def test_any_text_is_a_value_or_a_usage_error(option: Option, text: str) -> None:
    value = value_unless_refused(parse_value, option, text, option.name)
    if value is not None and option.kind in (Kind.COUNT, Kind.SECONDS):
        assert option.minimum <= float(value) <= option.maximum


@given(st.text())
def test_shown_is_one_short_printable_line(text: str) -> None:
    line = printable(text, 16)
    assert line.isprintable()
    assert len(text) > 16 or not text.isprintable() or line == text


def test_shown_cuts() -> None:
    assert printable("a" * 64) == "a" * 64
    assert printable("a" * 65) == "a" * 61 + "..."
    assert printable("a\x1b[0m\udcff") == "a\\x1b[0m\\udcff"
