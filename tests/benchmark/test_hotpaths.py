"""The hot paths move what they say, so that nobody measures nothing."""

from __future__ import annotations

import pytest
from bench.hotpaths import PATHS, SIZES, HotPath, main

MESSAGES = 32


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_every_payload_comes_out(path: type[HotPath], size: int) -> None:
    run = path(size)
    before = run.moved
    run.run(MESSAGES)
    assert MESSAGES * size <= run.moved - before <= MESSAGES * (size + 32)


def test_the_program_that_is_counted_runs_paths_by_name() -> None:
    assert main(["16", *(f"{path.name}:{size}" for path in PATHS for size in SIZES)]) == 0
