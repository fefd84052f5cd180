"""Build a Debian package with Debian's own tools, for the Python of this Debian.

``python -m release.debian_package`` writes ``dist/tailrace_VERSION_ARCHITECTURE.deb``. It takes
debhelper, python3-pip and a package index, from which the wheels of all that the package
needs are fetched first; the build itself fetches nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from email.utils import formatdate
from pathlib import Path
from typing import Final

import tailrace

from .archives import ROOT, ReleaseError, build, copy_sources, run

__all__ = ["changelog", "main"]

_PYTHON: Final = "/usr/bin/python3"
_EXTRAS: Final = "service,socks,operator"
_DATE: Final = 1580601600
"""2 February 2020, as of the files in the wheel: the same sources make the same package."""
_WHO: Final = "The tailrace developers <tailrace@example.invalid>"


def changelog(version: str) -> str:
    """Return what dpkg reads version and date from."""
    first = f"tailrace ({version}) unstable; urgency=medium"
    return f"{first}\n\n  * See CHANGELOG.md.\n\n -- {_WHO}  {formatdate(_DATE)}\n"


def main(words: list[str] | None = None) -> int:
    """Build the package; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m release.debian_package", description="Build a Debian package."
    )
    parser.add_argument("--output", type=Path, default=ROOT / "dist", metavar="DIR")
    args = parser.parse_args(words)
    try:
        print(_build(args.output))
    except ReleaseError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    return 0


def _build(output: Path) -> Path:
    for program in ("dpkg-buildpackage", "dh"):
        if shutil.which(program) is None:
            raise ReleaseError(
                f"{program} is not installed: apt install build-essential debhelper python3-pip"
            )
    with tempfile.TemporaryDirectory(prefix="tailrace-deb-") as name:
        home = Path(name, "tailrace")
        copy_sources(home)
        wheels = home / "wheels"
        build(home, wheels, {})
        for sdist in wheels.glob("*.tar.gz"):
            sdist.unlink()
        (wheel,) = wheels.glob("*.whl")
        fetch = (_PYTHON, "-m", "pip", "--disable-pip-version-check", "download", "--quiet")
        binary = ("--only-binary", ":all:", "--dest", str(wheels))
        run(*fetch, *binary, f"{wheel}[{_EXTRAS}]", cwd=home)
        shutil.copytree(home / "packaging" / "debian", home / "debian")
        (home / "debian" / "changelog").write_text(changelog(tailrace.__version__))
        environment = {
            **os.environ,
            "SOURCE_DATE_EPOCH": str(_DATE),
            "DEB_BUILD_OPTIONS": "nocheck",
        }
        # Debian's tools run Debian's Python, not that of a virtual environment.
        environment["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
        command = ("dpkg-buildpackage", "--build=binary", "--no-sign", "--no-pre-clean")
        run(*command, cwd=home, environment=environment)
        (made,) = Path(name).glob("tailrace_*.deb")
        output.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(made, output / made.name))


if __name__ == "__main__":
    sys.exit(main())
