"""Credentials: from the variables every AWS tool reads, and never in sight."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.aws import Credentials
from tailrace.common.secret import Secret
from tailrace.errors import ConfigurationError

FULL = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "hidden/key+1="}


def test_from_the_environment() -> None:
    found = Credentials.from_environment({**FULL, "HOME": "/"})
    assert found == Credentials("AKIDEXAMPLE", Secret("hidden/key+1="))
    assert found.session_token is None


def test_temporary_ones() -> None:
    found = Credentials.from_environment({**FULL, "AWS_SESSION_TOKEN": "a+b/c=="})
    assert found.session_token == Secret("a+b/c==")


def test_an_empty_session_token_is_none() -> None:
    assert Credentials.from_environment({**FULL, "AWS_SESSION_TOKEN": ""}).session_token is None


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("how", ["missing", "empty"])
def test_what_is_missing_is_named(name: str, how: str) -> None:
    environment = {key: value for key, value in FULL.items() if key != name}
    if how == "empty":
        environment[name] = ""
    with pytest.raises(ConfigurationError) as caught:
        Credentials.from_environment(environment)
    assert str(caught.value) == (f"no credentials: set {name}, or use the output of tailrace env")


NAMES = {
    "AWS_ACCESS_KEY_ID": "access key id",
    "AWS_SECRET_ACCESS_KEY": "secret access key",
    "AWS_SESSION_TOKEN": "session token",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "text", ["line\n", "a b", "\u00fcber", "tab\t", "\udcff", "\x7f", "x\r\ny: z"]
)
def test_what_cannot_be_sent_is_refused_and_not_shown(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Credentials.from_environment({**FULL, name: text})
    assert str(caught.value).startswith(f"the {NAMES[name]} is empty or holds a blank")
    assert text.strip() not in str(caught.value).replace("a blank", "")


def test_no_part_may_be_empty() -> None:
    with pytest.raises(ConfigurationError, match="secret access key"):
        Credentials("AKID", Secret(""))


@given(secret=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=8))
def test_secrets_are_not_shown(secret: str) -> None:
    found = Credentials("AKIDEXAMPLE", Secret(secret), Secret(secret))
    assert repr(found) == (
        "Credentials(access_key_id='AKIDEXAMPLE', secret_access_key=<redacted>,"
        " session_token=<redacted>)"
    )
