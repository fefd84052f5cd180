"""A short soak with real processes; ``make soak`` runs long ones."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import soak.__main__ as command
from soak.figures import Figures
from soak.looks import Growth
from soak.report import table

from support.processes.child import clean_environment, process
from support.repository import ROOT
from support.waiting import until

PATIENCE = 300.0


# Tunnels and processes may take their time to come back; how much of it is not the subject.
@pytest.mark.timeout(2 * PATIENCE)
async def test_a_short_soak(tmp_path: Path) -> None:
    options = ["--minutes", "0.08", "--tunnels", "1", "--fault-every", "0.7", "--pause", "0.2"]
    environment = clean_environment(PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    arguments = [sys.executable, "-m", "soak", *options, "--keep", str(tmp_path / "kept")]
    with process("soak", arguments, tmp_path, environment) as running:
        await until(lambda: not running.running, "the end of the soak", PATIENCE)
        assert running.wait() == 0, running.output + running.log
        rows = dict(line.split("  ", 1) for line in running.output.splitlines() if "  " in line)
    assert rows["wrong bytes"].strip() == "0"
    assert rows["leaks"].strip() == "0"
    assert int(rows["bytes checked downwards"].replace(",", "")) > 0


@pytest.mark.parametrize("arguments", [["--minutes", "0"], ["--tunnels", "none"]])
def test_the_command_refuses(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_the_table_shows_memory_and_failures() -> None:
    figures = Figures()
    figures.fail("leak", "source 1: 2 descriptors")
    growth = Growth()
    growth.add(60 << 20, 66 << 20)
    growth.add(40 << 20, 39 << 20)
    rows = table(figures, {"source": growth}, 600)
    assert "memory of source" in rows
    assert "(+5.0%, worst of 2: +10.0%)" in rows
    assert rows.splitlines()[-1].split() == ["leaks", "1"]
