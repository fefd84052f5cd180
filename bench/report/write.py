"""The files of a run: JSON, Markdown, plot; and the section of the README."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..model import Results
from ..scenarios.registry import all_scenarios
from . import plot, tables
from .checks import Verdict

__all__ = ["publish", "readme_section", "write_report"]

LATEST: Final = "latest"
_BEGIN: Final = "<!-- benchmark: begin (written by make bench-publish) -->"
_END: Final = "<!-- benchmark: end -->"


@dataclass(frozen=True, slots=True)
class _Headline:
    """A row of the README's table."""

    label: str
    scenario: str
    case: str
    metric: str
    digits: int


_HEADLINES: Final = (
    _Headline("one stream up, MB/s", "bulk", "up", "rate", 0),
    _Headline("one stream down, MB/s", "bulk", "down", "rate", 0),
    _Headline("64 streams up, MB/s", "streams", "64 up", "rate", 0),
    _Headline("64 streams down, MB/s", "streams", "64 down", "rate", 0),
    _Headline("CPU of both ends, up, s/GB", "bulk", "up", "cpu_ends", 2),
    _Headline("CPU of both ends, down, s/GB", "bulk", "down", "cpu_ends", 2),
    _Headline("64 B round trip, p50, ms", "latency", "64 B idle", "p50", 2),
    _Headline("64 B round trip, p99, ms", "latency", "64 B idle", "p99", 2),
    _Headline("the same beside bulk up, p99, ms", "latency", "64 B beside bulk up", "p99", 1),
    _Headline("800 kB/s link, beside bulk up, p99, ms", "slow-link", "bulk up", "p99", 0),
    _Headline("800 kB/s link, beside bulk down, p99, ms", "slow-link", "bulk down", "p99", 0),
    _Headline("short connections one by one, /s", "connects", "one after the other", "rate", 0),
    _Headline("short connections 64 at a time, /s", "connects", "64 at a time", "rate", 0),
    _Headline(
        "memory of one of 10,000 connections, source, KiB",
        "concurrency",
        "10000 connections",
        "kib_source",
        1,
    ),
    _Headline("stalled reader, growth, MiB", "stalled", "bulk down", "growth", 1),
    _Headline("idle memory of the source, MiB", "footprint", "at rest", "rss_source", 0),
    _Headline("source ready after, ms", "footprint", "at rest", "ready_source", 0),
)


def write_report(
    results: Results, verdicts: Sequence[Verdict], directory: Path, name: str | None = None
) -> list[Path]:
    """Write JSON, Markdown and plot of a run, named by its date; return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    stem = name or results.started.partition("+")[0].replace(":", "").replace("T", "-")
    picture = directory / f"{stem}.png"
    drawn = plot.draw(results, picture)
    results.write(directory / f"{stem}.json")
    text = _document(results, verdicts, picture.name if drawn else None)
    (directory / f"{stem}.md").write_text(text)
    files = [directory / f"{stem}.json", directory / f"{stem}.md"]
    return [*files, picture] if drawn else files


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
    written = write_report(results, verdicts, directory, LATEST)
    report = Path(os.path.relpath(directory, readme.parent)) / f"{LATEST}.md"
    readme.write_text(f"{before}{begin}\n{readme_section(results, report)}\n{end}{after}")
    return [*written, readme]


def _document(results: Results, verdicts: Sequence[Verdict], picture: str | None) -> str:
    lines = ["# Benchmark results", "", *_circumstances(results), ""]
    if picture is not None:
        lines += [f"![The main figures]({picture})", ""]
    headlines = _headlines(results)
    if headlines:
        lines += ["## The main figures", "", *headlines, ""]
    if verdicts:
        marks = {True: "yes", False: "**no**", None: "not measured"}
        rows = [[v.what, v.measured, v.limit, marks[v.holds]] for v in verdicts]
        lines += ["## What must hold", ""]
        lines += tables.markdown_table(["figure", "measured", "limit", "holds"], rows, 1)
        lines.append("")
    lines += ["## All figures", ""]
    lines.append(
        "Medians, ± half of the interquartile range over the rounds. "
        "MB are 10⁶ bytes, MiB 2²⁰. A dash: not applicable or not measured."
    )
    lines.append("")
    lines += [text for scenario in all_scenarios() if (text := tables.markdown(results, scenario))]
    if results.slopes:
        lines += ["## Growth of costs", "", *tables.slopes_markdown(results), ""]
    if results.skips:
        lines += ["## Left out", ""]
        lines += [f"- {skip.what}: {skip.reason}" for skip in results.skips]
        lines.append("")
    return "\n".join(lines)


def readme_section(results: Results, report: Path) -> str:
    """Return the lines for the README: the main figures and what they were measured on."""
    lines = [*_headlines(results), "", *_circumstances(results)]
    lines += ["", f"All figures, their spread and what must hold: [{report}]({report})."]
    return "\n".join(lines)


def _headlines(results: Results) -> list[str]:
    found: dict[_Headline, dict[str, float]] = {}
    for line in _HEADLINES:
        for contender in results.contenders:
            median = results.median(line.scenario, line.case, contender, line.metric)
            if median is not None:
                found.setdefault(line, {})[contender] = median
    columns = [name for name in results.contenders if any(name in row for row in found.values())]
    rows = [
        [line.label, *(tables.number(row[c], line.digits) if c in row else "-" for c in columns)]
        for line, row in found.items()
    ]
    return tables.markdown_table(["", *columns], rows, 1) if rows else []


def _circumstances(results: Results) -> list[str]:
    described = "; ".join(f"{name} {value}" for name, value in results.machine.items())
    taking_part = {sample.contender for sample in results.samples}
    contenders = {n: text for n, text in results.contenders.items() if n in taking_part}
    what = "; ".join(f"*{name}*: {text}" for name, text in contenders.items())
    kind = "a quick run, not for comparison with others" if results.quick else "medians"
    rounds = f"{results.rounds} round{'s' if results.rounds > 1 else ''}"
    foreign = [s.values["foreign"] for s in results.samples if "foreign" in s.values]
    lines = [
        f"{results.started.partition('T')[0]}, {rounds}, {kind}. {described}.",
        "",
        f"{what}.",
    ]
    if foreign:
        ordered = sorted(foreign)
        lines += [
            "",
            f"Other programs used {ordered[len(ordered) // 2]:.0f} % of the machine in the median "
            f"and {ordered[-1]:.0f} % at most while bulk was measured.",
        ]
    return lines
