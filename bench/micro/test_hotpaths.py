"""Micro benchmarks of codec, framing, session and relay: ``pytest bench/micro``."""

from __future__ import annotations

from typing import Any

import pytest
from bench.hotpaths import PATHS, SIZES, HotPath

MESSAGES = 160
"""Messages in one round: enough to hide the call of the benchmark itself."""


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size}B")
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name.replace(" ", "-"))
def test_hot_path(benchmark: Any, path: type[HotPath], size: int) -> None:
    benchmark.extra_info["messages"] = MESSAGES
    benchmark(path(size).run, MESSAGES)
