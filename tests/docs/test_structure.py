"""Each page of the site is found, and each link leads somewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support.documents import PAGES, blocks
from support.repository import ROOT, SOURCE

FIRST = ROOT / "docs" / "index.md"
SITE = [
    page
    for page in PAGES
    if page.is_relative_to(ROOT / "docs") or page.name != "README.md" or page.parent != ROOT
]
CLICKS = 3


def prose(text: str) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def targets(text: str) -> list[str]:
    """Return what a page links to, and the pictures that it shows."""
    return re.findall(r"\]\(([^)\s]+)\)|<(https?://[^>\s]+)>", prose(text))


def links(text: str) -> list[str]:
    return [inline or plain for inline, plain in targets(text)]


def anchors(text: str) -> set[str]:
    """Return the anchors that forges, and myst, give to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def dead_links(page: Path, text: str, read: Callable[[Path], str] = Path.read_text) -> list[str]:
    """Return the links of a page to files, or headings in pages, that do not exist."""
    dead = []
    for link in links(text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page if not path else (page.parent / path).resolve()
        if not target.exists() or (anchor and anchor not in anchors(read(target))):
            dead.append(link)
    return dead


def odd_addresses(text: str) -> list[str]:
    """Return the external links of a page that are no addresses of web pages."""
    found = []
    for link in links(text):
        parts = urlsplit(link)
        if "://" in link and not (
            parts.scheme == "https" and re.fullmatch(r"[\w.-]+\.\w+", parts.netloc)
        ):
            found.append(link)
    return [link for link in found if not link.startswith("http://127.0.0.1")]


def next_pages(page: Path) -> set[Path]:
    """Return the pages one click away: links, and the contents beside each page."""
    text = page.read_text()
    linked = {link.partition("#")[0] for link in links(text) if "://" not in link}
    for block in blocks(page):
        if block.language == "{toctree}":
            names = (line.strip() for line in block.text.splitlines())
            linked |= {f"{name}.md" for name in names if name and not name.startswith(":")}
    return {(page.parent / link).resolve() for link in linked if link.endswith(".md")}


def reachable(first: Path, clicks: int, follow: Callable[[Path], Iterable[Path]]) -> set[Path]:
    """Return the pages that so many clicks reach."""
    found = edge = {first}
    for _ in range(clicks):
        edge = {target for page in edge for target in follow(page)} - found
        found = found | edge
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    assert dead_links(page, text) == []
    assert odd_addresses(text) == []


def test_every_page_is_three_clicks_away_at_most() -> None:
    assert set(SITE) - reachable(FIRST, CLICKS, next_pages) == set()
    assert len(SITE) > 40


def test_the_readme_leads_to_the_first_page() -> None:
    assert FIRST in next_pages(ROOT / "README.md")


def test_the_contents_name_each_page_once() -> None:
    listed = [
        (FIRST.parent / f"{line}.md").resolve()
        for block in blocks(FIRST)
        if block.language == "{toctree}"
        for line in block.text.splitlines()
        if line and not line.startswith(":")
    ]
    assert len(listed) == len(set(listed))
    assert set(SITE) - set(listed) == {FIRST}


def test_the_rules_can_fail() -> None:
    page = ROOT / "docs" / "index.md"
    assert dead_links(page, "[a](index.md) [b](none.md)\n```x\n[c](c.md)\n```\n") == ["none.md"]
    assert dead_links(page, "[a](#a-b) [b](#b)\n# A, B\n") == ["#a-b", "#b"]
    assert dead_links(page, "[a](index.md#x)", lambda path: "# X") == []
    assert odd_addresses("[a](http://a.b) [c](https://c.example/d) <https://e>") == [
        "http://a.b",
        "https://e",
    ]
    graph = {Path("a"): [Path("b")], Path("b"): [Path("c")], Path("c"): []}
    assert reachable(Path("a"), 1, lambda page: graph[page]) == {Path("a"), Path("b")}
    assert len(reachable(Path("a"), 2, lambda page: graph[page])) == 3


def missing_places(text: str) -> list[str]:
    """Return what tables of a page name as files or folders, and nobody has."""
    rows = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    named = re.findall(r"`((?:[\w.-]+/)*[\w.-]+)`", rows)
    places = [each for each in named if "/" in each or each.endswith(".py")]
    homes = (ROOT, SOURCE)
    return [each for each in places if not any((home / each).exists() for home in homes)]


def test_places_to_change_exist() -> None:
    page = ROOT / "docs" / "internals" / "changing.md"
    assert missing_places(page.read_text()) == []
    assert missing_places("| `wire/codec.py` | `wire/no.py`, `tests/none` |") == [
        "wire/no.py",
        "tests/none",
    ]


def test_the_readme_counts_the_scenarios() -> None:
    (said,) = re.findall(r"\[(\d+) numbered scenarios\]", (ROOT / "README.md").read_text())
    titles = (ROOT / "tests" / "conformance" / "titles.py").read_text()
    table = titles.partition("TITLES: Final = {")[2].partition("\n}")[0]
    assert int(said) == len(re.findall(r'^    "[SBRL][\w-]+":', table, re.MULTILINE))
