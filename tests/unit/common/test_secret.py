"""Secret: the text comes out through one door only."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import pickle
import traceback
from collections.abc import Callable

import pytest

from tailrace.common.secret import Secret, is_client_token

TEXT = "AQGAAXiVzSmRL1VaJ22G7eDSxd8wOXCoClbIt"


@pytest.mark.parametrize(
    "show",
    [
        str,
        repr,
        lambda secret: f"{secret}",
        lambda secret: f"{secret!r:>40}",
        lambda secret: "%s %r" % (secret, secret),  # noqa: UP031 - what logging does
        lambda secret: repr([secret, {"token": secret}, (secret,)]),
    ],
)
def test_no_formatting_shows_the_text(show: Callable[[object], str]) -> None:
    assert TEXT not in show(Secret(TEXT))
    assert "<redacted>" in show(Secret(TEXT))


def test_logging_does_not_show_the_text(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("tailrace.test").warning("token %s of %r", Secret(TEXT), {"t": Secret(TEXT)})
    assert caplog.messages == ["token <redacted> of {'t': <redacted>}"]


def test_a_traceback_with_locals_does_not_show_the_text() -> None:
    secret = Secret(TEXT)
    try:
        raise ValueError(secret)
    except ValueError as error:
        shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    text = "".join(shown.format())
    assert "secret = <redacted>" in text
    assert "ValueError: <redacted>" in text
    assert TEXT not in text


@pytest.mark.parametrize(
    "leave", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps, vars, bytes, list]
)
def test_there_is_no_other_way_out(leave: Callable[[object], object]) -> None:
    with pytest.raises(TypeError):
        leave(Secret(TEXT))


def test_nothing_can_be_added_to_a_secret() -> None:
    with pytest.raises(AttributeError):
        Secret(TEXT).plain = TEXT  # an attribute would show in vars()


def test_reveal_returns_the_text() -> None:
    assert Secret(TEXT).reveal() == TEXT


def test_digest_is_sha256_in_hex() -> None:
    assert Secret("Zürich").digest == hashlib.sha256("Zürich".encode()).hexdigest()


def test_equality_is_that_of_the_text() -> None:
    assert Secret(TEXT) == Secret(TEXT)
    assert Secret(TEXT) != Secret(TEXT + "x")
    assert Secret("é") == Secret("\xe9")
    assert Secret(TEXT) != TEXT
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


def test_an_empty_secret_is_false() -> None:
    assert not Secret("")
    assert Secret("x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a" * 31, False),
        ("a" * 32, True),
        ("aZ09-" * 8, True),
        ("a" * 128, True),
        ("a" * 129, False),
        ("_" * 32, False),
        ("\u0661" * 32, False),
        ("a" * 32 + "\n", False),
    ],
)
def test_client_tokens_that_aws_accepts(text: str, expected: bool) -> None:
    assert is_client_token(text) is expected
