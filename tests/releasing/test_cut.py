"""Releases are cut in a repository of the test's own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from release import cut
from release.archives import ReleaseError
from release.cut import cut_changelog, main, next_versions, release_notes, with_version

from support.repository import ROOT

CHANGELOG = """\
# Changelog

## [Unreleased]

### Added

- a thing

## [0.1.0] - 2026-01-01

- the first
"""
MAKEFILE = """\
check test package zipapp:
\t@test ! -e broken || test $@ != test
\t@grep -q '__version__ = "0.2.0"' src/tailrace/__init__.py
\t@echo $@ >> made
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "src" / "tailrace"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""Docs."""\n\n__version__ = "0.1.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    (tmp_path / "Makefile").write_text(MAKEFILE)
    (tmp_path / ".gitignore").write_text("made\nbroken\n")
    monkeypatch.setattr(cut, "ROOT", tmp_path)
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "Somebody")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "somebody@example.org")
    git(tmp_path, "init", "--quiet", "--initial-branch", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "Begin")
    return tmp_path


def git(home: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=home, capture_output=True, text=True, check=True)
    return done.stdout


def test_a_release(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["0.2.0"]) == 0
    assert '__version__ = "0.2.0"' in (repository / "src/tailrace/__init__.py").read_text()
    changelog = (repository / "CHANGELOG.md").read_text()
    assert changelog.index("## [Unreleased]") < changelog.index("## [0.2.0] - 20")
    assert changelog.index("## [0.2.0]") < changelog.index("- a thing")
    assert (repository / "made").read_text().split() == ["check", "test", "package", "zipapp"]
    assert git(repository, "log", "--format=%s").splitlines() == ["Release 0.2.0", "Begin"]
    tag = git(repository, "tag", "--list", "v0.2.0", "--format=%(contents)")
    assert tag.strip() == "tailrace 0.2.0\n\n### Added\n\n- a thing"
    assert git(repository, "status", "--porcelain") == ""
    assert capsys.readouterr().out.endswith("git push origin main v0.2.0\n")


def test_steps_that_have_passed_may_be_left_out(repository: Path) -> None:
    assert main(["v0.2.0", "--skip", "test", "--skip", "check"]) == 0
    assert (repository / "made").read_text().split() == ["package", "zipapp"]


def test_what_fails_leaves_all_as_it_was(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository / "broken").touch()
    assert main(["0.2.0"]) == 1
    assert capsys.readouterr().err == "release: make test has failed with version 0.2.0\n"
    assert git(repository, "status", "--porcelain") == ""
    assert git(repository, "tag") == ""
    assert (repository / "CHANGELOG.md").read_text() == CHANGELOG


def test_a_dry_run_changes_nothing(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["0.2.0", "--dry-run"]) == 0
    assert "tag v0.2.0" in capsys.readouterr().out
    assert git(repository, "status", "--porcelain") == ""
    assert git(repository, "log", "--format=%s") == "Begin\n"


@pytest.mark.parametrize(
    ("version", "prepare", "reason"),
    [
        ("0.3.0", [], "0.3.0 does not follow 0.1.0; 0.1.1, 0.2.0, 1.0.0 would"),
        ("0.1.0", [], "0.1.0 does not follow 0.1.0; 0.1.1, 0.2.0, 1.0.0 would"),
        ("0.2.0", ["tag", "v0.2.0"], "there is a tag v0.2.0"),
        ("0.2.0", ["checkout", "--quiet", "-b", "b"], "releases are made on the branch main"),
        ("0.2.0", ["mv", "Makefile", "m"], "there are changes without a commit"),
    ],
)
def test_what_no_release_is_made_of(
    repository: Path,
    version: str,
    prepare: list[str],
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if prepare:
        git(repository, *prepare)
    assert main([version]) == 1
    assert capsys.readouterr().err == f"release: {reason}\n"


def test_without_git(monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    (repository / ".git").rename(repository / "gone")
    assert main(["0.2.0"]) == 1


def test_a_version_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["1.2"])
    assert "'1.2' is not MAJOR.MINOR.PATCH" in capsys.readouterr().err


def test_a_changelog_without_news() -> None:
    with pytest.raises(ReleaseError, match="has nothing below"):
        cut_changelog("## [Unreleased]\n\n## [0.1.0]\n\n- old\n", (0, 2, 0), "2026-01-01")
    with pytest.raises(ReleaseError, match="has nothing below"):
        cut_changelog("# Changelog\n", (0, 2, 0), "2026-01-01")
    with pytest.raises(ReleaseError, match=r"has 0\.1\.0 already"):
        cut_changelog(CHANGELOG, (0, 1, 0), "2026-01-01")


def test_a_module_without_a_version() -> None:
    with pytest.raises(ReleaseError, match="does not say one version"):
        with_version("version = 1\n", (0, 2, 0))


def test_versions_follow_each_other() -> None:
    assert next_versions((1, 2, 3)) == [(1, 2, 4), (1, 3, 0), (2, 0, 0)]


def test_this_repository_can_be_released() -> None:
    source = (ROOT / "src" / "tailrace" / "__init__.py").read_text()
    changed, current = with_version(source, (9, 9, 9))
    assert changed.count('__version__ = "9.9.9"') == 1
    text = (ROOT / "CHANGELOG.md").read_text()
    if "## [Unreleased]\n\n## [" not in text:
        version = next_versions(current)[1]
        assert release_notes(cut_changelog(text, version, "2026-01-01"), version)
