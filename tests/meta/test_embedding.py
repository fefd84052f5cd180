"""The pages on embedding and testing are true."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import uuid
from pathlib import Path

import tailrace
from support.repository import ROOT
from support.waiting import HANG
from tailrace.testing import plugin
from tailrace.testing.tunnels import LocalTunnel

GUIDES = ROOT / "docs" / "guides"
EMBEDDING, TESTING = ((GUIDES / name).read_text() for name in ("embedding.md", "testing.md"))


def test_the_examples_run(tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", EMBEDDING, re.DOTALL)
    tests = re.findall(r"```python\n(.*?)```", TESTING, re.DOTALL)
    output = run(tmp_path, "-W", "error", "-c", program)
    endpoint, tunnel_id = output.split()
    assert endpoint.startswith("https://127.0.0.1:")
    assert uuid.UUID(tunnel_id)
    assert list(tmp_path.iterdir()) == []
    for number, test in enumerate(tests):
        (tmp_path / f"test_page_{number}.py").write_text(test)
    # Which warns about settings that this directory does not have.
    output = run(tmp_path, "-m", "pytest", "-W", "error", "-p", "no:asyncio")
    count = "".join(tests).count("\ndef test_")
    assert f"{count} passed" in output


def run(directory: Path, *arguments: str) -> str:
    """Run Python and return what it prints, which it must not do to standard error."""
    result = subprocess.run(
        [sys.executable, *arguments], cwd=directory, capture_output=True, text=True, timeout=HANG
    )
    assert result.stderr == "", result.stdout
    assert result.returncode == 0, result.stdout
    return result.stdout


def test_every_argument_and_fixture_stands_on_its_page() -> None:
    for page, names in (
        (EMBEDDING, inspect.signature(tailrace.Service).parameters),
        (TESTING, plugin.__all__),
    ):
        for name in names:
            assert f"`{name}`" in page, name
    for name in vars(LocalTunnel):
        assert name.startswith("_") or f"tunnel.{name}(" in TESTING, name
