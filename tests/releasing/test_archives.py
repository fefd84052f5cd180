"""The archives that are built: the same bytes again, all that belongs there, and little needed."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from release import archives
from release.archives import CORE, ReleaseError, built_twice, main

import tailrace
from support.repository import MODULES, ROOT, SOURCE


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with both archives, which were the same bytes when built again."""
    directory = tmp_path_factory.mktemp("dist")
    assert main(["--output", str(directory)]) == 0
    return directory


@pytest.fixture(scope="module")
def wheel(made: Path) -> zipfile.ZipFile:
    (path,) = made.glob("*.whl")
    return zipfile.ZipFile(path)


def test_there_are_two_and_their_sums(made: Path) -> None:
    version = tailrace.__version__
    names = [f"tailrace-{version}-py3-none-any.whl", f"tailrace-{version}.tar.gz"]
    assert sorted(path.name for path in made.iterdir()) == ["SHA256SUMS", *names]
    sums = (made / "SHA256SUMS").read_text()
    assert re.findall(r"(?m)^[0-9a-f]{64}  (.+)$", sums) == names


def test_the_wheel_has_the_package_and_what_belongs_beside_it(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    modules = {str(path.relative_to(SOURCE.parent)) for path in MODULES.values()}
    assert modules <= names
    assert "tailrace/py.typed" in names
    beside = {name.partition(".data/data/")[2] for name in names if ".data/data/" in name}
    assert {
        "share/man/man1/localproxy.1",
        "share/man/man1/tailrace-agent.1",
        "share/bash-completion/completions/tailrace",
        "share/zsh/site-functions/_localproxy",
        "share/fish/vendor_completions.d/tailrace.fish",
    } <= beside
    tops = {
        name.partition("/")[0].removeprefix(f"tailrace-{tailrace.__version__}") for name in names
    }
    assert tops == {"tailrace", ".data", ".dist-info"}


def test_the_sdist_has_the_tests_and_nothing_of_this_machine(made: Path) -> None:
    (path,) = made.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    tops = {Path(member.name).parts[1] for member in members}
    assert {"tests", "docs", "src", "release", "pyproject.toml", "CHANGELOG.md"} <= tops
    assert not {".venv", "build", "dist", ".git", "__pycache__"} & tops
    assert {(member.uid, member.gid, member.uname) for member in members} == {(0, 0, "")}


def required(distribution: str) -> set[str]:
    """Return what a distribution of this environment requires here, extras left out."""
    from packaging.requirements import Requirement

    found = map(Requirement, metadata.requires(distribution) or ())
    return {
        each.name.lower()
        for each in found
        if each.marker is None or each.marker.evaluate({"extra": ""})
    }


def test_the_core_needs_little(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    record = email.message_from_bytes(wheel.read(name))
    lines = [line for line in record.get_all("Requires-Dist", ()) if "extra ==" not in line]
    direct = {re.split(r"[<>=; ]", line)[0] for line in lines}
    assert direct <= CORE
    everything, todo = set(), direct
    while todo:
        everything |= todo
        todo = {other for each in todo for other in required(each)} - everything
    assert everything <= CORE | archives._OF_CORE


def test_the_sources_are_those_of_git(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    archives.copy_sources(tmp_path / "sources", 0o077)
    copied = tmp_path / "sources" / "src" / "tailrace" / "errors.py"
    assert copied.read_bytes() == (SOURCE / "errors.py").read_bytes()
    assert not (tmp_path / "sources" / ".venv").exists()
    assert os.access(tmp_path / "sources" / ".ci" / "run", os.X_OK) == os.access(
        ROOT / ".ci" / "run", os.X_OK
    )


def test_what_differs_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    results = iter([{"a.whl": "1", "b.gz": "2"}, {"a.whl": "1", "b.gz": "3"}])
    monkeypatch.setattr(archives, "copy_sources", lambda *_: None)
    monkeypatch.setattr(archives, "build", lambda *_: next(results))
    with pytest.raises(ReleaseError, match=r"when built twice: b\.gz$"):
        built_twice(tmp_path / "dist")


def test_a_build_that_fails_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def copy_nothing(target: Path, umask: int) -> None:
        target.mkdir()

    monkeypatch.setattr(archives, "copy_sources", copy_nothing)
    assert main(["--output", str(tmp_path / "dist")]) == 1
    assert capsys.readouterr().err.startswith("release: ")


def test_an_sdist_builds_where_git_is_not(made: Path, tmp_path: Path) -> None:
    (path,) = made.glob("*.tar.gz")
    subprocess.run(["tar", "-xzf", path, "-C", tmp_path], check=True)
    (unpacked,) = tmp_path.iterdir()
    code = "from release.archives import _source_files; print(*_source_files(), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=unpacked, capture_output=True, text=True, check=True
    )
    listed = set(done.stdout.splitlines())
    assert {"pyproject.toml", "src/tailrace/errors.py", "release/archives.py"} <= listed
