"""Other versions of Python that this machine may have."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

__all__ = ["interpreter"]


@cache
def interpreter(version: str) -> str | None:
    """Return the path of a CPython such as ``3.13``, ``None`` if none is found that runs."""
    found = [shutil.which(f"python{version}"), *_of_pyenv(version)]
    return next((each for each in found if each and _version(each) == version), None)


def _of_pyenv(version: str) -> list[str]:
    homes = (Path.home() / ".pyenv" / "versions").glob(f"{version}.*")
    return [str(home / "bin" / "python3") for home in sorted(homes)]


def _version(program: str) -> str:
    try:
        done = subprocess.run([program, "-V"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    found = re.fullmatch(r"Python (\d+\.\d+)\..*\s*", done.stdout)  # shims may find none
    return found[1] if found else ""
