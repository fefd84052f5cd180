"""Log lines for programs."""

import json
import logging
import sys
from typing import Any

import pytest

from tailrace.service.telemetry.json_log import JsonFormatter


def formatted(message: str, *args: object, **more: Any) -> dict[str, Any]:
    record = logging.LogRecord("tailrace.x", logging.WARNING, "f", 1, message, args, None)
    vars(record).update(more)
    line = JsonFormatter().format(record)
    assert "\n" not in line
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
