"""What the Makefile installs: all for development, little for the demonstration, each once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.repository import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs the make command")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A directory with what the rules look at."""
    sources = [file.relative_to(ROOT) for file in (ROOT / "src" / "tailrace").glob("_*.p*x*")]
    for name in ("Makefile", "pyproject.toml", "hatch_build.py", *sources):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").mkdir()
    return tmp_path


def installs(clone: Path, target: str) -> list[str]:
    """Return the commands by which a target would install something."""
    command = ["make", "--dry-run", target, f"PYTHON={sys.executable}"]
    # The tests may run below a make with options of its own.
    environment = {name: text for name, text in os.environ.items() if "MAKE" not in name}
    done = subprocess.run(
        command, cwd=clone, env=environment, capture_output=True, text=True, check=True
    )
    return [line for line in done.stdout.splitlines() if " install " in line]


def test_the_demonstration_installs_only_what_it_runs(clone: Path) -> None:
    (line,) = installs(clone, "demo")
    assert line.split(" install ")[1].split() == [">&2", "--editable", "'.[service]'"]


@pytest.mark.parametrize("target", ["setup", "test", "check"])
def test_development_completes_what_the_demonstration_has_made(clone: Path, target: str) -> None:
    (clone / ".venv" / ".ready-demo").touch()
    assert installs(clone, "demo") == []
    assert any("--group dev" in line for line in installs(clone, target))


def test_the_demonstration_adds_nothing_to_what_development_has(clone: Path) -> None:
    (clone / ".venv" / ".ready").touch()
    assert installs(clone, "setup") == []
    assert installs(clone, "demo") == []
