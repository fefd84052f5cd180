"""How to install what is missing, in words that fit this Python.

There may be no index that has this package, so only what it needs is named; and a system's own
Python refuses pip where its packages are those of the system (PEP 668).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

# What takes long to import is imported where something is missing indeed.

__all__ = ["how_to_install", "how_to_install_extra"]

_PACKAGE: Final = "tailrace"


def how_to_install(*requirements: str) -> str:
    """Return the command that installs these packages for the Python that runs now."""
    import importlib.util
    import shlex

    packages = shlex.join(requirements)
    python = shlex.quote(sys.executable)
    if _is_managed():
        return (
            f"this Python takes no packages from pip: make a virtual environment with it"
            f" ({python} -m venv DIR), and install {_PACKAGE} and {packages} there"
        )
    if _made_by_pipx():
        return f"pipx inject {_PACKAGE} {packages}"
    if importlib.util.find_spec("pip") is None:  # as in environments that uv makes
        return f"uv pip install --python {python} {packages}"
    return f"{python} -m pip install {packages}"


def how_to_install_extra(extra: str, *otherwise: str) -> str:
    """Return the command that installs what an extra of this package names.

    ``otherwise`` are the packages to name where this one was not installed, but only copied.
    """
    from importlib import metadata

    try:
        requirements = metadata.requires(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        requirements = []
    found = []
    for each in requirements:
        requirement, _, marker = each.partition(";")
        if marker.strip().replace('"', "'") == f"extra == '{extra}'":
            found.append(requirement.strip())
    return how_to_install(*(found or otherwise))


def _is_managed() -> bool:
    import sysconfig

    if sys.prefix != sys.base_prefix:
        return False
    return Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").exists()


def _made_by_pipx() -> bool:
    return Path(sys.prefix).parts[-3:-1] == ("pipx", "venvs")
