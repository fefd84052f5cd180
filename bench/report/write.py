"""The files of a run: JSON, Markdown, plot; and the section of the README."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..model import Results
from ..scenarios.registry import all_scenarios
from . import plot, tables
from .checks import Verdict

__all__ = ["readme_section", "write_report"]

LATEST: Final = "latest"


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
    results: Results,
    verdicts: Sequence[Verdict],
    directory: Path,
    *,
    json: bool,
    publish: bool,
) -> list[Path]:
    """Write the files of a run; return their paths.

    They are named by date; with ``publish`` the Markdown and the plot are written as
    ``latest`` too.
    """
    directory.mkdir(parents=True, exist_ok=True)
    stem = results.started.partition("+")[0].replace(":", "").replace("T", "-")
    names = [stem, *([LATEST] if publish else [])]
    written = []
    if json:
        results.write(directory / f"{stem}.json")
        written.append(directory / f"{stem}.json")
    for name in names:
        picture = directory / f"{name}.png"
        drawn = plot.draw(results, picture)
        text = _document(results, verdicts, picture.name if drawn else None)
        (directory / f"{name}.md").write_text(text)
        written += [directory / f"{name}.md", *([picture] if drawn else [])]
    return written


def _document(results: Results, verdicts: Sequence[Verdict], picture: str | None) -> str:
    lines = ["# Benchmark results", "", *_circumstances(results), ""]
    if picture is not None:
        lines += [f"![The main figures]({picture})", ""]
    lines += ["## The main figures", "", *_headlines(results), "", "## What must hold", ""]
    marks = {True: "yes", False: "**no**", None: "not measured"}
    rows = [[v.what, v.measured, v.limit, marks[v.holds]] for v in verdicts]
    lines += tables.markdown_table(["figure", "measured", "limit", "holds"], rows, 1)
    lines += ["", "## All figures", ""]
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


def readme_section(results: Results) -> str:
    """Return the lines for the README: the main figures and what they were measured on."""
    return "\n".join([*_headlines(results), "", *_circumstances(results)])


def _headlines(results: Results) -> list[str]:
    columns = list(results.contenders)
    rows = []
    for line in _HEADLINES:
        medians = [results.median(line.scenario, line.case, c, line.metric) for c in columns]
        if any(value is not None for value in medians):
            cells = ["-" if v is None else tables.number(v, line.digits) for v in medians]
            rows.append([line.label, *cells])
    return tables.markdown_table(["", *columns], rows, 1)


def _circumstances(results: Results) -> list[str]:
    described = "; ".join(f"{name} {value}" for name, value in results.machine.items())
    what = "; ".join(f"*{name}*: {text}" for name, text in results.contenders.items())
    kind = "a quick run, not for comparison with others" if results.quick else "medians"
    foreign = [s.values["foreign"] for s in results.samples if "foreign" in s.values]
    lines = [
        f"{results.started.partition('T')[0]}, {results.rounds} rounds, {kind}. {described}.",
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
