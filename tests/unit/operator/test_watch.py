from __future__ import annotations

import json
import os
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from tailrace.control.server import told
from tailrace.operator import watch as module
from tailrace.operator.screens import NOTHING_RUNS
from tailrace.operator.watch import look, watch


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SPAN", 0.15)


async def test_a_look_has_rates(tmp_path: Path, tunnel: dict[str, Any]):
    def details() -> dict[str, Any]:
        tunnel["bytes_in"] += 1000
        return {"tunnels": [tunnel]}

    out = StringIO()
    async with told("localproxy", details, {"XDG_RUNTIME_DIR": str(tmp_path)}):
        await look([tmp_path / "tailrace"], out, as_json=True)
    (process,) = json.loads(out.getvalue())["processes"]
    assert process["pid"] == os.getpid()
    assert process["tunnels"][0]["rate_in"] > 0
    assert process["tunnels"][0]["rate_out"] == 0


async def test_nothing_runs(tmp_path: Path):
    out = StringIO()
    await look([tmp_path], out, as_json=False)
    assert out.getvalue() == f"{NOTHING_RUNS}\n"


async def test_again_and_again(tmp_path: Path, tunnel: dict[str, Any]):
    out = StringIO()
    details = {"tunnels": [tunnel]}
    async with told("localproxy", lambda: details, {"XDG_RUNTIME_DIR": str(tmp_path)}):
        await watch([tmp_path / "tailrace"], out, as_json=True, interval=0.15, count=3)
    looks = [json.loads(line)["processes"][0]["tunnels"][0] for line in out.getvalue().splitlines()]
    assert [each["rate_in"] for each in looks] == [None, 0.0, 0.0]
