"""Run targets for as long as the budget of CPU time lasts, in turns."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase

from .target import Target

__all__ = ["Tally", "run_all", "run_examples"]

_TURN: Final = 20.0
"""CPU seconds for which a target runs before it is the next one's turn, at most."""
_BATCH: Final = 100
"""Examples of one search; a longer one would repeat itself more and more."""
_VARIATIONS: Final = 16
"""Inputs that are tried besides each one that Hypothesis makes up."""
_FRAMES: Final = 8


@dataclass(slots=True)
class Tally:
    """What has been done with one target."""

    target: Target[Any]
    executions: int = 0
    taken: int = 0
    """Inputs that were no error."""
    cpu_seconds: float = 0.0
    stopped: Callable[[], bool] = bool
    """Whether somebody has asked to end; looked at before each execution."""
    finding: str = ""
    """The traceback and the input of the first finding; the target runs no more then."""


def run_all(
    tallies: Sequence[Tally],
    cpu_seconds: float,
    directory: Path,
    tell: Callable[[Tally], None],
) -> None:
    """Run all targets for ``cpu_seconds`` in all; ``tell`` is called after every turn and finding.

    Inputs that Hypothesis wants to try again next time go below ``directory``.
    """
    share = cpu_seconds / len(tallies)
    for tally in tallies:
        _attempt(tally, _run_corpus)
        if tally.finding:
            tell(tally)
    while waiting := [t for t in tallies if not t.finding and t.cpu_seconds < share]:
        for tally in waiting:
            _run_turn(tally, min(_TURN, share - tally.cpu_seconds), directory)
            tell(tally)


def run_examples(tally: Tally, examples: int, directory: Path) -> None:
    """Run one target's corpus, and so many inputs that Hypothesis makes up, with variations."""
    _attempt(tally, _run_corpus)
    if not tally.finding:
        _attempt(tally, partial(_search, examples=examples, directory=directory))


def _run_turn(tally: Tally, cpu_seconds: float, directory: Path) -> None:
    stop_at = time.process_time() + cpu_seconds
    while time.process_time() < stop_at and not tally.finding:
        _attempt(tally, partial(_search, examples=_BATCH, directory=directory))


def _attempt(tally: Tally, run: Callable[[Tally], None]) -> None:
    begun = time.process_time()
    try:
        run(tally)
    except Exception as error:
        tally.finding = "".join(traceback.format_exception(error, limit=-_FRAMES))
    finally:
        tally.cpu_seconds += time.process_time() - begun


def _run_corpus(tally: Tally) -> None:
    for value in tally.target.corpus:
        _run_one(tally, value)


def _run_one(tally: Tally, value: object) -> bool:
    if tally.stopped():
        raise KeyboardInterrupt
    tally.executions += 1
    taken = tally.target.run(value)
    tally.taken += taken
    return taken


def _search(tally: Tally, examples: int, directory: Path) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        database=DirectoryBasedExampleDatabase(directory / tally.target.name),
        phases=[Phase.reuse, Phase.generate, Phase.target, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(tally.target.inputs, st.integers(0, 2**32 - 1))
    def search(value: object, seed: int) -> None:
        _run_one(tally, value)
        # Making something up takes Hypothesis longer than most targets take to judge it.
        random = Random(seed)
        for _ in range(_VARIATIONS):
            varied = tally.target.vary(value, random)
            try:
                # What is taken leads deeper than what is refused at once.
                if _run_one(tally, varied):
                    value = varied
            except Exception as error:
                error.add_note(f"varied input: {varied!r}")
                raise

    search()
