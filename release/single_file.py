"""Make one file of ``localproxy`` and ``tailrace``, which any CPython runs with nothing installed.

It has the pure-Python link, SOCKS5 and metrics: whatever needs no compiled code. The copies of
other packages are those of this environment, which the tests have run with. ``tailrace serve``
needs more, and says so.

``python -m release.single_file`` writes ``dist/tailrace-VERSION.pyz``.
"""

from __future__ import annotations

import argparse
import io
import stat
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

import tailrace

from .archives import ROOT, ReleaseError, build, copy_sources

__all__ = ["BUNDLED", "main", "single_file"]

BUNDLED: Final = ("websockets", "python-socks", "prometheus-client")
"""Packages whose Python files go in."""

_SHEBANG: Final = b"#!/usr/bin/env python3\n"
_DATE: Final = (2020, 2, 2, 0, 0, 0)
"""Of everything inside, as in the wheel: the same sources make the same file."""
_OF_THE_INSTALLER: Final = {"INSTALLER", "RECORD", "REQUESTED", "WHEEL", "direct_url.json"}
_MAIN: Final = '''\
"""Run ``localproxy`` if the file is called so or its first argument says so, else ``tailrace``."""
import os
import sys

if sys.version_info < (3, 11):
    found = ".".join(map(str, sys.version_info[:2]))
    sys.exit("tailrace needs Python 3.11 or later; %s is Python %s" % (sys.executable, found))

name = os.path.basename(sys.argv[0])
if sys.argv[1:2] == ["localproxy"]:
    name = sys.argv.pop(1)
if name.startswith("localproxy"):
    from tailrace.cli.localproxy.main import main
else:
    from tailrace.cli.tailrace import main

sys.exit(main())
'''
"""Of the archive: in words that every Python understands."""


def single_file(wheel: Path) -> bytes:
    """Return the archive, made of a wheel of the package and of :data:`BUNDLED`.

    Raises:
        ReleaseError: one of these is not installed.
    """
    files = {"__main__.py": _MAIN.encode()}
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if ".data/" not in name and Path(name).name not in _OF_THE_INSTALLER:
                files[name] = archive.read(name)
    for distribution in BUNDLED:
        files |= dict(_files_of(distribution))
    made = io.BytesIO(_SHEBANG)
    made.seek(0, io.SEEK_END)
    with zipfile.ZipFile(made, "a", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.create_system = 3
            archive.writestr(entry, files[name])
    return made.getvalue()


def _files_of(distribution: str) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of what a distribution has of Python, and of its licence."""
    try:
        found = metadata.distribution(distribution).files or ()
    except metadata.PackageNotFoundError:
        raise ReleaseError(f"{distribution} is not installed") from None
    for path in found:
        is_package = path.suffix == ".py" or path.name == "py.typed"
        is_record = ".dist-info" in path.parts[0] and path.name not in _OF_THE_INSTALLER
        if (is_package or is_record) and ".." not in path.parts:
            yield str(path), Path(str(path.locate())).read_bytes()


def main(words: list[str] | None = None) -> int:
    """Write the file; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m release.single_file", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "dist", metavar="DIR")
    args = parser.parse_args(words)
    target = args.output / f"tailrace-{tailrace.__version__}.pyz"
    try:
        with tempfile.TemporaryDirectory(prefix="tailrace-build-") as name:
            copy_sources(Path(name, "sources"))
            build(Path(name, "sources"), Path(name, "made"), {})
            (wheel,) = Path(name, "made").glob("*.whl")
            content = single_file(wheel)
    except ReleaseError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    args.output.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    target.chmod(0o755)
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
