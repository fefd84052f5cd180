"""Look at what runs on this machine: once, or again and again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TextIO

from .processes import Reading, read_processes
from .rates import rates_between
from .screens import screen

__all__ = ["look", "watch"]

_SPAN: Final = 0.5
"""Seconds between the two readings from which a single look has its rates."""


async def look(places: Sequence[Path], out: TextIO, *, as_json: bool) -> None:
    """Show what runs.

    Raises:
        ConfigurationError: a directory cannot be used.
    """
    before = after = await read_processes(places)
    if before:
        await asyncio.sleep(_SPAN)
        after = await read_processes(places)
    with screen(out, as_json=as_json, is_live=False) as show:
        show(after, rates_between(_documents(before), _documents(after)))


async def watch(
    places: Sequence[Path], out: TextIO, *, as_json: bool, interval: float, count: int
) -> None:
    """Show what runs, every ``interval`` seconds, ``count`` times; 0 is for ever.

    Raises:
        ConfigurationError: a directory cannot be used.
    """
    before: list[Reading] = []
    shown = 0
    with screen(out, as_json=as_json, is_live=True) as show:
        while True:
            began = time.monotonic()
            after = await read_processes(places)
            show(after, rates_between(_documents(before), _documents(after)))
            before = after
            shown += 1
            if shown == count:
                return
            await asyncio.sleep(max(0.0, began + interval - time.monotonic()))


def _documents(readings: Sequence[Reading]) -> list[Mapping[str, Any]]:
    return [each.document for each in readings if each.document is not None]
