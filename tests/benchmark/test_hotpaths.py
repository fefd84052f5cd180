"""The hot paths move what they say, so that nobody measures nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest
from bench.hotpaths import PATHS, SIZES, HotPath, path_named

from support.repository import ROOT

MESSAGES = 32


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_every_payload_comes_out(path: type[HotPath], size: int) -> None:
    run = path(size)
    before = run.moved
    run.run(MESSAGES)
    assert MESSAGES * size <= run.moved - before <= MESSAGES * (size + 32)


def test_paths_are_found_by_name() -> None:
    assert [path_named(path.name) for path in PATHS] == list(PATHS)
    with pytest.raises(ValueError, match="no such path: elsewhere"):
        path_named("elsewhere")


def test_the_program_that_is_counted_runs_several_paths() -> None:
    works = [f"{path.name}:{size}" for path in PATHS for size in SIZES]
    command = [sys.executable, "-m", "bench.hotpaths", "16", *works]
    assert subprocess.run(command, cwd=ROOT, timeout=100).returncode == 0
