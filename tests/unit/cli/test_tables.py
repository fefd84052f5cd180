"""Tables and JSON."""

import argparse
import sys

import pytest

from tailrace.cli.tables import add_json_option, print_json, print_lines, print_table, wants_json

ROWS = [("a", "bb", "x" * 100), ("aaa", "b", "short")]


def test_columns_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_table((), [("a", "", "b"), ("aaa", "", "c\x1b[31m\n")])
    assert capsys.readouterr().out == "a      b\naaa    c?[31m?\n"


def test_the_last_column_ends_with_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    print_table(("A", "B", "TEXT"), ROWS)
    head, first, second = capsys.readouterr().out.splitlines()
    assert head == "A    B   TEXT"
    assert first == "a    bb  " + "x" * 30 + "…"
    assert second == "aaa  b   short"
    monkeypatch.setenv("COLUMNS", "5")
    print_table(("A", "B", "TEXT"), ROWS)
    assert capsys.readouterr().out.splitlines()[1] == "a    bb  " + "x" * 11 + "…"
    # What has no headings is there to be read as a whole.
    print_table((), ROWS)
    assert "x" * 100 in capsys.readouterr().out


def test_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parser = argparse.ArgumentParser()
    add_json_option(parser)
    print_json({"a": "ü"})
    assert capsys.readouterr().out == '{\n  "a": "ü"\n}\n'
    assert wants_json(parser.parse_args([]))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert not wants_json(parser.parse_args([]))
    assert wants_json(parser.parse_args(["--json"]))


def test_lines_control_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines(["a\x1b]0;b\a", ""])
    assert capsys.readouterr().out == "a?]0;b?\n\n"
