from __future__ import annotations

import json
import sys
from io import StringIO
from typing import Any

import pytest

from tailrace.operator.processes import Reading
from tailrace.operator.screens import NOTHING_RUNS, screen

RATES = {(4711, "localproxy", 0.0, "0233abcd-1234", "source", "bytes_in"): 1500.0}
BROKEN = Reading(5, "agent", None, "does not answer")


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def shown(
    out: StringIO, *looks: list[Reading], as_json: bool = False, is_live: bool = False
) -> str:
    with screen(out, as_json=as_json, is_live=is_live) as show:
        for readings in looks:
            show(readings, RATES)
    return out.getvalue()


@pytest.fixture
def readings(proxy: dict[str, Any]) -> list[Reading]:
    return [Reading(4711, "localproxy", proxy), BROKEN]


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_plain_text_in_a_pipe(readings: list[Reading]):
    once = shown(StringIO(), readings)
    lines = once.splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("localproxy 4711  1 min 40 s  0233abcd-1234")
    assert lines[3] == "agent 5 does not answer"
    assert shown(StringIO(), readings, readings, is_live=True) == f"{once}\n{once}\n"
    assert shown(StringIO(), [BROKEN]) == "agent 5 does not answer\n"
    assert shown(StringIO(), []) == f"{NOTHING_RUNS}\n"


def test_documents_have_rates(readings: list[Reading], tunnel: dict[str, Any]):
    for each in shown(StringIO(), readings, readings, as_json=True, is_live=True).splitlines():
        proxy, broken = json.loads(each)["processes"]
        assert proxy["tunnels"] == [tunnel | {"rate_in": 1500.0, "rate_out": None}]
        assert broken == {"pid": 5, "kind": "agent", "problem": "does not answer"}
    assert json.loads(shown(Terminal(), [], as_json=True))["processes"] == []


def test_a_table_on_a_terminal(readings: list[Reading], monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("rich")
    text = shown(Terminal(), readings)
    assert "0233abc\u2026" in text
    assert "\x1b[32mconnected\x1b[0m" in text
    assert "agent 5 does not answer" in text
    # What is drawn again takes the place of what was there.
    live = shown(Terminal(), readings, [BROKEN], [], is_live=True)
    assert "\x1b[1A" in live
    assert NOTHING_RUNS in live
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in shown(Terminal(), readings)


def test_plain_text_without_rich(readings: list[Reading], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    assert shown(Terminal(), readings) == shown(StringIO(), readings)
