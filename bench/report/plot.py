"""The main figures as one picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..model import Results

__all__ = ["draw"]


@dataclass(frozen=True, slots=True)
class _Panel:
    """One group of bars: cases by contender."""

    title: str
    scenario: str
    cases: tuple[str, ...]
    metric: str
    unit: str
    logarithmic: bool = False


_PANELS: Final = (
    _Panel("One stream", "bulk", ("up", "down", "both"), "rate", "MB/s"),
    _Panel("CPU of source + destination", "bulk", ("up", "down", "both"), "cpu_ends", "s/GB"),
    _Panel("Many streams up", "streams", ("1 up", "4 up", "16 up", "64 up"), "rate", "MB/s"),
    _Panel(
        "64 B round trip, p50",
        "latency",
        ("64 B idle", "64 B beside bulk up", "64 B beside bulk down"),
        "p50",
        "ms",
        logarithmic=True,
    ),
    _Panel(
        "64 B on a link of 800 kB/s, p99",
        "slow-link",
        ("alone", "bulk up", "bulk down"),
        "p99",
        "ms",
        logarithmic=True,
    ),
    _Panel(
        "Short connections",
        "connects",
        ("one after the other", "64 at a time"),
        "rate",
        "/s",
        logarithmic=True,
    ),
    _Panel(
        "Memory of a connection in the source",
        "concurrency",
        ("100 connections", "1000 connections", "10000 connections"),
        "kib_source",
        "KiB",
    ),
    _Panel(
        "Growth with a stalled reader",
        "stalled",
        ("bulk down", "bulk up"),
        "growth",
        "MiB",
    ),
    _Panel("Idle memory", "footprint", ("at rest",), "rss_source", "MiB"),
)

_COLUMNS: Final = 3
_BAND: Final = 0.84
"""Share of a case's room that its bars take."""


def draw(results: Results, path: Path) -> bool:
    """Draw what was measured; return whether there was something, and matplotlib to draw it."""
    panels = [panel for panel in _PANELS if _bars(results, panel)]
    if not panels:
        return False
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot

    rows = -(-len(panels) // _COLUMNS)
    figure, axes = pyplot.subplots(
        rows, _COLUMNS, figsize=(5.2 * _COLUMNS, 3.6 * rows), squeeze=False, layout="constrained"
    )
    colours = {name: mpl.colormaps["tab10"](at % 10) for at, name in enumerate(results.contenders)}
    handles: dict[str, Any] = {}
    for axis, panel in zip(axes.flat, panels, strict=False):
        handles |= _draw_panel(axis, results, panel, colours)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    ordered = {name: handles[name] for name in results.contenders if name in handles}
    figure.legend(
        ordered.values(), ordered.keys(), loc="outside lower center", ncols=max(len(ordered), 1)
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


def _bars(results: Results, panel: _Panel) -> list[str]:
    """Return the contenders that have figures for a panel."""
    return [
        name
        for name in results.contenders
        if any(results.values(panel.scenario, case, name, panel.metric) for case in panel.cases)
    ]


def _draw_panel(
    axis: Any, results: Results, panel: _Panel, colours: dict[str, Any]
) -> dict[str, Any]:
    """Draw one panel; return a handle for each contender, for the legend."""
    names = _bars(results, panel)
    cases = [
        case
        for case in panel.cases
        if any(results.values(panel.scenario, case, name, panel.metric) for name in names)
    ]
    width = _BAND / len(names)
    handles: dict[str, Any] = {}
    least = math.inf
    for at, name in enumerate(names):
        places, heights, below, above = [], [], [], []
        for index, case in enumerate(cases):
            summary = results.summary(panel.scenario, case, name, panel.metric)
            if summary is None:
                continue
            places.append(index - _BAND / 2 + width * (at + 0.5))
            heights.append(summary.median)
            below.append(summary.median - summary.q1)
            above.append(summary.q3 - summary.median)
            least = min(least, summary.q1)
        handles[name] = axis.bar(
            places,
            heights,
            width * 0.94,
            yerr=(below, above),
            color=colours[name],
            error_kw={"elinewidth": 0.8},
        )
    axis.set_title(panel.title, fontsize=11)
    axis.set_ylabel(panel.unit)
    axis.set_xticks(range(len(cases)), [_short(case) for case in cases], fontsize=8)
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    if panel.logarithmic and least > 0:
        axis.set_yscale("log")
        # A bar of no height would look like a figure that is missing.
        axis.set_ylim(bottom=10.0 ** math.floor(math.log10(least / 2)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
    return handles


def _short(case: str) -> str:
    return case.removesuffix(" connections").replace(" beside ", "\nbeside ")
