"""The tables of a run, and its files: JSON, Markdown, and the section of the README."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .checks import Verdict
from .model import Figure, Metric, Results
from .scenarios import SCENARIOS, Scenario

__all__ = ["publish", "readme_section", "scenario_table", "verdict_table", "write_report"]

_BEGIN: Final = "<!-- benchmark: begin (written by make bench-publish) -->"
_END: Final = "<!-- benchmark: end -->"
_MARKS: Final = {True: "yes", False: "**no**", None: "not measured"}

_HEADLINES: Final[Sequence[tuple[str, Figure, int]]] = (
    ("one stream up, MB/s", Figure("bulk", "up", "rate"), 0),
    ("one stream down, MB/s", Figure("bulk", "down", "rate"), 0),
    ("64 streams up, MB/s", Figure("streams", "64 up", "rate"), 0),
    ("64 streams down, MB/s", Figure("streams", "64 down", "rate"), 0),
    ("CPU of both ends, up, s/GB", Figure("bulk", "up", "cpu_ends"), 2),
    ("CPU of both ends, down, s/GB", Figure("bulk", "down", "cpu_ends"), 2),
    ("64 B round trip, p50, ms", Figure("latency", "64 B idle", "p50"), 2),
    ("64 B round trip, p99, ms", Figure("latency", "64 B idle", "p99"), 2),
    ("800 kB/s link, beside bulk up, p99, ms", Figure("slow-link", "bulk up", "p99"), 0),
    ("800 kB/s link, beside bulk down, p99, ms", Figure("slow-link", "bulk down", "p99"), 0),
    ("short connections one by one, /s", Figure("connects", "one after the other", "rate"), 0),
    (
        "memory of one of 10,000 connections, source, KiB",
        Figure("concurrency", "10000 connections", "kib_source"),
        1,
    ),
    ("stalled reader, growth, MiB", Figure("stalled", "bulk down", "growth"), 1),
)
"""Rows of the README's table: what, and with how many digits."""


def scenario_table(results: Results, scenario: Scenario) -> list[str]:
    """Return the lines of a scenario's table and notes; none if nothing of it was measured."""
    taking_part = {s.contender for s in results.samples if s.scenario == scenario.name}
    taking_part |= {f.contender for f in results.failures if f.scenario == scenario.name}
    columns = [name for name in results.contenders if name in taking_part]
    if not columns:
        return []
    rows = []
    for case in scenario.cases:
        for metric in scenario.metrics:
            figure = Figure(scenario.name, case, metric.name)
            cells = [_cell(results, figure, metric, contender) for contender in columns]
            if any(results.values(figure, contender) for contender in columns):
                rows.append([case, f"{metric.label}, {metric.unit}", *cells])
    counts: dict[tuple[str, str], int] = {}
    for failure in results.failures:
        if failure.scenario == scenario.name:
            key = (failure.contender, failure.reason.splitlines()[0])
            counts[key] = counts.get(key, 0) + 1
    notes = [
        f"- {contender} failed in {count} of the rounds: {reason}"
        for (contender, reason), count in counts.items()
    ]
    return [*_table(["case", "figure", *columns], rows, 2), *([""] if notes else []), *notes]


def _cell(results: Results, figure: Figure, metric: Metric, contender: str) -> str:
    """Return median and half of the interquartile range."""
    summary = results.summary(figure, contender)
    if summary is None:
        measured = any(
            (sample.scenario, sample.case, sample.contender)
            == (figure.scenario, figure.case, contender)
            for sample in results.samples
        )
        failed = results.failed(figure.scenario, contender)
        return "failed" if failed and not measured else "-"
    text = f"{summary.median:,.{metric.digits}f}"
    if summary.rounds > 1:
        text += f" ±{(summary.q3 - summary.q1) / 2:,.{metric.digits}f}"
    return text


