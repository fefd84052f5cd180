"""The Debian package, as far as it can be looked at without building it (`make deb`)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from release import debian_package
from release.debian_package import changelog

import tailrace
from support.repository import ROOT, SOURCE

DEBIAN = ROOT / "packaging" / "debian"


@pytest.mark.parametrize("name", ["localproxy", "tailrace"])
def test_the_commands(name: str, tmp_path: Path) -> None:
    text = (DEBIAN / "bin" / name).read_text()
    assert text.startswith("#!/usr/bin/python3 -I\n")
    script = tmp_path / name
    script.write_text(text.replace("/usr/lib/tailrace", str(SOURCE.parent)))
    command = [sys.executable, "-I", script, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert tailrace.__version__ in done.stdout


def test_the_rules_are_for_what_is_there() -> None:
    rules = (DEBIAN / "rules").read_text()
    for path in re.findall(r"debian/(bin/\w+)", rules):
        assert (DEBIAN / path).is_file()
    for unit in (ROOT / "packaging" / "systemd").glob("*.service"):
        assert "/opt/tailrace/bin/" in unit.read_text()
    # Services wait until somebody has said with which options they run.
    assert "dh_installsystemd --no-enable --no-start" in rules


def test_dpkg_reads_the_changelog(tmp_path: Path) -> None:
    file = tmp_path / "changelog"
    file.write_text(changelog("1.2.3"))
    try:
        done = subprocess.run(
            ["dpkg-parsechangelog", "-l", file], capture_output=True, text=True, check=True
        )
    except FileNotFoundError:
        pytest.skip("dpkg-dev is not installed")
    assert done.stderr == ""
    assert "\nVersion: 1.2.3\n" in done.stdout


def test_a_missing_tool_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(debian_package.shutil, "which", lambda name: None)
    assert debian_package.main([]) == 1
    said = capsys.readouterr().err
    assert said.startswith("release: dpkg-buildpackage is not installed: apt install ")
