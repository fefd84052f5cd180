"""What a run is about."""

import pytest
from bench.errors import BenchError
from bench.scenarios.registry import all_scenarios
from bench.selection import Part, Selection, parse_parts


def test_nothing_named_means_everything() -> None:
    assert Selection().has("bulk")
    assert Selection().has("bulk", case="up", contender="nginx")


def test_a_scenario_stands_for_its_cases_and_contenders() -> None:
    selection = Selection([Part("bulk")])
    assert selection.has("bulk", case="up", contender="nginx")
    assert not selection.has("latency")


def test_a_case_needs_its_scenario_only() -> None:
    selection = Selection([Part("bulk", "up", "nginx"), Part("latency", "64 B idle")])
    assert selection.has("bulk")
    assert selection.has("bulk", contender="nginx")
    assert selection.has("bulk", case="up", contender="nginx")
    assert not selection.has("bulk", case="down")
    assert not selection.has("bulk", case="up", contender="ssh")
    assert selection.has("latency", case="64 B idle", contender="ssh")


def test_parts_are_written_with_commas_and_colons() -> None:
    parts = parse_parts(["bulk:up, latency:64 B idle", "streams"], {"bulk", "latency", "streams"})
    assert parts == [Part("bulk", "up"), Part("latency", "64 B idle"), Part("streams")]


def test_an_unknown_scenario_is_named() -> None:
    with pytest.raises(BenchError, match="'bilk'"):
        parse_parts(["bilk"], {"bulk"})


def test_scenarios_have_names_of_their_own() -> None:
    names = [scenario.name for scenario in all_scenarios()]
    assert len(names) == len(set(names))
    assert not any(mark in name for name in names for mark in ":, ")
