"""The command itself: a short run, choices, mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bench.__main__ import main, parse_cases
from bench.contenders import all_contenders
from bench.runner import Plan
from bench.scenarios import SCENARIOS

from support.repository import ROOT


def test_a_run_measures_reports_and_leaves_files(tmp_path: Path) -> None:
    """Transfers are checked while a rig warms up, and fail the run if bytes differ."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bench", "--quick", "--rounds", "1", "--contender", "picows"),
            *("--only", "connects, bulk:down, in-process:down", "--output", str(tmp_path)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "1/3] bulk, round 1, picows: down: throughput" in done.stderr
    assert "| connections one after the other |" in done.stdout.partition("What must hold")[2]
    assert "failed" not in done.stdout
    (path,) = tmp_path.glob("*.json")
    cases = {(s["scenario"], s["case"]) for s in json.loads(path.read_text())["samples"]}
    assert cases == {("connects", "one after the other"), ("bulk", "down"), ("in-process", "down")}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--only", "bilk"], "bench: no scenario 'bilk': there are bulk, "),
        (["--only", "bulk:sideways"], "bench: no case 'sideways' in bulk: there are up, down"),
        (["--contender", "telnet"], "bench: no contender 'telnet': there are picows, "),
        (["--rounds", "0"], "bench: --rounds must be at least 1"),
        (["--variant", "nameless"], "bench: --variant 'nameless': write NAME="),
        (["--render", "missing.json"], "bench: [Errno 2] No such file or directory"),
    ],
)
def test_a_mistake_gets_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith(complaint)
    assert error.count("\n") == 1


def test_cases_and_contenders_are_chosen() -> None:
    bulk, streams, latency, *_ = SCENARIOS
    cases = parse_cases("bulk:up, streams")
    assert cases == {"bulk": ["up"], "streams": list(streams.cases)}
    assert parse_cases("").keys() == {scenario.name for scenario in SCENARIOS}
    plan = Plan(all_contenders(["mine=-v 1"]), {"mine"}, cases, 1)
    names = [[each.name for each in plan.contenders_in(s)] for s in (bulk, streams, latency)]
    everybody = ["picows", "python", "websockets", "mine", "nginx", "reference"]
    assert names == [everybody, ["picows", "mine"], []]
