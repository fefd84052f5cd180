"""Patterns as the service model writes them."""

import pytest

from tailrace.service.api.shapes import Pattern


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("[a-zA-Z0-9:_-]+", ["a", "a:b_c-9", "Z" * 500], ["", "a b", "caf\u00e9", "a\n", "a/b"]),
        (r"[a-zA-Z0-9_\-+=:]{1,128}", ["a+b=c:-", "x" * 128], ["", "x" * 129, "a,b"]),
        ("[a-zA-Z0-9_=-]{1,4096}", ["abc=", "-"], ["", "a+b", "\u0661"]),
        (
            r"[^\p{C}]{1,2048}",
            ["caf\u00e9 \U0001f600 [x]\\ -", "\u2028", "\u00a0"],
            ["", "tab\t", "\u200b", "\x7f", "\ue000", "\U000e0001", "x" * 2049, "\u0378"],
        ),
        (
            r"^([\p{L}\p{Z}\p{N}_.:/=+\-@]*)$",
            ["", "\u540d\u524d", "a b", "1\u00bd\u2167", "a.b:c/d=e+f-g@h_i", "\u00a0"],
            ["a\n", "#", "\u20ac", "e\u0301", "\\", "^", "(", "a*"],
        ),
    ],
)
def test_patterns(pattern: str, good: list[str], bad: list[str]) -> None:
    compiled = Pattern(pattern)
    assert [value for value in good if not compiled.matches(value)] == []
    assert [value for value in bad if compiled.matches(value)] == []


@pytest.mark.parametrize("pattern", ["abc", "[a]", "[a]+[b]+", "(a|b)"])
def test_patterns_of_another_form_are_not_guessed_at(pattern: str) -> None:
    with pytest.raises(ValueError, match="repeated character class"):
        Pattern(pattern).matches("[a]+[b")
