"""The pages of the documentation, and the blocks of code in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .repository import ROOT

__all__ = ["PAGES", "Block", "blocks", "commands", "inline_commands", "section"]

FOLDERS = ("docs", "bench", "examples")
_FOUND = [*ROOT.glob("*.md"), *(path for name in FOLDERS for path in (ROOT / name).rglob("*.md"))]
# Of the benchmark's results, only those that are published belong to the repository.
PAGES = sorted(page for page in _FOUND if page.parent.name != "results" or page.stem == "latest")

_FENCE = re.compile(r"^( *)```([\w{}-]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_PROMPT = re.compile(r"^(?:[\w.-]*)\$ ", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code, and where it stands."""

    page: Path
    line: int
    language: str
    text: str
    paragraph: str
    """What stands above it."""

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_transcript(self) -> bool:
        """Whether it shows commands behind a prompt, with what they print."""
        return _PROMPT.search(self.text) is not None


def blocks(page: Path, text: str | None = None) -> Iterator[Block]:
    """Yield the blocks of a page, or of a part of its text."""
    whole = page.read_text(encoding="utf-8") if text is None else text
    for found in _FENCE.finditer(whole):
        indent, language, body = found.groups()
        body = "".join(line.removeprefix(indent) for line in body.splitlines(keepends=True))
        paragraph = whole[: found.start()].strip().rpartition("\n\n")[2]
        line = whole.count("\n", 0, found.start()) + 1
        yield Block(page, line, language, body, paragraph)


def section(page: Path, heading: str) -> str:
    """Return a section of a page, without those of the headings behind it."""
    parts = re.split(r"^#+ ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (text,) = (part for part in parts if part.startswith(f"{heading}\n"))
    return text


def commands(text: str) -> str:
    """Return the script of a block of commands; of a transcript, only what was typed."""
    if _PROMPT.search(text) is None:
        return text
    script: list[str] = []
    goes_on = False
    for line in text.splitlines():
        prompt = _PROMPT.match(line)
        if prompt or goes_on:
            script.append(line[prompt.end() :] if prompt else line)
            goes_on = line.endswith("\\")
    return "\n".join(script) + "\n"


def inline_commands(page: Path) -> Iterator[str]:
    """Yield the commands of this package that stand in the sentences of a page."""
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose.replace("\n", " ")):
        if re.match(r"(?:tailrace|localproxy) \S", span):
            yield span.replace("\\|", "|")
