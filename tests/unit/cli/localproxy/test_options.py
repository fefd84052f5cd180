"""The table of options, and what is driven from it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.oracles.refusals import value_unless_refused
from support.repository import ROOT
from tailrace.cli.localproxy.options import (
    HELP_WIDTH,
    OPTIONS,
    Applies,
    Group,
    Kind,
    Option,
    UsageError,
    help_text,
    option_named,
    options_table,
    parse_value,
    printable,
)
from tailrace.errors import ExitCode
from tailrace.localproxy.settings import Backend, LoopChoice

REFERENCE = {
    "help": "h",
    "version": "V",
    "access-token": "t",
    "client-token": "i",
    "proxy-endpoint": "e",
    "region": "r",
    "source-listen-port": "s",
    "destination-app": "d",
    "local-bind-address": "b",
    "capath": "c",
    "no-ssl-host-verify": "k",
    "export-default-settings": "",
    "settings-json": "",
    "config": "",
    "verbose": "v",
    "mode": "m",
    "destination-client-type": "y",
    "config-dir": "",
}

EVERY_OPTION = pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)


def named(name: str) -> Option:
    option = option_named(name)
    assert option is not None
    return option


def test_options_of_the_reference_are_all_there() -> None:
    assert {o.name: o.short for o in OPTIONS if o.reference} == REFERENCE


def test_names_are_unique() -> None:
    for names in (
        [option.name for option in OPTIONS],
        [option.short for option in OPTIONS if option.short],
        [option.environment for option in OPTIONS if option.environment],
    ):
        assert len(names) == len(set(names))


def test_unknown_names_are_none() -> None:
    assert option_named("nothing") is None
    assert option_named("t") is None


@EVERY_OPTION
def test_environment_variables_follow_a_rule(option: Option) -> None:
    theirs = {
        "access-token": "AWSIOT_TUNNEL_ACCESS_TOKEN",
        "client-token": "AWSIOT_TUNNEL_CLIENT_TOKEN",
        "proxy-endpoint": "AWSIOT_TUNNEL_ENDPOINT",
        "region": "AWSIOT_TUNNEL_REGION",
    }
    ours = "TAILRACE_" + option.name.upper().replace("-", "_")
    expected = "" if option.applies is Applies.COMMAND else theirs.get(option.name, ours)
    assert option.environment == expected


@EVERY_OPTION
def test_switches_have_no_metavar_and_the_others_one(option: Option) -> None:
    assert option.is_switch == (not option.metavar)


def test_choices_are_those_of_the_settings() -> None:
    assert named("link").choices == tuple(choice.value for choice in Backend)
    assert named("loop").choices == tuple(choice.value for choice in LoopChoice)


@EVERY_OPTION
def test_help_names_option_and_variable(option: Option) -> None:
    text = help_text()
    spelling = f"-{option.short}, --{option.name}" if option.short else f"    --{option.name}"
    assert f"{spelling} {option.metavar}".rstrip() + (" " if option.is_switch else "") in text
    if option.environment:
        assert f"[env: {option.environment}]" in text


def test_help_fits_its_width_and_is_grouped() -> None:
    lines = help_text().splitlines()
    assert max(map(len, lines)) <= HELP_WIDTH == 100
    headings = [line[:-1] for line in lines if re.fullmatch(r"[A-Z][a-z ]+:", line)]
    assert headings == [group.value for group in Group]
    assert not any(line != line.rstrip() for line in lines)


def test_help_has_what_scripts_look_for() -> None:
    assert "Show help message" in help_text()


def test_documentation_has_the_table() -> None:
    assert options_table() in (ROOT / "docs" / "localproxy.md").read_text()


@EVERY_OPTION
def test_table_has_a_row_for_each_option(option: Option) -> None:
    rows = [line for line in options_table().splitlines() if f"--{option.name}" in line]
    row = next(row for row in rows if re.search(rf"`--{option.name}[ `]", row))
    assert len(re.findall(r"(?<!\\)\|", row)) == 6
    assert ("\\*" in row) == (not option.reference)


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
    assert caught.value.exit_code is ExitCode.USAGE


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
    if value is not None and option.kind in (Kind.COUNT, Kind.LEVEL, Kind.SECONDS):
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
