"""What the documents promise is what the code does."""

from __future__ import annotations

import re
from dataclasses import asdict

import pytest

from support.documents import PAGES
from support.repository import ROOT, SOURCE
from tailrace.service.limits import AWS, DEFAULT


def limits(text: str) -> dict[str, tuple[float, float]]:
    """Return limit -> figures of both presets of the table of limits."""
    rows = re.findall(
        r"^\| `--max-([a-z-]+) [A-Z]+`[^|]*\| ([\d,]+)[^|]*\| ([\d,]+)[^|]*\|", text, re.MULTILINE
    )
    return {
        name.replace("-", "_"): (float(default.replace(",", "")), float(aws.replace(",", "")))
        for name, default, aws in rows
    }


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
    assert missing_files((ROOT / "docs" / "internals" / "architecture.md").read_text()) == []
    assert missing_files("`wire/codec.py` and `wire/nothing.py`") == ["wire/nothing.py"]


INSTALLING = sorted(
    [
        *PAGES,
        *(path for path in (ROOT / "packaging").rglob("*") if path.is_file()),
        *SOURCE.rglob("*.py"),
    ]
)


@pytest.mark.parametrize("path", INSTALLING, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_installed_from_an_index(path) -> None:
    assert from_an_index(path.read_text()) == []
    assert "pypi.org/project/tailrace" not in path.read_text()


GUIDES = sorted([*PAGES, *(ROOT / "examples").glob("*.*")])


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


def test_limits() -> None:
    default, aws = asdict(DEFAULT), asdict(AWS)
    assert limits((ROOT / "docs" / "reference" / "service.md").read_text()) == {
        name: (default[name], aws[name]) for name in default
    }


def test_the_rules_can_fail() -> None:
    assert limits("| `--max-a-b N` each | 1,000 | 0 (none) | no |") == {"a_b": (1000.0, 0.0)}


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
        "docs",
        "docs-links",
        "docs-recording",
    ],
)
def test_targets_of_the_makefile_are_documented(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert f'"make {target} ' in makefile
