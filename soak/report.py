"""What a person sees of a soak."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from .figures import Figures
from .looks import Growth
from .rig import Rig

__all__ = ["aligned", "progress", "table"]

_MIB: Final = 1 << 20


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:3}:{int(seconds) % 60:02}"


def progress(elapsed: float, total: float, built: Rig) -> str:
    """Return one line on how it goes."""
    figures = built.figures
    up = sum(line.is_up for line in built.lines)
    failures = sum(figures.failures.values())
    return (
        f"[{_clock(elapsed)} /{_clock(total)}] {up}/{len(built.lines)} tunnels up, "
        f"{figures.opened.total():,} connections, "
        f"{(figures.bytes_up + figures.bytes_down) / _MIB:,.0f} MiB, "
        f"{figures.faults.total()} faults, {failures} failures"
    )


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counter.most_common()) or "none"


def aligned(rows: Sequence[tuple[str, str]]) -> str:
    """Return lines with a name and a value each."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def table(figures: Figures, memory: Mapping[str, Growth], seconds: float) -> str:
    """Return the table that a soak ends with."""
    rows = [
        ("time", f"{seconds / 60:.1f} minutes"),
        ("bytes checked upwards", f"{figures.bytes_up:,}"),
        ("bytes checked downwards", f"{figures.bytes_down:,}"),
        ("connections", f"{figures.opened.total():,}: {_listed(figures.opened)}"),
        ("  ended", _listed(figures.ended)),
        ("faults", f"{figures.faults.total():,}: {_listed(figures.faults)}"),
        ("reconnects", f"{figures.links:,}"),
        ("restarts", f"{figures.restarts:,}"),
        *((f"memory of {role}", str(growth)) for role, growth in sorted(memory.items())),
        *(
            (what, str(figures.failures[what]))
            for what in ("wrong bytes", "crash", "hung", "cut without a fault", "not back")
        ),
        ("leaks", str(figures.failures["leak"] + figures.failures["memory"])),
    ]
    return aligned(rows)
