"""The tables, as text for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..model import Metric, Results, Slope
from ..scenarios.base import Scenario
from ..stats import Summary
from .checks import Verdict

__all__ = [
    "comparison",
    "markdown",
    "markdown_table",
    "number",
    "slopes",
    "slopes_markdown",
    "terminal",
    "verdicts",
]

_NOTHING: Final = "-"
_FAILED: Final = "failed"
_WORTH_SAYING: Final = 0.03
"""Least change that a comparison mentions."""


def number(value: float, digits: int) -> str:
    """Format a figure; large ones get separators."""
    return f"{value:,.{digits}f}"


def _cell(summary: Summary | None, metric: Metric, *, failed: bool) -> str:
    """Return median and half of the interquartile range."""
    if summary is None:
        return _FAILED if failed else _NOTHING
    text = number(summary.median, metric.digits)
    if summary.count > 1:
        text += f" ±{number(summary.spread / 2, metric.digits)}"
    return text


def _has_failed(results: Results, scenario: Scenario, case: str, contender: str) -> bool:
    """Tell whether a contender has no figures of a case, and a failure instead."""
    measured = any(
        (sample.scenario, sample.case, sample.contender) == (scenario.name, case, contender)
        for sample in results.samples
    )
    return not measured and bool(results.failed(scenario.name, contender))


def _columns(results: Results, scenario: Scenario) -> list[str]:
    taking_part = {s.contender for s in results.samples if s.scenario == scenario.name}
    taking_part |= {f.contender for f in results.failures if f.scenario == scenario.name}
    return [name for name in results.contenders if name in taking_part]


def _rows(
    results: Results, scenario: Scenario, columns: Sequence[str], *, details: bool
) -> list[list[str]]:
    """Return case, figure, unit and one cell for each contender; empty rows are left out."""
    rows = []
    for case in results.cases(scenario.name):
        without = {column for column in columns if _has_failed(results, scenario, case, column)}
        for metric in scenario.metrics:
            if metric.detail and not details:
                continue
            summaries = [results.summary(scenario.name, case, c, metric.name) for c in columns]
            if any(summaries):
                cells = [
                    _cell(found, metric, failed=column in without)
                    for found, column in zip(summaries, columns, strict=True)
                ]
                rows.append([case, metric.label, metric.unit, *cells])
    return rows


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Return lines with columns of equal width, the first ``left`` of them to the left."""
    widths = [max(len(row[at]) for row in (header, *rows)) for at in range(len(header))]
    lines = []
    for row in (header, *rows):
        cells = [
            text.ljust(width) if at < left else text.rjust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def terminal(results: Results, scenario: Scenario) -> str:
    """Return a scenario's table; "" when nothing of it was measured."""
    columns = _columns(results, scenario)
    rows = _rows(results, scenario, columns, details=False)
    if not columns:
        return ""
    shown = []
    last = ""
    for case, *rest in rows:
        shown.append([case if case != last else "", *rest])
        last = case
    lines = [scenario.title, *_aligned(["", "", "", *columns], shown, 3)]
    lines += [f"  {note}" for note in _notes(results, scenario)]
    return "\n".join(lines)


def _notes(results: Results, scenario: Scenario) -> list[str]:
    """Return what a reader has to know: fewer rounds, and failures, each reason once."""
    counts: dict[tuple[str, str], int] = {}
    for failure in results.failures:
        if failure.scenario == scenario.name:
            key = (failure.contender, failure.reason.splitlines()[0])
            counts[key] = counts.get(key, 0) + 1
    notes = [
        f"{contender} failed in {count} of the rounds: {reason}"
        for (contender, reason), count in counts.items()
    ]
    if scenario.most_rounds is not None and scenario.most_rounds < results.rounds:
        notes.insert(0, f"{scenario.most_rounds} rounds")
    return notes


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Return a Markdown table, the first ``left`` columns aligned to the left."""
    rule = ["---" if at < left else "---:" for at in range(len(header))]
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]


def markdown(results: Results, scenario: Scenario) -> str:
    """Return a scenario's section with all its figures; "" when nothing was measured."""
    columns = _columns(results, scenario)
    if not columns:
        return ""
    rows = _rows(results, scenario, columns, details=True)
    shown = [[case, f"{label}, {unit}", *cells] for case, label, unit, *cells in rows]
    lines = [f"### {scenario.title}", ""]
    lines += markdown_table(["case", "figure", *columns], shown, 2)
    notes = _notes(results, scenario)
    if notes:
        lines += ["", *(f"- {note}" for note in notes)]
    return "\n".join([*lines, ""])


def _slope_rows(found: Sequence[Slope]) -> list[list[str]]:
    return [
        [
            slope.scenario,
            slope.label,
            slope.contender,
            f"{slope.line.slope:,.3g} {slope.unit}",
            f"{slope.line.fit:.3f}",
        ]
        for slope in found
    ]


_SLOPE_HEADER: Final = ["scenario", "cost", "contender", "growth", "R²"]


def slopes(results: Results) -> str:
    """Return how costs grow; "" when nothing was measured."""
    if not results.slopes:
        return ""
    return "\n".join(["Growth", *_aligned(_SLOPE_HEADER, _slope_rows(results.slopes), 3), ""])


def slopes_markdown(results: Results) -> list[str]:
    """Return how costs grow, as lines of Markdown."""
    return markdown_table(_SLOPE_HEADER, _slope_rows(results.slopes), 3)


def verdicts(found: Sequence[Verdict]) -> str:
    """Return what must hold and whether it does; "" when nothing was judged."""
    if not found:
        return ""
    marks = {True: "holds", False: "BROKEN", None: _NOTHING}
    rows = [[marks[v.holds], v.what, v.measured, v.limit] for v in found]
    return "\n".join(["Must hold", *_aligned(["", "", "measured", "limit"], rows, 2)])


def comparison(before: Results, after: Results) -> str:
    """Return the medians that have moved beyond the spread of both runs."""
    rows = []
    seen = dict.fromkeys(
        (sample.scenario, sample.case, sample.contender, name)
        for sample in after.samples
        for name in sample.values
    )
    for scenario, case, contender, metric in seen:
        old = before.summary(scenario, case, contender, metric)
        new = after.summary(scenario, case, contender, metric)
        if old is None or new is None or not old.median:
            continue
        change = new.median / old.median - 1
        apart = new.q1 > old.q3 or new.q3 < old.q1
        if apart and abs(change) >= _WORTH_SAYING:
            values = [f"{old.median:,.4g}", f"{new.median:,.4g}", f"{change * 100:+.0f} %"]
            rows.append([contender, scenario, case, metric, *values])
    header = ["contender", "scenario", "case", "figure", "before", "now", "change"]
    return "\n".join(["", "Moved since the baseline", *_aligned(header, rows, 4)])
