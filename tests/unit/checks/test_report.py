"""Results as people see them, on a terminal and in a pipe, and as programs read them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import pytest

from tailrace.checks.findings import (
    CheckResult,
    failed,
    ok,
    skipped,
    warning,
)
from tailrace.checks.report import JsonReport, TextReport, failure_text

RESULTS = [
    CheckResult("clock", ok("12:00 UTC")),
    CheckResult("proxy", skipped("none")),
    CheckResult("TLS", warning("good until tomorrow", "renew it\x1b[2J")),
    CheckResult("client id", failed("closed before CONNACK", "attach a policy", '{\n  "a": 1\n}')),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(report: TextReport | JsonReport, stream: io.StringIO) -> str:
    for each in RESULTS:
        report.begin(each.name)
        report.add(each)
    report.end()
    return stream.getvalue()


def test_a_pipe_gets_plain_lines() -> None:
    stream = io.StringIO()
    assert shown(TextReport(stream, 9), stream) == (
        "ok    clock      12:00 UTC\n"
        "skip  proxy      none\n"
        "warn  TLS        good until tomorrow\n"
        "                 -> renew it\\x1b[2J\n"
        "FAIL  client id  closed before CONNACK\n"
        "                 -> attach a policy\n"
        "                    {\n"
        '                      "a": 1\n'
        "                    }\n"
    )


def test_a_terminal_shows_what_is_being_checked() -> None:
    stream = Terminal()
    lines = shown(TextReport(stream, 9), stream).split("\n")
    assert lines[0] == "...   clock\r\x1b[Kok    clock      12:00 UTC"
    assert lines[-1] == ""


def test_programs_get_one_document() -> None:
    stream = io.StringIO()
    document = json.loads(shown(JsonReport(stream), stream))
    assert document["ok"] is False
    assert document["checks"][0] == {"name": "clock", "verdict": "ok", "figure": "12:00 UTC"}
    assert document["checks"][3] == {
        "name": "client id",
        "verdict": "failed",
        "figure": "closed before CONNACK",
        "fix": "attach a policy",
        "example": '{\n  "a": 1\n}',
    }


def test_programs_are_told_that_all_is_well() -> None:
    stream = io.StringIO()
    report = JsonReport(stream)
    report.add(RESULTS[2])
    report.end()
    assert json.loads(stream.getvalue())["ok"] is True


def test_failures_are_counted() -> None:
    assert failure_text(RESULTS) == "1 of 4 checks failed, 1 skipped"
    assert failure_text(RESULTS[3:]) == "1 of 1 checks failed"
    assert failure_text(RESULTS[:3]) == ""


@pytest.mark.parametrize("kind", [JsonReport, lambda stream: TextReport(stream, 4)])
def test_what_a_server_says_is_bounded(
    kind: Callable[[io.StringIO], JsonReport | TextReport],
) -> None:
    stream = io.StringIO()
    report = kind(stream)
    report.add(CheckResult("long", failed("x" * 1_000_000)))
    report.end()
    assert "xxx..." in stream.getvalue()
    assert len(stream.getvalue()) < 3000
