"""Findings say how something stands, and what to do."""

from tailrace.checks.findings import Finding, Verdict, failed, ok, skipped, warning


def test_each_verdict_has_what_belongs_to_it() -> None:
    assert ok("5 ms") == Finding(Verdict.OK, "5 ms")
    assert warning("old", "renew") == Finding(Verdict.WARNING, "old", "renew")
    assert failed("no", "do", "{}") == Finding(Verdict.FAILED, "no", "do", "{}")
    assert skipped("none", "give one") == Finding(Verdict.SKIPPED, "none", "give one")
