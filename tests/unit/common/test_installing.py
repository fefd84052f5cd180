"""Commands that install what is missing."""

from __future__ import annotations

import importlib.util
import json
import sys
import sysconfig
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from support.repository import ROOT
from tailrace.common import installing
from tailrace.common.installing import how_to_install, how_to_install_extra

PIP = f"{sys.executable} -m pip install"


@dataclass
class Distribution:
    record: str | None

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self.record


def not_installed(name: str) -> metadata.Distribution:
    raise metadata.PackageNotFoundError(name)


def test_a_package() -> None:
    assert how_to_install("uvloop") == f"{PIP} uvloop"
    assert how_to_install("a>=1,<2") == f"{PIP} 'a>=1,<2'"


def test_without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert how_to_install("uvloop") == f"uv pip install --python {sys.executable} uvloop"


def test_what_pipx_has_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "venvs" / "tailrace-next"
    home.mkdir(parents=True)
    (home / "pipx_metadata.json").touch()
    monkeypatch.setattr(sys, "prefix", str(home))
    assert how_to_install("uvloop") == "pipx inject tailrace-next uvloop"


@pytest.fixture
def system_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make this Python one that leaves its packages to the system."""
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    (tmp_path / "EXTERNALLY-MANAGED").touch()


def test_a_python_of_the_system_that_takes_packages(system_python: None, tmp_path: Path) -> None:
    (tmp_path / "EXTERNALLY-MANAGED").unlink()
    assert how_to_install("uvloop") == f"{PIP} uvloop"


def test_a_python_that_refuses_pip(system_python: None) -> None:
    reason = "this Python leaves its packages to the system"
    new = f"{sys.executable} -m venv DIR, then DIR/bin/pip install"
    assert how_to_install("uvloop") == f"{new} {ROOT} uvloop: {reason}"
    assert how_to_install_extra("mqtt") == f"{new} '{ROOT}[mqtt]': {reason}"


def test_a_python_that_refuses_pip_and_no_word_of_where_it_came_from(
    system_python: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "distribution", not_installed)
    said = how_to_install("uvloop")
    assert said.startswith(f"in a clone of tailrace: {sys.executable} -m venv DIR, then ")
    assert " install . uvloop:" in said


def test_a_single_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(installing, "single_file", lambda: tmp_path / "tailrace.pyz")
    monkeypatch.setattr(metadata, "distribution", not_installed)
    assert how_to_install_extra("mqtt") == (
        f"in a clone of tailrace: {sys.executable} -m venv DIR, then"
        " DIR/bin/pip install '.[mqtt]': a single file takes no packages"
    )


def test_the_shell_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installing, "os", SimpleNamespace(name="nt"))
    monkeypatch.setattr(sys, "executable", r"C:\Program Files\Python\python.exe")
    assert how_to_install("uvloop").endswith(" -m pip install uvloop")
    assert how_to_install("a>=1") == (r'"C:\Program Files\Python\python.exe" -m pip install "a>=1"')


def test_this_installation() -> None:
    assert how_to_install_extra("mqtt") == f"{PIP} '{ROOT}[mqtt]'"


@pytest.mark.parametrize(
    ("record", "requirement"),
    [
        ({"url": "file:///srv/my%20clone", "dir_info": {}}, "/srv/my clone[mqtt]"),
        (
            {"url": "https://git.example/t.git", "vcs_info": {"vcs": "git", "commit_id": "1"}},
            "tailrace[mqtt] @ git+https://git.example/t.git",
        ),
        (
            {"url": "https://example.org/t.tar.gz", "archive_info": {}},
            "tailrace[mqtt] @ https://example.org/t.tar.gz",
        ),
        ({"url": "file:///srv/t.whl", "archive_info": {}}, "/srv/t.whl[mqtt]"),
    ],
)
def test_where_it_was_installed_from(
    monkeypatch: pytest.MonkeyPatch, record: object, requirement: str
) -> None:
    monkeypatch.setattr(metadata, "distribution", lambda name: Distribution(json.dumps(record)))
    assert how_to_install_extra("mqtt") == f"{PIP} '{requirement}'"


@pytest.mark.parametrize("record", [None, "{}", "[]", "no JSON"])
def test_no_record_of_where_it_was_installed_from(
    monkeypatch: pytest.MonkeyPatch, record: str | None
) -> None:
    monkeypatch.setattr(metadata, "distribution", lambda name: Distribution(record))
    assert how_to_install_extra("mqtt") == f"in a clone of tailrace: {PIP} '.[mqtt]'"


def test_not_installed_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "distribution", not_installed)
    assert how_to_install_extra("mqtt") == f"in a clone of tailrace: {PIP} '.[mqtt]'"
