"""Log lines for people and for programs."""

import json
import logging
import sys
from typing import Any

import pytest

from tailrace.service.telemetry.log_format import JsonFormatter, TextFormatter


def formatted(message: str, *args: object, **more: Any) -> dict[str, Any]:
    record = logging.LogRecord("tailrace.x", logging.WARNING, "f", 1, message, args, None)
    vars(record).update(more)
    line = JsonFormatter().format(record)
    assert line.isascii()
    assert line.isprintable()
    document: dict[str, Any] = json.loads(line)
    return document


@pytest.mark.parametrize("subject", ["channel", "request", "tunnel"])
def test_what_a_line_is_about_has_its_own_field(subject: str) -> None:
    document = formatted(f"{subject} %s: it is %d\nwide", "a1", 7, created=1.5)
    assert document == {
        "time": "1970-01-01T00:00:01.500Z",
        "level": "warning",
        "logger": "tailrace.x",
        subject: "a1",
        "message": "it is 7\nwide",
    }


def test_other_lines() -> None:
    document = formatted("service is ready: api %s", "x")
    assert document["message"] == "service is ready: api x"
    assert not document.keys() & {"channel", "request", "tunnel", "exception"}


def test_exceptions() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        document = formatted("oops", exc_info=sys.exc_info())
    assert "ValueError: broken" in document["exception"]


HOSTILE = "a\r\nb \x1b]0;x\x07 \x7f\x9b31m \u2028 \u202e \udcff"
ESCAPED = r"a\r\nb \x1b]0;x\x07 \x7f\x9b31m \u2028 \u202e \udcff"


def test_nothing_in_json_steers_a_terminal() -> None:
    assert formatted(f"tunnel %s: {HOSTILE}", "a1")["message"] == HOSTILE


def test_nothing_in_text_steers_a_terminal() -> None:
    record = logging.LogRecord("x\n", logging.INFO, "f", 1, "gr\u00fc\u00df %s", (HOSTILE,), None)
    record.created = record.msecs = 0
    line = TextFormatter().format(record)
    assert line.endswith(rf",000 INFO x\n: grüß {ESCAPED}")


def test_lines_of_a_traceback_are_escaped_and_indented() -> None:
    try:
        raise ValueError(f"{HOSTILE}\n2026-01-01 forged")
    except ValueError:
        record = logging.LogRecord("x", logging.INFO, "f", 1, "oops", (), sys.exc_info())
    record.stack_info = "stack\x1b"
    first, *lines = TextFormatter().format(record).split("\n")
    assert first.endswith("INFO x: oops")
    assert all(line.startswith("  ") and line.isprintable() for line in lines)
    assert lines[0] == "  Traceback (most recent call last):"
    assert lines[-2:] == ["  2026-01-01 forged", r"  stack\x1b"]
