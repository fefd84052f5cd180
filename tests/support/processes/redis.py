"""A real Redis: redis-server from Debian, on a port of the test, which keeps nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.processes.child import server_process

__all__ = ["needs_redis", "redis_server"]

needs_redis = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="redis-server is not installed (`make apt`)"
)


@contextmanager
def redis_server(directory: Path, port: int, password: str) -> Iterator[None]:
    """A running server."""
    configuration = directory / "redis.conf"
    lines = [f"port {port}", "bind 127.0.0.1", f'requirepass "{password}"', 'save ""']
    configuration.write_text("\n".join(lines) + "\n")
    with server_process("redis", ["redis-server", str(configuration)], directory, port):
        yield
