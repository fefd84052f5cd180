from __future__ import annotations

import importlib.util
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

from tailrace.common.installation import how_to_install, how_to_install_extra

PYTHON = sys.executable


@pytest.fixture
def with_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """A virtual environment that has pip."""
    monkeypatch.setattr(sys, "prefix", "/somewhere/else")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


@pytest.mark.usefixtures("with_pip")
def test_a_virtual_environment_has_pip() -> None:
    assert how_to_install("a<2,>=1", "b") == f"{PYTHON} -m pip install 'a<2,>=1' b"


@pytest.mark.usefixtures("with_pip")
def test_one_that_uv_has_made_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert how_to_install("a") == f"uv pip install --python {PYTHON} a"


@pytest.mark.usefixtures("with_pip")
def test_one_that_pipx_has_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/home/me/.local/share/pipx/venvs/tailrace")
    assert how_to_install("a") == "pipx inject tailrace a"


@pytest.mark.usefixtures("with_pip")
def test_a_python_that_refuses_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert how_to_install("a") == f"{PYTHON} -m pip install a"
    (tmp_path / "EXTERNALLY-MANAGED").touch()
    said = how_to_install("a")
    assert f"{PYTHON} -m venv DIR" in said
    assert said.endswith("install tailrace and a there")


@pytest.mark.usefixtures("with_pip")
def test_what_an_extra_needs_is_named_by_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be no index that has this package itself."""
    said = how_to_install_extra("service")
    for name in ("cryptography", "picows", "prometheus-client", "starlette", "uvicorn"):
        assert f" '{name}<" in said
    assert "tailrace" not in said.removeprefix(PYTHON)

    def requires(_: str) -> list[str]:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "requires", requires)
    assert how_to_install_extra("service", "a") == f"{PYTHON} -m pip install a"
