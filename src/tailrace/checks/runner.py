"""Runs checks, in order or at once: those that build on one that failed are skipped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass

from ..common.network_errors import network_error_text
from ..errors import LinkError, TailraceError, TimedOut
from .findings import CheckResult, Finding, Verdict, failed, skipped

__all__ = ["Check", "run_checks"]


@dataclass(frozen=True, slots=True)
class Check:
    """One step."""

    name: str
    run: Callable[[], Awaitable[Finding]]
    """An error of this package, or of the network, that it raises is its finding."""
    needs: tuple[str, ...] = ()
    """Names of checks without which it makes no sense."""
    timeout: float = 30.0
    """Seconds: a bound for what has shorter ones of its own."""


async def run_checks(
    checks: Iterable[Check],
    begin: Callable[[str], None] = lambda name: None,
    *,
    at_once: bool = False,
) -> AsyncGenerator[CheckResult, None]:
    """Yield the result of each check as soon as it and those before it are known.

    A check is skipped when one that it needs has failed, or was skipped for that reason.

    Args:
        begin: gets the name of the check that is waited for next.
        at_once: start each check when those that it needs are done, and not one after the other.
    """
    steps = _Steps()
    waiting = [(check, steps.start(check) if at_once else None) for check in checks]
    try:
        for check, started in waiting:
            task = started or steps.start(check)
            if steps.missing.isdisjoint(check.needs):
                begin(check.name)
            yield CheckResult(check.name, await task)
    finally:
        await steps.cancel()


class _Steps:
    """Checks that have begun."""

    def __init__(self) -> None:
        self.missing: set[str] = set()
        """Names of those that have failed, and of those that were skipped for that reason."""
        self._tasks: list[asyncio.Task[Finding]] = []
        self._by_name: dict[str, asyncio.Task[Finding]] = {}

    def start(self, check: Check) -> asyncio.Task[Finding]:
        """Start a check; it begins by waiting for those that it needs."""
        needed = [self._by_name[name] for name in check.needs if name in self._by_name]
        task = asyncio.get_running_loop().create_task(self._settle(check, needed))
        self._tasks.append(task)
        self._by_name[check.name] = task
        return task

    async def cancel(self) -> None:
        """End what has not ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _settle(self, check: Check, needed: list[asyncio.Task[Finding]]) -> Finding:
        if needed:
            await asyncio.wait(needed)
        without = next((name for name in check.needs if name in self.missing), None)
        if without is not None:
            self.missing.add(check.name)
            return skipped(f"not without: {without}")
        finding = await _run(check)
        if finding.verdict is Verdict.FAILED:
            self.missing.add(check.name)
        return finding


async def _run(check: Check) -> Finding:
    try:
        async with asyncio.timeout(check.timeout):
            return await check.run()
    except TailraceError as error:
        return failed(str(error), error.advice, cause=error)
    except TimeoutError:
        text = f"no answer within {check.timeout:g} s"
        return failed(text, cause=TimedOut(text))
    except OSError as error:
        text = network_error_text(error)
        return failed(text, cause=LinkError(text))
