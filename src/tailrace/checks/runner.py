"""Runs checks one after the other: those that build on one that failed are skipped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass

from ..common.network_errors import network_error_text
from ..errors import TailraceError
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
    checks: Iterable[Check], begin: Callable[[str], None] = lambda name: None
) -> AsyncIterator[CheckResult]:
    """Yield the result of each check as soon as it is known; ``begin`` gets the name of the next.

    A check is skipped when one that it needs has failed, or was skipped for that reason.
    """
    missing: set[str] = set()
    for check in checks:
        without = next((name for name in check.needs if name in missing), None)
        if without is not None:
            missing.add(check.name)
            yield CheckResult(check.name, skipped(f"not without: {without}"))
            continue
        begin(check.name)
        finding = await _run(check)
        if finding.verdict is Verdict.FAILED:
            missing.add(check.name)
        yield CheckResult(check.name, finding)


async def _run(check: Check) -> Finding:
    try:
        async with asyncio.timeout(check.timeout):
            return await check.run()
    except TailraceError as error:
        return failed(str(error), error.advice)
    except TimeoutError:
        return failed(f"no answer within {check.timeout:g} s")
    except OSError as error:
        return failed(network_error_text(error))
