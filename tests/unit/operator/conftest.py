from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.plugins.fixtures import service, session_service

__all__ = ["service", "session_service"]


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a name short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="tailrace-") as name:
        yield Path(name)
