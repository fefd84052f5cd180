"""Tables, files and the README's section."""

from __future__ import annotations

from pathlib import Path

from bench.model import Failure, Results, Sample
from bench.report import checks, tables
from bench.report.write import readme_section
from bench.scenarios.bulk import Bulk
from bench.scenarios.service import IdleLinks

from .support_results import good_results, results_of


def _failing() -> Results:
    return results_of(
        *(Sample("bulk", "up", "picows", at, {"rate": r}) for at, r in enumerate((1234, 1200))),
        Sample("bulk", "up", "nginx", 0, {"rate": 2000, "cpu_relay": 1.5}),
        failures=(Failure("bulk", "reference", 0, "it died\n    of something"),),
    )


def test_a_table_has_medians_with_their_spread() -> None:
    text = tables.terminal(_failing(), Bulk())
    row = next(line for line in text.splitlines() if "throughput" in line)
    assert row.split() == ["up", "throughput", "MB/s", "1,217", "±8", "2,000", "failed"]


def test_a_table_tells_what_does_not_apply_from_what_failed() -> None:
    text = tables.terminal(_failing(), Bulk())
    row = next(line for line in text.splitlines() if "CPU of the relay" in line)
    assert row.split()[-3:] == ["-", "1.50", "failed"]
    assert "  reference failed in 1 of the rounds: it died" in text.splitlines()


def test_no_table_of_a_scenario_that_was_not_run() -> None:
    assert tables.terminal(results_of(), Bulk()) == ""


def test_a_table_says_that_it_had_fewer_rounds() -> None:
    results = results_of(Sample("idle-links", "0 links", "picows", 0, {"memory": 54}))
    assert "  2 rounds" in tables.terminal(results, IdleLinks()).splitlines()


def test_columns_of_a_table_are_aligned() -> None:
    lines = tables.terminal(good_results(), Bulk()).splitlines()[1:]
    assert len({len(line) for line in lines}) == 1


def test_a_verdict_has_a_line_with_figure_and_bound() -> None:
    text = tables.verdicts(checks.judge(_failing()))
    assert any(
        line.split()
        == [*["BROKEN", "one", "stream", "up,", "against", "nginx", "0.61", "x", ">=", "1", "x"]]
        for line in text.splitlines()
    )


def test_a_comparison_names_what_has_moved_and_nothing_else() -> None:
    before, after = good_results(), good_results()
    for sample in after.samples:
        if (sample.scenario, sample.case, sample.contender) == ("bulk", "up", "picows"):
            sample.values["rate"] *= 0.9
    lines = tables.comparison(before, after).splitlines()
    assert [line.split()[-1] for line in lines if "picows" in line] == ["%"]
    assert "-10 %" in lines[-1]


def test_the_readme_tells_machine_rounds_and_figures() -> None:
    text = readme_section(good_results(), Path("results/latest.md"))
    assert "| one stream up, MB/s | 600 | 600 | 500 | 100 |" in text
    assert "2026-01-02, 3 rounds" in text
    assert "2 x some CPU" in text
    assert "[results/latest.md](results/latest.md)" in text
