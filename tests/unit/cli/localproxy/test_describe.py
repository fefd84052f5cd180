"""The settings in effect, for people: every one with its origin, and no secret."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.oracles.refusals import value_unless_refused
from tailrace.cli.localproxy.describe import Effective, describe
from tailrace.cli.localproxy.options import OPTIONS, Option
from tailrace.cli.localproxy.resolve import build_settings
from tailrace.localproxy.settings import ProxySettings

TOKEN = "AQGAAXlKn0Tqd8Vn3Cn4Zf2bPzAAQABAAdU"
CLIENT = "0123456789abcdef0123456789abcdef"
GIVEN = {"AWSIOT_TUNNEL_ACCESS_TOKEN": TOKEN, "AWSIOT_TUNNEL_REGION": "us-east-1"}
READ_FROM_FILES = ("config", "settings-json", "config-dir", "access-token-file")


@pytest.fixture(autouse=True)
def _nothing_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))


def rows(*argv: str, **more: str) -> dict[str, Effective]:
    return {row.name: row for row in describe(build_settings(argv, GIVEN | more))}


def test_every_setting_is_described() -> None:
    command = ["loop", "json_events", "ready_file", "state_dir", "state_needed"]
    command += ["control", "metrics_listen", "verbosity"]
    assert list(rows("-s", "1")) == [*(item.name for item in fields(ProxySettings)), *command]


def test_values_and_origins() -> None:
    found = rows(
        *("-i", CLIENT, "-v", "5", "-c", "certs", "-k", "--linger", "2.5", "--json"),
        *("-s", "A=1,B=[::1]:2", "--loop", "asyncio"),
        https_proxy="http://u:hunter2@x:1",
    )
    variable = "environment variable AWSIOT_TUNNEL"
    expected = {
        "side": ("source", "command line -s"),
        "host": ("data.tunneling.iot.us-east-1.amazonaws.com", f"{variable}_REGION"),
        "access_token": ("<redacted>", f"{variable}_ACCESS_TOKEN"),
        "client_token": ("<redacted>", "command line -i"),
        "services": ("A=1,B=[::1]:2", "command line -s"),
        "capath": ("certs", "command line -c"),
        "verify_tls": ("false", "command line -k"),
        "web_proxy": ("http://u:<redacted>@x:1", "environment variable https_proxy"),
        "linger": ("2.5", "command line --linger"),
        "max_payload": ("64512", "default"),
        "json_events": ("true", "command line --json"),
        "loop": ("asyncio", "command line --loop"),
        "ready_file": ("", "default"),
        "verbosity": ("5", "command line -v"),
    }
    assert {name: (found[name].value, str(found[name].origin)) for name in expected} == expected


def test_the_allow_list_is_described() -> None:
    found = rows("-d", "22", "--allow", "22,/run/x,db:1")["allowed"]
    assert (found.value, str(found.origin)) == ("22,/run/x,db:1", "command line --allow")


@given(
    st.dictionaries(
        st.sampled_from([o for o in OPTIONS if o.environment and o.name not in READ_FROM_FILES]),
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
    )
)
def test_any_configuration_is_described(given_options: Mapping[Option, str]) -> None:
    environ = GIVEN | {"TAILRACE_SOURCE_LISTEN_PORT": "5555"}
    environ |= {option.environment: text for option, text in given_options.items()}
    found = value_unless_refused(build_settings, [], environ)
    if found is not None:
        assert all(row.value.isprintable() for row in describe(found))
