"""A real web proxy: tinyproxy from Debian, on a free port."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.network.ports import free_port
from support.processes.child import server_process
from tailrace.link.proxy.settings import WebProxy

__all__ = ["needs_tinyproxy", "tinyproxy"]

needs_tinyproxy = pytest.mark.skipif(
    shutil.which("tinyproxy") is None,
    reason="tinyproxy is not installed (package tinyproxy-bin; `make apt`)",
)


@contextmanager
def tinyproxy(directory: Path, *directives: str) -> Iterator[WebProxy]:
    """A running proxy, with more ``directives`` in its file."""
    port = free_port()
    file = directory / "tinyproxy.conf"
    lines = [f"Port {port}", "Listen 127.0.0.1", "Timeout 60", *directives]
    file.write_text("".join(f"{line}\n" for line in lines))
    with server_process("tinyproxy", ["tinyproxy", "-d", "-c", str(file)], directory, port):
        yield WebProxy("http", "127.0.0.1", port)
