"""Cut a release: version, changelog, checks, tests, archives, commit and tag, in this order.

``python -m release.cut 0.2.0``. Nothing is pushed. What fails on the way leaves the files as they
were; only the archives in ``dist`` may be new.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeAlias

from .archives import ROOT, ReleaseError

__all__ = ["Version", "cut_changelog", "main", "next_versions", "release_notes", "with_version"]

Version: TypeAlias = tuple[int, int, int]

_VERSION_FILE: Final = Path("src/tailrace/__init__.py")
_CHANGELOG: Final = Path("CHANGELOG.md")
_BRANCH: Final = "main"
_ASSIGNMENT: Final = re.compile(r'^__version__ = "(\d+)\.(\d+)\.(\d+)"$', re.MULTILINE)
_UNRELEASED: Final = "## [Unreleased]\n"
_STEPS: Final = ("check", "test", "package", "zipapp")
"""Targets of the Makefile that have to pass with the new version."""


def next_versions(current: Version) -> list[Version]:
    """Return what may follow a version (Semantic Versioning 2.0.0, items 6 to 8)."""
    major, minor, patch = current
    return [(major, minor, patch + 1), (major, minor + 1, 0), (major + 1, 0, 0)]


def with_version(source: str, version: Version) -> tuple[str, Version]:
    """Return a module with another version, and the version that it had.

    Raises:
        ReleaseError: the module says no version, or more than one.
    """
    found = _ASSIGNMENT.findall(source)
    if len(found) != 1:
        raise ReleaseError(f"{_VERSION_FILE} does not say one version")
    major, minor, patch = map(int, found[0])
    line = f'__version__ = "{_text(version)}"'
    return _ASSIGNMENT.sub(line, source), (major, minor, patch)


def cut_changelog(text: str, version: Version, date: str) -> str:
    """Return a changelog in which what was unreleased is the release of a day.

    Raises:
        ReleaseError: nothing is unreleased, or the version is there already.
    """
    if f"## [{_text(version)}]" in text:
        raise ReleaseError(f"{_CHANGELOG} has {_text(version)} already")
    before, heading, rest = text.partition(_UNRELEASED)
    if not heading or not _first_section(rest):
        raise ReleaseError(f"{_CHANGELOG} has nothing below {_UNRELEASED.strip()}")
    return f"{before}{_UNRELEASED}\n## [{_text(version)}] - {date}\n{rest}"


def release_notes(text: str, version: Version) -> str:
    """Return what a changelog says of a version."""
    _, _, rest = text.partition(f"## [{_text(version)}]")
    return _first_section(rest.partition("\n")[2])


def _first_section(text: str) -> str:
    return re.split(r"^## ", text, maxsplit=1, flags=re.MULTILINE)[0].strip()


def _text(version: Version) -> str:
    return ".".join(map(str, version))


def main(words: list[str] | None = None) -> int:
    """Cut a release; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m release.cut", description="Cut a release.")
    parser.add_argument("version", metavar="VERSION", type=_version, help="such as 0.2.0")
    parser.add_argument("--dry-run", action="store_true", help="only show what would be done")
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        choices=_STEPS,
        metavar="STEP",
        help=f"do not run make STEP ({', '.join(_STEPS)}), which has passed already",
    )
    args = parser.parse_args(words)
    try:
        _cut(ROOT, args.version, [step for step in _STEPS if step not in args.skip], args.dry_run)
    except ReleaseError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    return 0


def _version(text: str) -> Version:
    found = re.fullmatch(r"v?(\d+)\.(\d+)\.(\d+)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not MAJOR.MINOR.PATCH")
    major, minor, patch = map(int, found.groups())
    return major, minor, patch


def _cut(root: Path, version: Version, steps: list[str], dry_run: bool) -> None:
    tag = f"v{_text(version)}"
    changes = _changes(root, version)
    _check_repository(root, tag)
    for path, text in changes.items():
        old = len((root / path).read_text().splitlines())
        _say(f"{path}: {old} -> {len(text.splitlines())} lines")
    if dry_run:
        _say(f"then: {', '.join(f'make {step}' for step in steps)}; commit; tag {tag}")
        return
    with _written(root, changes):
        for step in steps:
            _say(f"make {step}")
            if subprocess.run(["make", step], cwd=root, check=False).returncode != 0:
                raise ReleaseError(f"make {step} has failed with version {_text(version)}")
        names = [str(path) for path in changes]
        _git(root, "commit", "--quiet", "--message", f"Release {_text(version)}", "--", *names)
    notes = release_notes(changes[_CHANGELOG], version)
    message = f"tailrace {_text(version)}\n\n{notes}\n"
    _git(root, "tag", "--annotate", "--cleanup=verbatim", tag, "--message", message)
    _say(f"Released {_text(version)}. To publish it: git push origin {_BRANCH} {tag}")


def _changes(root: Path, version: Version) -> Mapping[Path, str]:
    """Return file -> new text."""
    source, current = with_version((root / _VERSION_FILE).read_text(), version)
    if version not in next_versions(current):
        possible = ", ".join(map(_text, next_versions(current)))
        raise ReleaseError(f"{_text(version)} does not follow {_text(current)}; {possible} would")
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    changelog = cut_changelog((root / _CHANGELOG).read_text(), version, date)
    return {_VERSION_FILE: source, _CHANGELOG: changelog}


def _check_repository(root: Path, tag: str) -> None:
    """Raise :class:`ReleaseError` if this is not what a release is made of."""
    checks: list[tuple[Callable[[], bool], str]] = [
        (lambda: not _git(root, "status", "--porcelain"), "there are changes without a commit"),
        (
            lambda: _git(root, "branch", "--show-current") == _BRANCH,
            f"releases are made on the branch {_BRANCH}",
        ),
        (lambda: not _git(root, "tag", "--list", tag), f"there is a tag {tag}"),
    ]
    for holds, reason in checks:
        if not holds():
            raise ReleaseError(reason)


@contextmanager
def _written(root: Path, changes: Mapping[Path, str]) -> Iterator[None]:
    """Write files for the body; they are as before if it fails."""
    before = {path: (root / path).read_text() for path in changes}
    try:
        for path, text in changes.items():
            (root / path).write_text(text)
        yield
    except BaseException:
        for path, text in before.items():
            (root / path).write_text(text)
        raise


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ReleaseError(f"git {words[0]} has failed: {done.stderr.strip()}")
    return done.stdout.strip()


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
