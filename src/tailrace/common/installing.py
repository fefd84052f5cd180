"""Which command installs what is missing, into the Python that runs and not into another one."""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
import sysconfig
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["how_to_install", "how_to_install_extra"]

_PACKAGE = "tailrace"


def how_to_install(requirement: str) -> str:
    """Return a shell command that installs a package where this Python finds it."""
    python = shlex.quote(sys.executable or "python3")
    if sys.prefix == sys.base_prefix and _refuses_pip():
        return (
            f"{python} -m venv DIR, then DIR/bin/pip install {_PACKAGE} and"
            f" {shlex.quote(requirement)}: this Python leaves its packages to the system"
        )
    if Path(sys.prefix).parts[-3:-1] == ("pipx", "venvs"):
        return f"pipx inject {_PACKAGE} {shlex.quote(requirement)}"
    if importlib.util.find_spec("pip") is None:  # as in environments that uv has made
        return f"uv pip install --python {python} {shlex.quote(requirement)}"
    return f"{python} -m pip install {shlex.quote(requirement)}"


def how_to_install_extra(extra: str) -> str:
    """Return a shell command that adds an extra of this package, from where it was installed.

    That is a directory or a URL: no package index has it.
    """
    return how_to_install(_requirement(extra))


def _refuses_pip() -> bool:
    """Return whether the packages of this Python are the system's (PEP 668)."""
    return Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").exists()


def _requirement(extra: str) -> str:
    """Return the requirement by the record of the installation (PEP 610)."""
    from importlib import metadata  # slow, and hardly ever needed

    try:
        text = metadata.distribution(_PACKAGE).read_text("direct_url.json")
        record = json.loads(text or "{}")
        url = record.get("url", "")
        version_control = record.get("vcs_info", {}).get("vcs", "")
    except (metadata.PackageNotFoundError, ValueError, AttributeError):
        url = version_control = ""
    if urlsplit(url).scheme == "file":
        return f"{unquote(urlsplit(url).path)}[{extra}]"
    if url:
        prefix = f"{version_control}+" if version_control else ""
        return f"{_PACKAGE}[{extra}] @ {prefix}{url}"
    return f".[{extra}]"
