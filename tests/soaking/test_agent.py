"""A short soak of the agent with real processes; ``make soak-agent`` runs long ones."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import soak.agent.__main__ as command
from soak.agent.device import Holding
from soak.agent.runner import Outcome, table
from soak.looks import Look

from support.processes.child import clean_environment, process
from support.processes.mosquitto import needs_mosquitto
from support.repository import ROOT
from support.waiting import until

PATIENCE = 300.0


# Tunnels and processes may take their time to come back; how much of it is not the subject.
@pytest.mark.timeout(2 * PATIENCE)
@needs_mosquitto
async def test_a_short_soak(tmp_path: Path) -> None:
    options = ["--rounds", "3", "--openings", "1", "--tunnels", "2", "--most-seconds", "60"]
    # What does not take long, unless that is what has changed.
    options += ["--fault", "both rotated", "--fault", "publisher cut", "--fault", "SIGHUP"]
    options += ["--keep", str(tmp_path / "kept")]
    environment = clean_environment(PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    arguments = [sys.executable, "-m", "soak.agent", *options]
    with process("soak", arguments, tmp_path, environment) as running:
        await until(lambda: not running.running, "the end of the soak", PATIENCE)
        assert running.wait() == 0, running.output + running.log
        rows = dict(line.split("  ", 1) for line in running.output.splitlines() if "  " in line)
    assert rows["failures"].strip() == "none"
    for thing in ("pump-1", "pump-2"):
        assert "worst" in rows[f"{thing}: OpenTunnel to connected"]
        assert f"{thing}: 2 tunnels at once" in rows
        assert "MiB" in rows[f"{thing} after 3 rounds"]


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--tunnels", "none"]])
def test_the_command_refuses(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_what_is_left_is_a_leak() -> None:
    before = Holding(Look(30 << 20, descriptors=14, threads=6), files=2)
    assert Holding(Look(60 << 20, descriptors=13, threads=7), files=2).leaks_since(before) == []
    after = Holding(Look(30 << 20, descriptors=16, threads=500), files=3)
    assert after.leaks_since(before) == [
        "2 descriptors",
        "494 threads",
        "1 files in the state directory",
    ]


def test_an_agent_that_takes_too_much_memory_fails() -> None:
    outcome = Outcome()
    outcome.judge("small", Holding(Look(40 << 20, 14, 6), 2))
    assert not outcome.figures.failures
    outcome.judge("large", Holding(Look((40 << 20) + 1, 14, 6), 2))
    assert outcome.figures.failures == {"memory": 1}
    rows = table(outcome).splitlines()
    assert rows[0].startswith("small ")
    assert rows[-1].split() == ["failures", "memory", "1"]
