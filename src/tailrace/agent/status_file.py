"""The status of an agent, as JSON, and a file that shows it to other programs."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Final

from ..common.atomic_files import write_atomically
from ..common.periodic import every
from .agent import Agent, AgentStatus

__all__ = ["status_document", "status_shown"]

_PERIOD: Final = 60.0
"""Seconds after which it is written although no tunnel has come, gone or changed."""
_DELAY: Final = 0.2
"""Seconds in which changes are put together."""
_MODE: Final = 0o644

_log = logging.getLogger("tailrace.agent")


def status_document(status: AgentStatus) -> dict[str, object]:
    """Return a status for JSON, with the id of this process; it holds no token."""
    return {"pid": os.getpid(), **asdict(status)}


@contextmanager
def status_shown(agent: Agent, path: Path) -> Iterator[None]:
    """Keep the status of an agent in a file for the body, and remove it then."""
    loop = asyncio.get_running_loop()
    writer = _Writer(agent, path)
    unsubscribe = agent.subscribe(lambda: writer.schedule(loop))
    try:
        writer.write()
        with every(loop, _PERIOD, writer.write):
            yield
    finally:
        unsubscribe()
        writer.cancel()
        with suppress(OSError):
            path.unlink(missing_ok=True)


class _Writer:
    """Writes the file, at most so often."""

    def __init__(self, agent: Agent, path: Path) -> None:
        self._agent = agent
        self._path = path
        self._timer: asyncio.TimerHandle | None = None
        self._failure = ""

    def schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is None:
            self._timer = loop.call_later(_DELAY, self.write)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def write(self) -> None:
        self.cancel()
        content = json.dumps(status_document(self._agent.status()), indent=1).encode() + b"\n"
        try:
            write_atomically(self._path, content, _MODE, durable=False)
            self._failure = ""
        except OSError as error:
            # Once: it may fail for days.
            failure = f"cannot write {self._path}: {error.strerror}"
            if failure != self._failure:
                _log.warning("%s", failure)
            self._failure = failure
