"""Commands that install what is missing."""

from __future__ import annotations

import importlib.util
import json
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

from support.repository import ROOT
from tailrace.common.installing import how_to_install, how_to_install_extra

PIP = f"{sys.executable} -m pip install"


def test_a_package() -> None:
    assert how_to_install("uvloop") == f"{PIP} uvloop"
    assert how_to_install("a>=1,<2") == f"{PIP} 'a>=1,<2'"


def test_without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert how_to_install("uvloop") == f"uv pip install --python {sys.executable} uvloop"


def test_what_pipx_has_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/home/me/.local/share/pipx/venvs/tailrace")
    assert how_to_install("uvloop") == "pipx inject tailrace uvloop"


def test_a_python_that_refuses_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert how_to_install("uvloop") == f"{PIP} uvloop"
    (tmp_path / "EXTERNALLY-MANAGED").touch()
    said = how_to_install("uvloop")
    assert said.startswith(f"{sys.executable} -m venv DIR, then DIR/bin/pip install tailrace and")
    assert PIP not in said


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
        ({}, ".[mqtt]"),
        (None, ".[mqtt]"),
        ([], ".[mqtt]"),
        ("no JSON", ".[mqtt]"),
    ],
)
def test_where_it_was_installed_from(
    monkeypatch: pytest.MonkeyPatch, record: object, requirement: str
) -> None:
    class Distribution:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            if record is None or record == "no JSON":
                return record and str(record)
            return json.dumps(record)

    monkeypatch.setattr(metadata, "distribution", lambda name: Distribution())
    assert how_to_install_extra("mqtt") == f"{PIP} '{requirement}'"


def test_not_installed_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert how_to_install_extra("mqtt") == f"{PIP} '.[mqtt]'"
