"""The table of options."""

from __future__ import annotations

import pytest

from tailrace.cli.localproxy.options import OPTIONS, Applies, Option, option_named
from tailrace.common.event_loop import LoopChoice
from tailrace.localproxy.settings import Backend

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
