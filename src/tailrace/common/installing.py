"""Which command installs what is missing, into the Python that runs and not into another one."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import sys
import sysconfig
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from .single_file import single_file

__all__ = ["how_to_install", "how_to_install_extra"]

_PACKAGE: Final = "tailrace"
_PLAIN: Final = re.compile(r"[\w.:\\/+-]+")
"""Words that no shell of Windows takes apart."""


def how_to_install(requirement: str) -> str:
    """Return a shell command that installs a package where this Python finds it."""
    return _command(requirement, _origin(), requirement)


def how_to_install_extra(extra: str) -> str:
    """Return a shell command that adds an extra of this package, from where it was installed.

    That is a directory, a file or a URL: no package index has it. Where nothing tells, it is a
    clone of the repository, in which the command is to be run.
    """
    requirement = _origin(extra)
    if not _is_environment() and single_file() is not None:
        return f"{_new_environment(requirement)}: a single file takes no packages"
    return _command(requirement, requirement)


def _command(requirement: str, *all_requirements: str) -> str:
    """Return what installs a requirement; in a new environment, all of them."""
    python = _quoted(sys.executable or "python3")
    if not _is_environment() and _refuses_pip():
        return (
            f"{_new_environment(*all_requirements)}: this Python leaves its packages to the system"
        )
    where = _place(requirement)
    quoted = _quoted(requirement)
    if Path(sys.prefix, "pipx_metadata.json").exists():
        return f"{where}pipx inject {_quoted(Path(sys.prefix).name)} {quoted}"
    if importlib.util.find_spec("pip") is None:  # as in environments that uv has made
        return f"{where}uv pip install --python {python} {quoted}"
    return f"{where}{python} -m pip install {quoted}"


def _new_environment(*requirements: str) -> str:
    python = _quoted(sys.executable or "python3")
    words = " ".join(map(_quoted, requirements))
    where = "".join(sorted({_place(each) for each in requirements}))
    return f"{where}{python} -m venv DIR, then DIR/bin/pip install {words}"


def _place(requirement: str) -> str:
    """Return where a command has to be run for a requirement that is a relative path."""
    return f"in a clone of {_PACKAGE}: " if requirement.startswith(".") else ""


def _is_environment() -> bool:
    return sys.prefix != sys.base_prefix


def _refuses_pip() -> bool:
    """Return whether the packages of this Python are the system's (PEP 668)."""
    return Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").exists()


def _quoted(text: str) -> str:
    """Return a word for the shell of this system."""
    if os.name == "nt":  # neither a path nor a requirement has quotation marks
        return text if _PLAIN.fullmatch(text) else f'"{text}"'
    return shlex.quote(text)


def _origin(extra: str = "") -> str:
    """Return the requirement by the record of the installation (PEP 610)."""
    from importlib import metadata  # both slow, and hardly ever needed
    from urllib.request import url2pathname

    extras = f"[{extra}]" if extra else ""
    try:
        text = metadata.distribution(_PACKAGE).read_text("direct_url.json")
        record = json.loads(text or "{}")
        url = record.get("url", "")
        version_control = record.get("vcs_info", {}).get("vcs", "")
    except (metadata.PackageNotFoundError, ValueError, AttributeError):
        url = version_control = ""
    if urlsplit(url).scheme == "file":
        return f"{url2pathname(urlsplit(url).path)}{extras}"
    if url:
        prefix = f"{version_control}+" if version_control else ""
        return f"{_PACKAGE}{extras} @ {prefix}{url}"
    return f".{extras}"
