"""Other versions of Python that this machine may have."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

__all__ = ["interpreter"]


_ASK: Final = "import sys; print('%d.%d ' % sys.version_info[:2] + sys.executable)"


@cache
def interpreter(version: str) -> str | None:
    """Return the path of a CPython such as ``3.13``, ``None`` if none is found that runs."""
    homes = (Path.home() / ".pyenv" / "versions").glob(f"{version}.*")
    found = [shutil.which(f"python{version}"), *(str(each / "bin" / "python") for each in homes)]
    answers = (_answer(each) for each in found if each)
    return next((path for known, path in answers if known == version), None)


def _answer(program: str) -> tuple[str, str]:
    """Return version and path, as a Python itself says, or "" where there is none behind a name."""
    try:
        done = subprocess.run([program, "-c", _ASK], capture_output=True, text=True, check=False)
    except OSError:
        return "", ""
    version, _, path = done.stdout.strip().partition(" ")
    return version, path
