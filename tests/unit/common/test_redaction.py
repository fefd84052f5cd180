"""Secrets are taken out of texts and of every record."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from contextlib import redirect_stderr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.cli.localproxy.log_format import (
    MAX_VERBOSITY,
    TRACE,
    ConsoleFormatter,
    set_up_logging,
)
from tailrace.common.redaction import (
    Redaction,
    RedactionFilter,
    is_unmistakable,
    register_secrets,
)
from tailrace.common.secret import Secret

LINE = re.compile(
    r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}\] \(0x[0-9a-f]{16}\)"
    r" \[(trace|debug|info|warning|error|fatal)\] (.*)"
)
LEVELS = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}
TOKEN = "AQGAAXlKn0Tqd8Vn3Cn4Zf2bPzAAQABAAdU"
CLIENT_TOKEN = "11111111-2222-3333-4444-555555555555"

logger = logging.getLogger("tailrace.test")


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    """Standard error of a process whose log is set up."""
    root, package = logging.getLogger(), logging.getLogger("tailrace")
    before = (list(root.handlers), root.level, package.level)
    stream = io.StringIO()
    with redirect_stderr(stream):
        set_up_logging(MAX_VERBOSITY)
    yield stream
    root.handlers[:], root_level, package_level = before
    root.setLevel(root_level)
    package.setLevel(package_level)


def record(message: str, *args: object, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("tailrace", level, __file__, 1, message, args, None)


def test_a_text_is_redacted() -> None:
    redaction = Redaction()
    assert not redaction
    assert redaction.redact(TOKEN) == TOKEN
    redaction.add(Secret(TOKEN), Secret(CLIENT_TOKEN))
    redaction.add(Secret("another-one-of-19-x"))
    assert redaction
    assert redaction.redact(f"{TOKEN}, {CLIENT_TOKEN}, another-one-of-19-x, client") == (
        "<redacted>, <redacted>, <redacted>, client"
    )


@pytest.mark.parametrize(
    ("text", "unmistakable"),
    [
        (TOKEN, True),
        (CLIENT_TOKEN, True),
        ("c" * 32, True),
        ("eyJ0b2tlbiI6IDF9", True),
        ("0123456789abcdef", True),
        ("0123456789abcde", False),
        ("misconfiguration", False),
        ("correcthorsebatterystaple", False),
        ("Web socket close received. Code: 1000", False),
        ("proxy", False),
        ("no", False),
        ("1", False),
        ("", False),
    ],
)
def test_what_can_only_be_a_secret(text: str, unmistakable: bool) -> None:
    assert is_unmistakable(text) is unmistakable
    redaction = Redaction()
    redaction.add(Secret(text))
    assert bool(redaction) is unmistakable


def test_a_filter_without_secrets_leaves_a_record_alone() -> None:
    made = record("%s", "x")
    assert RedactionFilter().filter(made)
    assert (made.msg, made.args) == ("%s", ("x",))


def test_any_handler_can_have_the_filter() -> None:
    root = logging.getLogger()
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(RedactionFilter())
    root.addHandler(handler)
    try:
        register_secrets(Secret(TOKEN))
        logger.warning("x %s", TOKEN)
    finally:
        root.removeHandler(handler)
    assert stream.getvalue() == "x <redacted>\n"


@pytest.mark.parametrize("severity", LEVELS)
def test_secrets_are_taken_out_at_every_level(out: io.StringIO, severity: str) -> None:
    register_secrets(Secret(TOKEN), Secret(CLIENT_TOKEN))
    logger.log(LEVELS[severity], "access-token: %s, %r", TOKEN, f"x{TOKEN}x")
    logger.log(LEVELS[severity], f"{TOKEN} {CLIENT_TOKEN}")
    logger.log(LEVELS[severity], "%(a)s", {"a": TOKEN})
    text = out.getvalue()
    assert TOKEN not in text
    assert text.count("<redacted>") == 5


def test_secrets_are_taken_out_of_tracebacks(out: io.StringIO) -> None:
    register_secrets(Secret(TOKEN))
    try:
        raise ValueError(f"bad header: {TOKEN}")
    except ValueError:
        logger.exception("failed with %s", TOKEN, stack_info=True)
    text = out.getvalue()
    assert TOKEN not in text
    assert "ValueError: bad header: <redacted>" in text
    assert "Stack (most recent call last)" in text


def test_a_traceback_another_handler_has_formatted_is_redacted_too() -> None:
    redacting = RedactionFilter()
    redacting.redaction.add(Secret(TOKEN))
    made = record("x")
    made.exc_text = made.stack_info = f"in {TOKEN}"
    assert redacting.filter(made)
    assert (made.exc_text, made.stack_info) == ("in <redacted>", "in <redacted>")


def test_escaped_forms_are_taken_out(out: io.StringIO) -> None:
    secret = "it's\\a'quoted'\u00e9one"
    register_secrets(Secret(secret))
    logger.info("%s %r %a", secret, secret, secret)
    assert out.getvalue().count("<redacted>") == 3


def test_the_longest_secret_goes_first(out: io.StringIO) -> None:
    register_secrets(Secret(TOKEN[:20]), Secret(TOKEN), Secret(""))
    logger.info("%s", TOKEN)
    assert out.getvalue().endswith("[info] <redacted>\n")


@pytest.mark.parametrize("word", ["on", "new", "connection", "Listening", "1", "for new"])
def test_the_programs_own_words_stay(out: io.StringIO, word: str) -> None:
    register_secrets(Secret(word))
    logger.info("Listening for new %s on port %d", "connection", 1)
    assert out.getvalue().endswith("Listening for new connection on port 1\n")


@given(
    st.text(min_size=16, alphabet=st.characters(min_codepoint=33, max_codepoint=126)).filter(
        is_unmistakable
    ),
    st.text(),
)
def test_no_registered_secret_ever_passes(secret: str, around: str) -> None:
    redacting = RedactionFilter()
    redacting.redaction.add(Secret(secret))
    made = record("%s%s%s", around, secret, around)
    redacting.filter(made)
    assert secret not in ConsoleFormatter().format(made).replace("<redacted>", "\0")


def test_registering_without_a_log_does_nothing() -> None:
    register_secrets(Secret(TOKEN))
