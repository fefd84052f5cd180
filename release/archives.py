"""Build the sdist and the wheel, twice, and see that anyone gets the same bytes.

``python -m release.archives --install`` also installs both into bare environments, which takes a
package index.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

__all__ = [
    "CORE",
    "ReleaseError",
    "build",
    "built_twice",
    "check_installation",
    "copy_sources",
    "main",
    "run",
]

ROOT: Final = Path(__file__).resolve().parents[1]
CORE: Final = frozenset({"aiofastnet", "picows", "tailrace", "uvloop", "websockets"})
"""All that the package itself may require without an extra."""
_OF_CORE: Final = frozenset({"multidict", "python-socks"})
"""What those require."""

_LEFT_OUT: Final = (
    ".git",
    ".venv*",
    "build",
    "dist",
    "htmlcov",
    "__pycache__",
    ".*_cache",
    ".hyp*",
)
_BUILDS: Final[tuple[tuple[int, Mapping[str, str]], ...]] = (
    (0o022, {"TZ": "UTC", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "1"}),
    (0o077, {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "2"}),
)
"""umask and environment of each build: none of that may show in the result."""
_FOR_ANY_PYTHON: Final[Mapping[str, str]] = {"TAILRACE_FAST": "0"}


class ReleaseError(Exception):
    """What was made is not as it has to be; the text says what and why."""


def copy_sources(target: Path, umask: int = 0o022) -> None:
    """Copy all that git knows of the sources, or all that is in an unpacked sdist."""
    before = os.umask(umask)
    try:
        for name in _source_files():
            copied = target / name
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_bytes((ROOT / name).read_bytes())
            if os.access(ROOT / name, os.X_OK):
                copied.chmod(0o777 & ~umask)
    finally:
        os.umask(before)


def _source_files() -> Iterable[str]:
    if (ROOT / ".git").exists():
        listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        names = [name for name in listed.split("\0") if name]
        return [name for name in names if (ROOT / name).is_file()]
    ignored = shutil.ignore_patterns(*_LEFT_OUT)
    return [
        str(Path(home, name).relative_to(ROOT))
        for home, _, names in os.walk(ROOT)
        if not ignored("", list(Path(home).relative_to(ROOT).parts))
        for name in names
    ]


def build(sources: Path, output: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """Build an sdist, and from it a wheel for any Python; return file name -> SHA-256.

    Raises:
        ReleaseError: it cannot be built.
    """
    environment = {**os.environ, **_FOR_ANY_PYTHON, **variables}
    environment.pop("SOURCE_DATE_EPOCH", None)
    command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output))
    run(*command, str(sources), environment=environment)
    return {path.name: _digest(path) for path in sorted(output.iterdir())}


def built_twice(output: Path) -> dict[str, str]:
    """Build twice, in other places and circumstances; leave one result in ``output``.

    Raises:
        ReleaseError: the results differ, or there is none.
    """
    results = []
    with tempfile.TemporaryDirectory(prefix="tailrace-build-") as name:
        for number, (umask, variables) in enumerate(_BUILDS):
            sources, made = Path(name, f"sources {number}"), Path(name, f"made {number}")
            copy_sources(sources, umask)
            results.append(build(sources, made, variables))
        first, second = results
        differing = sorted(each for each in first | second if first.get(each) != second.get(each))
        if differing:
            raise ReleaseError(f"not the same bytes when built twice: {', '.join(differing)}")
        output.mkdir(parents=True, exist_ok=True)
        for each in first:
            shutil.copyfile(made / each, output / each)
    return first


def check_installation(archive: Path) -> None:
    """Install an archive into a bare environment, and use what is there.

    Raises:
        ReleaseError: more than the core is installed, or something is missing or does not run.
    """
    with tempfile.TemporaryDirectory(prefix="tailrace-bare-") as name:
        venv.create(name, symlinks=os.name == "posix")
        home = Path(name)
        python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
        pip = (sys.executable, "-m", "pip", "--python", str(python))
        run(*pip, "install", "--quiet", str(archive))
        run(*pip, "check")
        listed = json.loads(run(*pip, "list", "--format", "json"))
        surplus = {each["name"].lower() for each in listed} - CORE - _OF_CORE
        if surplus:
            raise ReleaseError(f"{archive.name} also installs: {', '.join(sorted(surplus))}")
        for command in ("localproxy", "tailrace"):
            for option in ("--version", "--help"):
                run(str(python.with_name(command)), option)
        for each in ("man/man1/localproxy.1", "bash-completion/completions/tailrace"):
            if not (home / "share" / each).is_file():
                raise ReleaseError(f"{archive.name} does not install share/{each}")


def main(words: list[str] | None = None) -> int:
    """Build into ``dist`` and check; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m release.archives", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "dist", metavar="DIR")
    parser.add_argument("--install", action="store_true", help="also try to install them")
    args = parser.parse_args(words)
    try:
        made = built_twice(args.output)
        archives = [args.output / name for name in made]
        run(sys.executable, "-m", "twine", "check", "--strict", *map(str, archives))
        for archive in archives if args.install else ():
            check_installation(archive)
    except ReleaseError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    lines = [f"{digest}  {name}\n" for name, digest in made.items()]
    (args.output / "SHA256SUMS").write_text("".join(lines))
    print("".join(lines), end="")
    return 0


def run(*command: str, cwd: Path = ROOT, environment: Mapping[str, str] | None = None) -> str:
    """Run a command; return what it prints.

    Raises:
        ReleaseError: it has failed; the text has all that it has printed.
    """
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        program = " ".join(command[:4])
        raise ReleaseError(f"{program} has failed:\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
