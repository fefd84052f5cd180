"""What the documents promise is what the code does."""

from __future__ import annotations

import re
from dataclasses import asdict

import pytest

from support.repository import ROOT, SOURCE
from tailrace.cli.exit_codes import ExitCode
from tailrace.service.limits import AWS, DEFAULT

FOLDERS = ("docs", "bench", "examples")
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(path for name in FOLDERS for path in (ROOT / name).rglob("*.md"))]
)


def exit_codes(text: str) -> dict[int, str]:
    """Return code -> meaning of the table of exit codes in a document."""
    return {
        int(code): meaning
        for code, meaning in re.findall(r"^\| (\d+) \| ([^|]+?) \|", text, re.MULTILINE)
    }


def broken_links(text: str, exists) -> list[str]:
    """Return the relative link targets of a document that do not exist."""
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    return [target for target in targets if "://" not in target and not exists(target)]


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a document."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def broken_anchors(text: str, read) -> list[str]:
    """Return the links into documents that have no such heading; ``read("")`` is this one."""
    targets = re.findall(r"\]\(((?:[^):#]+\.md)?)#([^)]+)\)", text)
    return [f"{page}#{anchor}" for page, anchor in targets if anchor not in anchors(read(page))]


def limits(text: str) -> dict[str, tuple[float, float]]:
    """Return limit -> figures of both presets of the table of limits."""
    rows = re.findall(
        r"^\| `--max-([a-z-]+) [A-Z]+`[^|]*\| ([\d,]+)[^|]*\| ([\d,]+)[^|]*\|", text, re.MULTILINE
    )
    return {
        name.replace("-", "_"): (float(default.replace(",", "")), float(aws.replace(",", "")))
        for name, default, aws in rows
    }


def unlinked(text: str, pages) -> list[str]:
    """Return the pages that an index does not link."""
    linked = set(re.findall(r"\]\(([^)#]+)", text))
    return sorted(set(pages) - linked)


def from_an_index(text: str) -> list[str]:
    """Return the commands that install this package from an index, which has none of that name."""
    return re.findall(
        r"""(?:pip|pipx|uv tool) install[^\n]*?["' ]tailrace(?!\[[a-z,]*\] @|\w)""", text
    )


def into_the_system(text: str) -> list[str]:
    """Return the commands that install with the system's pip, which many systems refuse."""
    return re.findall(r"(?<!/bin/)(?<!uv )(?<!DIR/)\b(?:python3? -m )?pip install\b.*", text)


def missing_files(text: str) -> list[str]:
    """Return the Python files a document names that are neither in the package nor beside it."""
    named = sorted(set(re.findall(r"`([a-z_]+(?:/[a-z_]+)+\.py)`", text)))
    return [name for name in named if not any((at / name).is_file() for at in (SOURCE, ROOT))]


def test_files_that_the_architecture_names_exist() -> None:
    assert missing_files((ROOT / "docs" / "architecture.md").read_text()) == []
    assert missing_files("`wire/codec.py` and `wire/nothing.py`") == ["wire/nothing.py"]


def test_the_index_has_every_page() -> None:
    pages = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    index = (ROOT / "docs" / "README.md").read_text()
    assert unlinked(index, set(pages) - {"README.md"}) == []
    assert "docs/README.md" in (ROOT / "README.md").read_text()
    assert unlinked("[a](b.md#c)", ["b.md", "d.md"]) == ["d.md"]


INSTALLING = sorted(
    [
        *DOCUMENTS,
        *(path for path in (ROOT / "packaging").rglob("*") if path.is_file()),
        *SOURCE.rglob("*.py"),
    ]
)


@pytest.mark.parametrize("path", INSTALLING, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_installed_from_an_index(path) -> None:
    assert from_an_index(path.read_text()) == []
    assert "pypi.org/project/tailrace" not in path.read_text()


GUIDES = sorted([*DOCUMENTS, *(ROOT / "examples").glob("*.*")])


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_installed_into_the_system(path) -> None:
    assert into_the_system(path.read_text()) == []


def test_the_rule_of_the_system_can_fail() -> None:
    assert into_the_system("pip install x\nsudo pip install y\npython3 -m pip install z") == [
        "pip install x",
        "pip install y",
        "python3 -m pip install z",
    ]
    assert into_the_system("~/v/bin/pip install x\nuv pip install y\npipx install z") == []


@pytest.mark.parametrize(
    ("command", "is_wrong"),
    [
        ("pip install tailrace", True),
        ("pip install 'tailrace[service]'", True),
        ("pipx install tailrace", True),
        ("python -m pip install -q tailrace", True),
        ("pip install '.[service]'", False),
        ("pip install 'tailrace[service] @ git+https://HOST/PATH.git'", False),
        ("pip install uvloop\ntailrace serve", False),
    ],
)
def test_the_rule_of_indexes_can_fail(command: str, is_wrong: bool) -> None:
    assert bool(from_an_index(command)) is is_wrong


def test_exit_codes() -> None:
    readme = exit_codes((ROOT / "README.md").read_text())
    assert set(readme) == set(ExitCode)
    assert exit_codes((ROOT / "docs" / "exit-codes.md").read_text()) == readme


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document) -> None:
    text = document.read_text()
    assert broken_links(text, lambda t: (document.parent / t).exists()) == []
    assert broken_anchors(text, lambda t: (document.parent / t).read_text() if t else text) == []


def test_limits() -> None:
    default, aws = asdict(DEFAULT), asdict(AWS)
    assert limits((ROOT / "docs" / "service.md").read_text()) == {
        name: (default[name], aws[name]) for name in default
    }


def test_the_rules_can_fail() -> None:
    assert broken_links("[a](b.md) [c](https://d) [e](f.md#g)", lambda t: t == "b.md") == ["f.md"]
    linking = "[a](#a-b) [c](d.md#a-b) [e](#f) [g](d.md#h) [i](https://j#k)"
    assert broken_anchors(linking, {"": "# A, B", "d.md": "```\n# H\n```\n## a b"}.get) == [
        "#f",
        "d.md#h",
    ]
    assert limits("| `--max-a-b N` each | 1,000 | 0 (none) | no |") == {"a_b": (1000.0, 0.0)}
    assert exit_codes("| Code | Meaning |\n|---|---|\n| 3 | no | x |\n") == {3: "no"}


@pytest.mark.parametrize(
    "target",
    [
        "setup",
        "demo",
        "test",
        "conformance",
        "check",
        "audit",
        "package",
        "zipapp",
        "deb",
        "release",
        "test-version",
        "cover",
        "bench",
        "fuzz",
        "soak",
        "soak-survival",
        "soak-agent",
        "apt",
        "apt-bench",
        "clean",
    ],
)
def test_targets_of_the_makefile_are_documented(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert f'"make {target} ' in makefile
