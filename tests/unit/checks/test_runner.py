"""Checks run in order; what builds on a failure is skipped, and errors are findings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest

from support.plugins.clock import ClockLoop
from tailrace.checks.findings import CheckResult, Finding, Verdict, failed, ok, skipped
from tailrace.checks.runner import Check, run_checks
from tailrace.errors import ControlThrottled, LinkError, TimedOut


def finds(finding: Finding) -> Callable[[], Awaitable[Finding]]:
    async def run() -> Finding:
        return finding

    return run


def raises(error: Exception) -> Callable[[], Awaitable[Finding]]:
    async def run() -> Finding:
        raise error

    return run


async def results(*checks: Check) -> list[CheckResult]:
    return [each async for each in run_checks(checks)]


async def test_what_builds_on_a_failure_is_skipped() -> None:
    begun: list[str] = []
    checks = [
        Check("a", finds(failed("broken"))),
        Check("b", finds(ok("never")), needs=("a",)),
        Check("c", finds(ok("never")), needs=("x", "b")),
        Check("d", finds(ok("fine"))),
        Check("e", finds(ok("fine")), needs=("d",)),
    ]
    found = [each async for each in run_checks(checks, begun.append)]
    assert [(each.name, each.finding) for each in found] == [
        ("a", failed("broken")),
        ("b", skipped("not without: a")),
        ("c", skipped("not without: b")),
        ("d", ok("fine")),
        ("e", ok("fine")),
    ]
    assert begun == ["a", "d", "e"]


async def test_what_does_not_apply_holds_up_nothing() -> None:
    none, after = await results(
        Check("proxy", finds(skipped("none"))), Check("TLS", finds(ok("fine")), needs=("proxy",))
    )
    assert none.finding.verdict is Verdict.SKIPPED
    assert after.finding == ok("fine")


async def test_errors_are_findings() -> None:
    found = await results(
        Check("ours", raises(ControlThrottled("ThrottlingException", "too much"))),
        Check("system", raises(ConnectionRefusedError(111, "as told"))),
    )
    assert [type(each.finding.cause) for each in found] == [ControlThrottled, LinkError]
    assert [each.finding for each in found] == [
        failed("ThrottlingException: too much", "call less often; AWS allows a few calls a second"),
        failed("Connection refused"),
    ]


async def test_a_bug_is_none() -> None:
    with pytest.raises(ZeroDivisionError):
        await results(Check("bug", raises(ZeroDivisionError())))


def test_nothing_takes_for_ever() -> None:
    async def hang() -> Finding:
        await asyncio.Event().wait()
        return ok("never")

    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        (found,) = runner.run(results(Check("slow", hang, timeout=7)))
    assert found.finding == failed("no answer within 7 s")
    assert isinstance(found.finding.cause, TimedOut)


async def test_checks_run_at_once_and_are_told_in_order() -> None:
    met = asyncio.Event()
    begun: list[str] = []

    async def wait() -> Finding:
        await met.wait()
        return ok("met")

    async def meet() -> Finding:
        met.set()
        return failed("gone")

    checks = [
        Check("a", wait),
        Check("b", meet),
        Check("c", finds(ok("never")), needs=("b",)),
        Check("d", finds(ok("fine")), needs=("a",)),
    ]
    found = [each async for each in run_checks(checks, begun.append, at_once=True)]
    assert [(each.name, each.finding) for each in found] == [
        ("a", ok("met")),
        ("b", failed("gone")),
        ("c", skipped("not without: b")),
        ("d", ok("fine")),
    ]
    assert begun == ["a", "b", "d"]


async def test_nothing_runs_on_when_nobody_wants_to_know() -> None:
    ended = asyncio.Event()

    async def hang() -> Finding:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return ok("never")

    running = run_checks([Check("a", finds(ok("fine"))), Check("b", hang)], at_once=True)
    async with aclosing(running):
        async for _ in running:
            break
    assert ended.is_set()