def verdict_table(verdicts: Sequence[Verdict]) -> list[str]:
    """Return the lines of what must hold and whether it does."""
    rows = [[*texts, _MARKS[holds]] for *texts, holds in verdicts]
    return _table(["figure", "measured", "limit", "holds"], rows, 1)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Return a Markdown table, the first ``left`` columns aligned to the left."""
    rule = ["---" if at < left else "---:" for at in range(len(header))]
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]


def write_report(
    results: Results, verdicts: Sequence[Verdict], directory: Path, name: str | None = None
) -> list[Path]:
    """Write JSON and Markdown of a run, named by its date; return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    stem = name or results.started.partition("+")[0].replace(":", "").replace("T", "-")
    paths = [directory / f"{stem}.json", directory / f"{stem}.md"]
    results.write(paths[0])
    paths[1].write_text(_document(results, verdicts))
    return paths


def publish(
    results: Results, verdicts: Sequence[Verdict], directory: Path, readme: Path
) -> list[Path]:
    """Write the files that belong to the repository, and the README's section.

    Raises:
        ValueError: the README has no place for it.
    """
    before, begin, rest = readme.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{readme}: no lines {_BEGIN} and {_END}")
    written = write_report(results, verdicts, directory, "latest")
    report = Path(os.path.relpath(directory, readme.parent)) / "latest.md"
    readme.write_text(f"{before}{begin}\n{readme_section(results, report)}\n{end}{after}")
    return [*written, readme]


def readme_section(results: Results, report: Path) -> str:
    """Return the lines for the README: the main figures and what they were measured on."""
    link = f"All figures, their spread and what must hold: [{report}]({report})."
    return "\n".join([*_headlines(results), "", *_circumstances(results), "", link])


def _document(results: Results, verdicts: Sequence[Verdict]) -> str:
    lines = ["# Benchmark results", "", *_circumstances(results), ""]
    lines += ["## The main figures", "", *_headlines(results), ""]
    if verdicts:
        lines += ["## What must hold", "", *verdict_table(verdicts), ""]
    lines += [
        *("## All figures", ""),
        "Medians, ± half of the interquartile range over the rounds. "
        "MB are 10⁶ bytes, MiB 2²⁰. A dash: not applicable or not measured.",
        "",
    ]
    for scenario in SCENARIOS:
        if table := scenario_table(results, scenario):
            lines += [f"### {scenario.title}", "", *table, ""]
    if results.skips:
        lines += ["## Left out", "", *(f"- {skip}" for skip in results.skips), ""]
    return "\n".join(lines)


def _headlines(results: Results) -> list[str]:
    rows = []
    for label, figure, digits in _HEADLINES:
        medians = [results.median(figure, name) for name in results.contenders]
        if any(medians):
            rows.append([label, *("-" if m is None else f"{m:,.{digits}f}" for m in medians)])
    # Who has no main figure gets no column.
    header = ["", *results.contenders]
    kept = [at for at in range(len(header)) if any(row[at] != "-" for row in rows)]
    return _table([header[at] for at in kept], [[row[at] for at in kept] for row in rows], 1)


def _circumstances(results: Results) -> list[str]:
    taking_part = {sample.contender for sample in results.samples}
    described = "; ".join(f"{name} {value}" for name, value in results.machine.items())
    what = "; ".join(f"*{n}*: {text}" for n, text in results.contenders.items() if n in taking_part)
    kind = "a quick run, not for comparison with others" if results.quick else "medians"
    rounds = f"{results.rounds} round{'s' if results.rounds > 1 else ''}"
    lines = [
        f"{results.started.partition('T')[0]}, {rounds}, {kind}. {described}.",
        *("", f"{what}."),
    ]
    foreign = sorted(s.values["foreign"] for s in results.samples if "foreign" in s.values)
    if foreign:
        lines += [
            "",
            f"Other programs used {foreign[len(foreign) // 2]:.0f} % of the machine in the median "
            f"and {foreign[-1]:.0f} % at most while bulk was measured.",
        ]
    return lines
