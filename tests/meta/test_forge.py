"""What a forge and an editor read: valid, and the same as what is run here."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from support.repository import ROOT

BIN = Path(sys.executable).parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
MAKEFILE = (ROOT / "Makefile").read_text()


def recipe(target: str) -> list[str]:
    """Return the commands of a target of the Makefile, those of the virtual environment."""
    found = re.search(rf"(?m)^{target}:.*\n((?:\t.*\n)+)", MAKEFILE)
    assert found is not None
    lines = found[1].splitlines()
    return [line.strip().removeprefix("@").replace("$(BIN)", ".venv/bin") for line in lines]


def test_git_runs_what_make_check_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == recipe("check")


def test_pre_commit_understands_its_file() -> None:
    check = [BIN / "pre-commit", "validate-config", ROOT / ".pre-commit-config.yaml"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_linter_finds_nothing_in_a_workflow(path: Path) -> None:
    check = [BIN / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", path]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert path.read_text().startswith("# Never run so far")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_makes_what_there_is(path: Path) -> None:
    wanted = re.findall(r"(?:run:|sudo|&&) make ((?:[a-z-]+ ?)+)", path.read_text())
    targets = {target for words in wanted for target in words.split()}
    assert [name for name in sorted(targets) if not re.search(rf"(?m)^{name}:", MAKEFILE)] == []


def test_the_linter_can_fail(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("on: push\njobs:\n  a:\n    runs-on: b\n    steps: [{uses: 3}]\n")
    check = [BIN / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", wrong]
    assert subprocess.run(check, capture_output=True, check=False).returncode != 0


def test_editors_are_told_the_width_of_a_line() -> None:
    text = (ROOT / ".editorconfig").read_text()
    parser = configparser.ConfigParser()
    parser.read_string("[top]\n" + text)
    assert parser["*"]["max_line_length"] == "100"
    assert "line-length = 100\n" in (ROOT / "pyproject.toml").read_text()
