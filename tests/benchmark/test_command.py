"""The command itself, with the contender that every machine has."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from .support_results import good_results

ROOT = Path(__file__).resolve().parents[2]

README = """# tailrace

<!-- benchmark: begin (written by make bench-publish) -->
old figures
<!-- benchmark: end -->

the rest
"""


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_a_run_measures_reports_and_leaves_files(tmp_path: Path) -> None:
    done = _bench(
        *("--quick", "--rounds", "2", "--contender", "direct", "--output", str(tmp_path)),
        *("--only", "connects:one after the other,latency:64 B idle"),
    )
    assert done.returncode == 0, done.stderr
    assert "Short connections (open, echo, close)" in done.stdout
    assert "one after the other" in done.stdout
    assert "64 at a time" not in done.stdout
    assert "connections one after the other" in done.stdout.partition("Must hold")[2]
    assert "one stream" not in done.stdout
    assert "/4] latency, round 2, direct: 64 B idle" in done.stderr
    (path,) = tmp_path.glob("*.json")
    cases = {(s["scenario"], s["case"]) for s in json.loads(path.read_text())["samples"]}
    assert cases == {("connects", "one after the other"), ("latency", "64 B idle")}


def test_bulk_arrives_whole_both_ways(tmp_path: Path) -> None:
    """Transfers are checked by hash while a rig warms up, and fail the run if bytes differ."""
    done = _bench(
        *("--quick", "--rounds", "1", "--contender", "direct", "--output", str(tmp_path)),
        *("--only", "streams:4 down"),
    )
    assert done.returncode == 0, done.stderr
    assert "4 down" in done.stdout
    assert "failed" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--only", "bilk"], "bench: no such scenario: 'bilk'; try --list"),
        (["--contender", "telnet"], "bench: no such contender: telnet; try --list"),
        (["--rounds", "0"], "bench: --rounds must be at least 1"),
        (["--variant", "nameless"], "bench: --variant 'nameless': write NAME="),
        (["--render", "pyproject.toml"], "bench: pyproject.toml does not hold results"),
        (["--render", "missing.json"], "bench: [Errno 2] No such file or directory"),
    ],
)
def test_a_mistake_gets_one_line(arguments: list[str], complaint: str) -> None:
    done = _bench(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(complaint)
    assert done.stderr.count("\n") == 1


def test_what_is_missing_is_named() -> None:
    done = _bench("--list")
    assert done.returncode == 0
    for name in ("bulk", "slow-link", "picows", "nginx", "reference", "direct"):
        assert any(line.split()[:1] == [name] for line in done.stdout.splitlines()), name


def test_publishing_replaces_the_section_of_the_readme(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(README)
    good_results().write(tmp_path / "run.json")
    arguments = ["--render", str(tmp_path / "run.json"), "--output", str(tmp_path / "results")]
    for _ in range(2):
        done = _bench(*arguments, "--publish", str(readme))
        assert done.returncode == 0, done.stderr
    text = readme.read_text()
    assert "old figures" not in text
    assert text.startswith("# tailrace\n\n<!-- benchmark: begin")
    assert text.endswith("<!-- benchmark: end -->\n\nthe rest\n")
    assert text.count("one stream up, MB/s") == 1
    drawn = ["latest.png"] if importlib.util.find_spec("matplotlib") else []
    names = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert names == ["latest.json", "latest.md", *drawn]
    report = (tmp_path / "results" / "latest.md").read_text()
    assert "| one stream up, against nginx | 1.20 x | >= 1 x | yes |" in report
    assert "- ssh: no ssh" in report


def test_a_readme_without_a_place_is_left_alone(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# tailrace\n")
    good_results().write(tmp_path / "run.json")
    done = _bench(
        *("--render", str(tmp_path / "run.json"), "--output", str(tmp_path / "results")),
        *("--publish", str(readme)),
    )
    assert done.returncode == 1
    assert f"bench: {readme}: no lines <!-- benchmark: begin" in done.stderr
    assert readme.read_text() == "# tailrace\n"
    assert not (tmp_path / "results").exists()
