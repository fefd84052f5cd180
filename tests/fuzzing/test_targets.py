"""A short run of every fuzz target; ``make fuzz`` runs them for longer."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.registry import NATIVE, TARGETS
from fuzz.runner import Tally, run_examples

from tailrace.common.extension import load, why_not

EXAMPLES = 25


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_allowed_errors_leaves(name: str, tmp_path: Path) -> None:
    if name in NATIVE and load() is None:
        pytest.skip(f"no compiled extension: {why_not()}")
    tally = Tally(TARGETS[name])
    run_examples(tally, EXAMPLES, tmp_path)
    assert not tally.finding, tally.finding
    assert tally.executions > EXAMPLES


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_has_what_is_taken(name: str) -> None:
    taken = [TARGETS[name].run(value) for value in TARGETS[name].corpus]
    assert any(taken)
