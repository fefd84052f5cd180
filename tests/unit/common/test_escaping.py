"""What reaches a log is printable."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.common.escaping import escape, escape_lines, printable


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a\r\nb\t", "a\\r\\nb\\t"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x7f\x9b31m", "\\x7f\\x9b31m"),
        ("\u202e\u2028\U000e0001", "\\u202e\\u2028\\U000e0001"),
        ("\udcff", "\\udcff"),
        ("gr\u00fc\u00df '\"\\", "gr\u00fc\u00df '\"\\"),
        ("", ""),
    ],
)
def test_what_cannot_be_printed_is_escaped(text: str, escaped: str) -> None:
    assert escape(text) == escaped


@given(st.text())
def test_the_result_is_printable(text: str) -> None:
    assert escape(text).isprintable()
    assert escape(escape(text)) == escape(text)


@given(st.text())
def test_lines_stay_lines_and_are_indented(text: str) -> None:
    lines = escape_lines(text).split("\n")
    assert len(lines) == text.count("\n") + 1
    assert all(line.startswith("  ") and line.isprintable() for line in lines)


@given(st.text())
def test_what_is_as_long_as_it_was(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    pairs = zip(text, shown, strict=True)
    assert all(b == (a if a.isprintable() else "?") for a, b in pairs)
