"""Results: what is kept, read back and put together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench.model import Failure, Results, Sample

from .support_results import results_of


def _sample(scenario: str = "bulk", number: int = 0, rate: float = 1.0) -> Sample:
    return Sample(scenario, "up", "picows", number, {"rate": rate})


def test_figures_of_all_rounds_make_a_summary() -> None:
    results = results_of(*(_sample(number=n, rate=r) for n, r in enumerate((3.0, 1.0, 2.0))))
    assert results.values("bulk", "up", "picows", "rate") == [3.0, 1.0, 2.0]
    assert results.median("bulk", "up", "picows", "rate") == 2.0


@pytest.mark.parametrize(
    "place",
    [
        ("streams", "up", "picows", "rate"),
        ("bulk", "down", "picows", "rate"),
        ("bulk", "up", "nginx", "rate"),
        ("bulk", "up", "picows", "cpu_ends"),
    ],
)
def test_what_was_not_measured_has_no_median(place: tuple[str, str, str, str]) -> None:
    assert results_of(_sample()).median(*place) is None


def test_results_survive_their_file(tmp_path: Path) -> None:
    failure = Failure("bulk", "ssh", 1, 'died: "no"\nreally')
    results = results_of(_sample(rate=123.456), failures=(failure,))
    results.write(tmp_path / "new" / "results.json")
    assert Results.read(tmp_path / "new" / "results.json") == results


def test_a_file_holds_a_sample_a_line_and_no_needless_digits(tmp_path: Path) -> None:
    results_of(_sample(rate=1 / 3), _sample(number=1)).write(tmp_path / "results.json")
    lines = (tmp_path / "results.json").read_text().splitlines()
    samples = [line for line in lines if '"rate"' in line]
    assert len(samples) == 2
    assert json.loads(samples[0].rstrip(","))["values"] == {"rate": 0.333333}


@pytest.mark.parametrize("text", ["", "{}", '{"format": 99}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="does not hold results"):
        Results.read(path)


def test_of_a_scenario_run_twice_the_later_one_counts() -> None:
    first = results_of(_sample(), _sample("latency"))
    again = results_of(_sample(rate=9.0))
    whole = Results.merged([first, again])
    assert whole.values("bulk", "up", "picows", "rate") == [9.0]
    assert whole.values("latency", "up", "picows", "rate") == [1.0]
    assert len(whole.skips) == 1


def test_a_whole_is_as_quick_as_its_quickest_part() -> None:
    short = results_of(_sample())
    short.rounds, short.quick = 1, True
    whole = Results.merged([results_of(_sample("latency")), short])
    assert (whole.rounds, whole.quick) == (1, True)


def test_nothing_cannot_be_merged() -> None:
    with pytest.raises(ValueError, match="no results"):
        Results.merged([])
