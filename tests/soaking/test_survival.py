"""A short soak of survival with real processes; ``make soak-survival`` runs long ones."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import soak.survival.__main__ as command
from soak.survival.runner import Outcome, Plan, table
from soak.survival.shell import Shell, ShellFault

from support.processes.child import clean_environment, process
from support.processes.sshd import needs_sshd
from support.repository import ROOT
from support.waiting import until

PATIENCE = 300.0


@needs_sshd
@pytest.mark.timeout(2 * PATIENCE)
async def test_a_short_soak(tmp_path: Path) -> None:
    options = ["--cuts", "4", "--kills", "1", "--silences", "1", "--longest-silence", "1"]
    options += ["--size", "3000000", "--pause", "0.2", "--keep", str(tmp_path / "kept")]
    environment = clean_environment(PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    arguments = [sys.executable, "-m", "soak.survival", *options]
    with process("soak", arguments, tmp_path, environment) as running:
        await until(lambda: not running.running, "the end of the soak", PATIENCE)
        assert running.wait() == 0, running.output + running.log
        rows = dict(line.split("  ", 1) for line in running.output.splitlines() if "  " in line)
    assert rows["failures"].strip() == "0"
    assert rows["long transfer"].strip() == "3,000,000 bytes each way, right: True"
    assert "cut 4" in rows["faults"]
    ends = dict(end.split() for end in rows["gone on"].strip().split(", "))
    assert ends.keys() == {"source", "destination"}
    assert all(int(times) > 0 for times in ends.values())


@pytest.mark.parametrize("arguments", [["--rate", "0"], ["--size", "-1"], ["--cuts", "many"]])
def test_the_command_refuses(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "lines",
    [
        ["count 7 1", "count 8 2"],
        ["count 7 1", "count 7 3"],
        ["count 7 1", "count 7 1"],
        ["said 2"],
        ["said 1", "said 1"],
        ["anything else"],
    ],
)
def test_a_shell_that_is_another_one_or_repeats_itself(lines: list[str]) -> None:
    session = Shell()
    with pytest.raises(ShellFault):
        for line in lines:
            session.take(line)


def test_the_table_shows_failures() -> None:
    outcome = Outcome(Plan(), failures=["the shell: ssh has ended"])
    assert table(outcome).splitlines()[-1].split() == ["failures", "1"]
