"""Each message on the page on troubleshooting is one that the program can say."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from support.repository import MODULES, ROOT

PAGE = ROOT / "docs" / "guides" / "troubleshooting.md"

SAID_BY_OTHERS = {
    "self-signed certificate in certificate chain",
    "unable to get local issuer certificate",
    "certificate has expired",
    "certificate is not yet valid",
    "Hostname mismatch",
    "IP address mismatch",
    "wrong version number",
}
"""Words of OpenSSL."""


@cache
def texts() -> str:
    """Return all string literals of the package, one on a line; gaps of f-strings are ``…``."""
    found: list[str] = []
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (
                    each.value if isinstance(each, ast.Constant) else "…" for each in node.values
                )
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[sdg]|\{[^}]*\}|%\.\d[fg]", "…", node.value))
    return "\n".join(found)


def messages(page: str) -> list[str]:
    """Return the messages in the first column of the tables of a page."""
    cells = re.findall(r"^\| ([^|]*`[^|]*) \|", page, re.MULTILINE)
    return [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]


def unknown_parts(message: str) -> list[str]:
    """Return the parts of a message, between gaps, that nothing can say."""
    for words in SAID_BY_OTHERS:
        message = message.replace(words, "…")
    parts = (part.strip(" :;,.()'") for part in message.split("…"))
    return [part for part in parts if part and part not in texts()]


@pytest.mark.parametrize("message", messages(PAGE.read_text()))
def test_the_program_can_say_it(message: str) -> None:
    assert unknown_parts(message) == []


def test_the_rule_can_fail() -> None:
    assert messages("| Message | Cause |\n|---|---|\n| `a …`, `b` | c `d` |\n") == ["a …", "b"]
    assert unknown_parts("cannot resolve …: the moon is full") == ["the moon is full"]
    assert len(messages(PAGE.read_text())) > 50
