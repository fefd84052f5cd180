from __future__ import annotations

import json
from pathlib import Path

import pytest

from tailrace.cli.tailrace import main
from tailrace.operator.screens import NOTHING_RUNS


def test_nothing_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--runtime-dir", str(tmp_path)]
    assert main(["status", *place]) == 0
    assert capsys.readouterr().out == f"{NOTHING_RUNS}\n"
    assert main(["status", "--json", *place]) == 0
    assert json.loads(capsys.readouterr().out)["processes"] == []
    assert main(["watch", "--count", "2", "--interval", "0.1", *place]) == 0
    assert capsys.readouterr().out == f"{NOTHING_RUNS}\n\n" * 2


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["watch", "--interval", "0"], "watch: --interval 0 is not from 0.1 to 3600\n"),
        (["watch", "--interval", "nan"], "watch: --interval nan is not from 0.1 to 3600\n"),
        (["watch", "--count", "-1"], "watch: --count -1 is negative\n"),
    ],
)
def test_mistakes_are_one_line(
    argv: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 1
    assert capsys.readouterr().err == f"tailrace {text}"
