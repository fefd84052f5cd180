"""The compiled extension: whether it is used, and why not.

``tailrace._fast`` is built where a compiler is found when the package is installed. It moves the
data of known connections without the interpreter; what it does not do, and all of it where it is
missing, Python does. ``TAILRACE_FAST=0`` in the environment leaves everything to Python.

It looks into the objects of picows and aiofastnet, by the declarations of one version of each, and
so is not even loaded beside another one. Which they were, and of what source, stands in a file
beside it.
"""

from __future__ import annotations

import os
import re
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from zlib import crc32

__all__ = ["VARIABLE", "data_path", "find", "load", "record_of", "source_of", "why_not"]

VARIABLE: Final = "TAILRACE_FAST"
"""The environment variable that says ``0`` where only Python is to be used."""

_MODULE: Final = "tailrace._fast"
_NEEDED: Final = {"picows": "version.py", "aiofastnet": "_version.py"}
"""What it looks into, and the file of each that tells its version."""
_SOURCES: Final = ("_fast.pyx", "_core.pyx", "_core.pxd")
_VERSION: Final = re.compile(r"""^__version__ = ["'](.+)["']$""", re.MULTILINE)


def load() -> Any:
    """Return the extension, ``None`` if this process does not use it."""
    return None if why_not() else _load()


@cache
def why_not() -> str:
    """Return why this process does not use the extension, "" if it does."""
    return find()


def data_path() -> str:
    """Return in words who moves the data of this process."""
    return f"Python: {why_not()}" if why_not() else "compiled extension"


def find() -> str:
    """Do as :func:`why_not`, as things are now; imports nothing."""
    if os.environ.get(VARIABLE) == "0":
        return f"{VARIABLE} is 0"
    spec = find_spec(_MODULE)
    if spec is None or spec.origin is None:
        return "it was not built, for which a C compiler must be installed before tailrace is"
    extension = Path(spec.origin)
    try:
        source, *built_for = record_of(extension).read_text().split()
        installed = [f"{name}={_version_of(name, file)}" for name, file in _NEEDED.items()]
    except (OSError, ValueError):
        return "what it was built for is not installed, or not recorded"
    if built_for != installed:
        return f"it was built for {' and '.join(built_for)}, and there is {' and '.join(installed)}"
    if source != source_of(extension):
        return "it was built from another source: install tailrace again"
    return ""


def record_of(extension: Path) -> Path:
    """Return the file that says what an extension was built for."""
    return extension.with_suffix(".built")


def source_of(extension: Path) -> str:
    """Return a checksum of the sources beside an extension, ``-`` where there are none."""
    files = [extension.with_name(name) for name in _SOURCES]
    if not files[0].is_file():
        return "-"
    return f"{crc32(b''.join(file.read_bytes() for file in files)):08x}"


@cache
def _load() -> Any:
    return import_module(_MODULE)


def _version_of(package: str, file: str) -> str:
    """Return the version of an installed package without importing it, which takes a while.

    Raises:
        ValueError: it is not installed, or does not tell.
        OSError: it cannot be read.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ValueError(f"{package} is not installed")
    found = _VERSION.search(Path(spec.origin).with_name(file).read_text())
    if found is None:
        raise ValueError(f"{package} tells no version")
    return found[1]
