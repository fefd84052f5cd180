"""How pytest-xdist spreads tests over processes."""

from __future__ import annotations

from typing import Any, Final

import pytest
from xdist.scheduler import LoadFileScheduling

__all__ = ["scheduler", "scope_of"]

_TOGETHER: Final = "tests/conformance/"


def scope_of(nodeid: str) -> str:
    """Return what a test stays together with: its file, or its directory for the scenarios."""
    return _TOGETHER if nodeid.startswith(_TOGETHER) else nodeid.partition("::")[0]


class _Together(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)


def scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """Return a scheduler for ``--dist loadfile``, and none for other ways."""
    return _Together(config, log) if config.getoption("dist") == "loadfile" else None
