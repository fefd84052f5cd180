"""What is made of samples: medians, verdicts, tables, files."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.__main__ import main
from bench.checks import REQUIREMENTS, judge
from bench.model import Failure, Figure, Results, Sample, Summary
from bench.report import readme_section, scenario_table
from bench.scenarios import SCENARIOS

README = """# tailrace

<!-- benchmark: begin (written by make bench-publish) -->
old figures
<!-- benchmark: end -->

the rest
"""

RATE = Figure("bulk", "up", "rate")
BULK = SCENARIOS[0]
GOOD = ("rate", "ratio", "share", "correct", "answered", "intact")
"""Figures of which more is better."""


def results_of(*samples: Sample, failures: tuple[Failure, ...] = ()) -> Results:
    """Return results with some samples."""
    return Results(
        started="2026-01-02T03:04:05+00:00",
        rounds=3,
        quick=False,
        machine={"CPU": "2 x some CPU", "kernel": "Linux 6.1"},
        contenders={
            name: f"what {name} is" for name in ("picows", "websockets", "nginx", "reference")
        },
        samples=list(samples),
        failures=list(failures),
    )


def bulk(contender: str, *rates: float) -> list[Sample]:
    """Return samples of a stream up, one for each round."""
    return [Sample("bulk", "up", contender, at, {"rate": rate}) for at, rate in enumerate(rates)]


def good_results() -> Results:
    """Return results of three rounds in which everything holds."""
    values: dict[tuple[str, str, str], dict[str, float]] = {}
    for requirement in REQUIREMENTS:
        for (scenario, case, metric), contender in requirement.sides:
            found = values.setdefault((scenario, case, contender), {})
            found[metric] = _good(metric, contender)
    return results_of(
        *(
            Sample(scenario, case, contender, number, dict(figures))
            for number in range(3)
            for (scenario, case, contender), figures in values.items()
        )
    )


def _good(metric: str, contender: str) -> float:
    """Return a figure that suits: 600 is a lot for a rate, 20 is little for anything else."""
    if metric == "rate":
        return {"reference": 100.0, "nginx": 500.0}.get(contender, 600.0)
    if metric == "ratio":
        return 2.0
    return 100.0 if metric in GOOD else {"reference": 100.0, "nginx": 30.0}.get(contender, 20.0)


@pytest.mark.parametrize(
    ("values", "summary"),
    [
        ([7], Summary(7, 7, 7, 1)),
        ([4, 2], Summary(2.5, 3, 3.5, 2)),
        ([5, 1, 3, 1000, 4], Summary(3, 4, 5, 5)),
    ],
)
def test_rounds_make_a_median_and_quartiles(values: list[float], summary: Summary) -> None:
    assert results_of(*bulk("picows", *values)).summary(RATE, "picows") == summary


@pytest.mark.parametrize(
    ("figure", "contender"),
    [
        (Figure("streams", "up", "rate"), "picows"),
        (Figure("bulk", "down", "rate"), "picows"),
        (Figure("bulk", "up", "cpu_ends"), "picows"),
        (RATE, "nginx"),
    ],
)
def test_what_was_not_measured_has_no_median(figure: Figure, contender: str) -> None:
    assert results_of(*bulk("picows", 1)).median(figure, contender) is None


def test_results_survive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    failure = Failure("bulk", "nginx", 1, 'died: "no"\nreally')
    results = results_of(*bulk("picows", 123.456, 1 / 3), failures=(failure,))
    results.write(path)
    results.samples[1].values["rate"] = 0.333333
    assert Results.read(path) == results
    assert sum('"rate"' in line for line in path.read_text().splitlines()) == 2


@pytest.mark.parametrize("text", ["", "{}", '{"format": 99}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="does not hold results"):
        Results.read(path)


def test_everything_holds_when_all_figures_are_good() -> None:
    verdicts = judge(good_results())
    assert len(verdicts) == len(REQUIREMENTS)
    assert [verdict.what for verdict in verdicts if not verdict.holds] == []


@pytest.mark.parametrize("index", range(len(REQUIREMENTS)))
def test_each_can_be_broken(index: int) -> None:
    """A figure that is a hundred times too bad breaks what it belongs to."""
    results = good_results()
    figure, contender = REQUIREMENTS[index].sides[0]
    for sample in results.samples:
        if (sample.scenario, sample.case, sample.contender) == (*figure[:2], contender):
            sample.values[figure.metric] *= 0.01 if figure.metric in GOOD else 100
    assert judge(results)[index].holds is False


def test_a_ratio_is_taken_between_medians_of_both_sides() -> None:
    picows = bulk("picows", 100, 300, 200)
    verdict = judge(results_of(*picows, *bulk("nginx", 400, 100, 250)))[0]
    assert (verdict.what, verdict.measured) == ("one stream up, against nginx", "0.80 x")
    assert (verdict.limit, verdict.holds) == (">= 0.82 x", False)
    assert judge(results_of(*picows, *bulk("nginx", 200)))[0].holds
    assert judge(results_of(*picows))[0].measured == "not measured"
    assert judge(results_of()) == []


def test_what_holds_always_holds_in_every_round() -> None:
    (index,) = (at for at, each in enumerate(REQUIREMENTS) if "echo correctly" in each.what)
    results = good_results()
    assert judge(results)[index].measured == "3 of 3 rounds"
    results.failures.append(Failure("concurrency", "picows", 3, "an answer is wrong"))
    verdict = judge(results)[index]
    assert (verdict.measured, verdict.holds) == ("3 of 4 rounds", False)


def test_what_is_judged_is_measured() -> None:
    measured = {
        (Figure(scenario.name, case, metric.name), contender)
        for scenario in SCENARIOS
        for case in scenario.cases
        for metric in scenario.metrics
        for contender in scenario.contenders
    }
    assert {side for each in REQUIREMENTS for side in each.sides} <= measured


def test_a_table_tells_spread_what_does_not_apply_and_what_failed() -> None:
    results = results_of(
        *bulk("picows", 1234, 1200),
        Sample("bulk", "up", "nginx", 0, {"rate": 2000, "cpu_relay": 1.5}),
        failures=(Failure("bulk", "reference", 0, "it died\n    of something"),),
    )
    assert scenario_table(results, BULK) == [
        "| case | figure | picows | nginx | reference |",
        "| --- | --- | ---: | ---: | ---: |",
        "| up | throughput, MB/s | 1,217 ±8 | 2,000 | failed |",
        "| up | CPU of the relay, s/GB | - | 1.50 | failed |",
        "",
        "- reference failed in 1 of the rounds: it died",
    ]
    assert scenario_table(results_of(), BULK) == []


def test_the_readme_tells_machine_rounds_and_figures() -> None:
    text = readme_section(good_results(), Path("results/latest.md"))
    assert "| one stream up, MB/s | 600 | 600 | 500 | 100 |" in text
    assert "| short connections one by one, /s | 600 | - | - | - |" in text
    assert "2026-01-02, 3 rounds" in text
    assert "2 x some CPU" in text
    assert "[results/latest.md](results/latest.md)" in text


def test_publishing_replaces_the_section_of_the_readme(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(README)
    good_results().write(tmp_path / "run.json")
    arguments = ["--render", str(tmp_path / "run.json"), "--output", str(tmp_path / "results")]
    for _ in range(2):
        assert main([*arguments, "--publish", str(readme)]) == 0
    text = readme.read_text()
    assert "old figures" not in text
    assert text.startswith("# tailrace\n\n<!-- benchmark: begin")
    assert text.endswith("<!-- benchmark: end -->\n\nthe rest\n")
    assert text.count("one stream up, MB/s") == 1
    names = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert names == ["latest.json", "latest.md"]
    report = (tmp_path / "results" / "latest.md").read_text()
    assert "| one stream up, against nginx | 1.20 x | >= 0.82 x | yes |" in report


def test_a_readme_without_a_place_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# tailrace\n")
    good_results().write(tmp_path / "run.json")
    arguments = ["--render", str(tmp_path / "run.json"), "--output", str(tmp_path / "results")]
    assert main([*arguments, "--publish", str(readme)]) == 1
    assert f"bench: {readme}: no lines <!-- benchmark: begin" in capsys.readouterr().err
    assert readme.read_text() == "# tailrace\n"
    assert not (tmp_path / "results").exists()
