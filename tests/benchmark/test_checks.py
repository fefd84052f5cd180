"""Verdicts on what must hold."""

from __future__ import annotations

import pytest
from bench.model import Failure, Sample
from bench.report.checks import REQUIREMENTS, judge, needed
from bench.scenarios.registry import all_scenarios

from .support_results import good_results, results_of


def test_everything_holds_when_all_figures_are_good() -> None:
    verdicts = judge(good_results())
    assert [verdict.what for verdict in verdicts if not verdict.holds] == []


def test_only_scenarios_that_were_run_are_judged() -> None:
    assert judge(results_of()) == []
    found = judge(results_of(*_bulk("direct", 100)))
    assert {verdict.holds for verdict in found} == {None}
    assert 0 < len(found) < len(REQUIREMENTS)


@pytest.mark.parametrize("index", range(len(REQUIREMENTS)))
def test_each_can_be_broken(index: int) -> None:
    """A figure that is a hundred times too bad breaks what it belongs to."""
    results = good_results()
    figure = REQUIREMENTS[index].figures()[0]
    higher_is_better = figure.metric in ("rate", "share", "correct", "answered", "intact")
    for sample in results.samples:
        place = (sample.scenario, sample.case, sample.contender)
        if place == (figure.scenario, figure.case, figure.contender):
            sample.values[figure.metric] *= 0.01 if higher_is_better else 100
    assert judge(results)[index].holds is False


def _bulk(contender: str, *rates: float) -> list[Sample]:
    return [Sample("bulk", "up", contender, at, {"rate": r}) for at, r in enumerate(rates)]


def test_a_ratio_is_taken_between_medians() -> None:
    results = results_of(*_bulk("picows", 100, 300, 200), *_bulk("nginx", 400, 100, 250))
    verdict = judge(results)[0]
    assert verdict.what == "one stream up, against nginx"
    assert (verdict.measured, verdict.limit, verdict.holds) == ("0.80 x", ">= 1 x", False)


def test_a_limit_may_just_be_reached() -> None:
    results = results_of(*_bulk("picows", 250), *_bulk("nginx", 250))
    assert judge(results)[0].holds


def test_one_side_of_a_ratio_is_not_enough() -> None:
    assert judge(results_of(*_bulk("picows", 250)))[0].measured == "not measured"


def test_what_holds_always_holds_in_every_round() -> None:
    (index,) = (at for at, each in enumerate(REQUIREMENTS) if "echo correctly" in each.what)
    results = good_results()
    assert judge(results)[index].measured == "3 of 3 rounds"
    results.failures.append(Failure("concurrency", "picows", 3, "an answer is wrong"))
    verdict = judge(results)[index]
    assert (verdict.measured, verdict.holds) == ("3 of 4 rounds", False)


def test_what_is_needed_names_scenarios_that_exist() -> None:
    parts = needed()
    assert len(parts) == len(set(parts))
    assert {part.scenario for part in parts} <= {scenario.name for scenario in all_scenarios()}
    assert {part.contender for part in parts} == {"picows", "websockets", "nginx", "reference"}


def test_every_metric_that_is_judged_belongs_to_its_scenario() -> None:
    metrics = {s.name: {metric.name for metric in s.metrics} for s in all_scenarios()}
    for requirement in REQUIREMENTS:
        for figure in requirement.figures():
            assert figure.metric in metrics[figure.scenario], figure
