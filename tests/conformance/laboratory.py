"""Where scenarios run: many at a time, as most of them mostly wait.

A scenario is a coroutine function that takes a :class:`~conformance.lab.Lab`. The
decorator :func:`scenario` makes a test of it, which only fetches the outcome: when the
first test asks for its own, the :class:`Laboratory` starts all scenarios of the session,
in order and a few at a time, in an event loop of its own in a thread of its own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ssl
import threading
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pytest

from conformance.lab import Lab, Shared
from conformance.progress import Progress
from conformance.targets import Target

__all__ = ["Laboratory", "Outcome", "Script", "Task", "Trial", "scenario"]

_AT_ONCE: Final = 8
"""Scenarios that run at the same time."""
_QUEUE: Final = 600
"""Seconds that a scenario may take, its wait for others included."""
_NOTICE: Final = 0.5
"""Seconds that a proxy gets to be seen dead, when a scenario has failed."""

Script = Callable[[Lab], Awaitable[None]]


@dataclass(frozen=True)
class Trial:
    """A scenario as it was written down."""

    script: Script
    numbers: tuple[str, ...]
    patience: float
    ours_alone: bool


def scenario(
    *numbers: str, patience: float = 0.0, ours_alone: bool = False
) -> Callable[[Script], Callable[[Outcome], None]]:
    """Make a test of a coroutine function.

    Args:
        numbers: what it shows, keys of ``titles.TITLES``.
        patience: seconds a foreign command is given, where it may rightly need more than
            the usual.
        ours_alone: whether it is about our service, or about what only proxies of ours do.
    """

    def decorate(script: Script) -> Callable[[Outcome], None]:
        def test(outcome: Outcome) -> None:
            outcome.judge()

        test.__name__ = test.__qualname__ = script.__name__
        test.__doc__ = script.__doc__
        test.__module__ = script.__module__
        trial = Trial(script, numbers, patience, ours_alone)
        marked = pytest.mark.scenario(*numbers, trial=trial)(test)
        return pytest.mark.timeout(_QUEUE)(marked)

    return decorate


@dataclass(frozen=True)
class Task:
    """A scenario, and whom it is for."""

    trial: Trial
    target: Target


@dataclass(frozen=True)
class Outcome:
    """How a scenario ended."""

    target: Target
    error: BaseException | None = None
    reason: str = ""
    """One line; empty when all was well."""

    def judge(self) -> None:
        """Raise what the scenario raised; what a foreign command gets wrong is only noted."""
        if self.error is None:
            return
        if isinstance(self.error, pytest.skip.Exception):
            pytest.skip(str(self.error))
        if not self.target.is_ours:
            pytest.xfail(self.reason)
        raise self.error


class Laboratory:
    """Runs the scenarios of a session."""

    def __init__(self, tasks: Mapping[str, Task], directory: Path, full: bool) -> None:
        self._tasks = tasks
        self._directory = directory
        self._full = full
        self._futures: dict[str, concurrent.futures.Future[Outcome]] = {
            name: concurrent.futures.Future() for name in tasks
        }
        self._fetched = 0
        self._thread = threading.Thread(target=self._run, name="laboratory")
        self._loop: asyncio.AbstractEventLoop
        self._main: asyncio.Task[None]
        self._started = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def outcome(self, name: str) -> Outcome:
        """Wait for a scenario's outcome; the last one ends the laboratory."""
        outcome = self._futures[name].result()
        self._fetched += 1
        if self.is_done:
            self._stop()
        return outcome

    @property
    def is_done(self) -> bool:
        """Whether every outcome was asked for."""
        return self._fetched == len(self._futures)

    def _stop(self) -> None:
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it has just ended by itself
                self._loop.call_soon_threadsafe(self._main.cancel)
            self._thread.join()

    # -- in the thread ---------------------------------------------------------------

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._run_all())
        for future in self._futures.values():
            future.cancel()

    async def _run_all(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._main = task
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(_heed_bugs)
        self._started.set()
        turnstile = asyncio.Semaphore(_AT_ONCE)
        with Shared(self._directory, self._full) as shared:
            async with asyncio.TaskGroup() as group:
                for name in self._tasks:
                    group.create_task(self._run_one(name, shared, turnstile))

    async def _run_one(self, name: str, shared: Shared, turnstile: asyncio.Semaphore) -> None:
        task = self._tasks[name]
        async with turnstile:
            try:
                outcome = await self._attempt(task.trial, task.target, shared)
            except Exception as error:
                outcome = Outcome(task.target, error, f"{type(error).__name__}: {error}")
        self._futures[name].set_result(outcome)

    async def _attempt(self, trial: Trial, target: Target, shared: Shared) -> Outcome:
        if trial.ours_alone and not target.is_ours:
            return Outcome(target, pytest.skip.Exception("is about what only ours has"))
        progress = Progress()
        patience = target.patience if target.is_ours else max(trial.patience, target.patience)
        error: BaseException | None = None
        async with contextlib.AsyncExitStack() as stack:
            directory = self._directory / f"{trial.script.__name__}-{target.key}"
            lab = Lab(shared, target, directory, stack)
            try:
                async with asyncio.timeout(patience):
                    await lab.perform(trial.script)
            except TimeoutError as timeout:
                error = AssertionError(f"waited in vain for {progress.waits_for}")
                error.__cause__ = timeout
            except (pytest.skip.Exception, Exception) as raised:
                error = raised
            if error is None or isinstance(error, pytest.skip.Exception):
                return Outcome(target, error)
            deaths = await lab.deaths(_NOTICE)
            reason = "; ".join(deaths) or _one_line(error)
            error.add_note("\n".join([*deaths, *lab.logs()]))
            return Outcome(target, error, reason)


def _one_line(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0]
    if text and isinstance(error, AssertionError):
        return text
    # A bare assert: its source line says what was expected.
    frames = traceback.extract_tb(error.__traceback__)
    ours = [each for each in frames if "conformance" in each.filename]
    where = ours[-1].line if ours else ""
    kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__} {text}: "
    return f"{kind}{where}".strip()


def _heed_bugs(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Stay quiet about connections that a proxy has cut; tell of everything else."""
    if not isinstance(context.get("exception"), OSError | ssl.SSLError | EOFError):
        loop.default_exception_handler(context)
