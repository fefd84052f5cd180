"""The coverage gate lets nothing through that is below its mark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import coverage
import pytest

import coverage_gate


def entry(lines: str, branches: str = "0/0", missing: list[int] | None = None) -> dict[str, Any]:
    """A file's entry in a report: covered/all of lines and of branches."""
    covered_lines, num_statements = map(int, lines.split("/"))
    covered_branches, num_branches = map(int, branches.split("/"))
    return {
        "summary": {
            "covered_lines": covered_lines,
            "num_statements": num_statements,
            "covered_branches": covered_branches,
            "num_branches": num_branches,
        },
        "missing_lines": missing or [],
        "missing_branches": [[3, 5], [7, -1]] if covered_branches < num_branches else [],
    }


def below(files: dict[str, dict[str, Any]]) -> list[str]:
    """Return the offenders of a report that holds just these files."""
    report = {
        "meta": {"branch_coverage": True},
        "files": {f"/x/site-packages/tailrace/{name}": value for name, value in files.items()},
    }
    return [offender.module for offender in coverage_gate.offenders(report, files)]


@pytest.mark.parametrize(
    ("module", "value", "fails"),
    [
        ("wire/codec.py", entry("50/50", "20/20"), False),
        ("wire/codec.py", entry("9999/10000", "20/20"), True),
        ("wire/codec.py", entry("50/50", "19/20"), True),
        ("session/streams.py", entry("50/50", "19/20"), True),
        ("session/__init__.py", entry("1/2"), True),
        ("mqtt/session.py", entry("50/50", "19/20"), True),
        ("mqtt/connection.py", entry("50/50", "19/20"), False),
        ("localproxy/proxy.py", entry("90/100"), False),
        ("localproxy/proxy.py", entry("89/100"), True),
        ("localproxy/proxy.py", entry("80/80", "10/20"), False),
        ("localproxy/proxy.py", entry("80/80", "9/20"), True),
        ("errors.py", entry("8/10"), True),
        ("cli/__init__.py", entry("0/0"), False),
    ],
)
def test_marks(module: str, value: dict[str, Any], fails: bool) -> None:
    assert below({module: value}) == ([module] if fails else [])


def test_a_module_nobody_measured_is_an_offender() -> None:
    report = {"meta": {"branch_coverage": True}, "files": {}}
    (offender,) = coverage_gate.offenders(report, ["link/interface.py"])
    assert "not measured" in str(offender)


def test_the_worst_comes_first() -> None:
    files = {
        "link/interface.py": entry("8/10"),
        "agent/x.py": entry("1/10"),
        "wire/y.py": entry("9/10"),
    }
    assert below(files) == ["agent/x.py", "link/interface.py", "wire/y.py"]


def test_the_line_names_what_is_missing() -> None:
    report = {
        "meta": {"branch_coverage": True},
        "files": {"src/tailrace/wire/codec.py": entry("1998/2000", "18/20", [12, 13])},
    }
    (offender,) = coverage_gate.offenders(report, ["wire/codec.py"])
    assert "wire/codec.py" in str(offender)
    assert "99.8 % of 100%   12, 13, 3->5, 7->exit" in str(offender)


def test_a_share_is_never_rounded_up() -> None:
    assert " 99.9 %" in str(coverage_gate.Offender("wire/codec.py", 0.99999, 1.0, ""))


def test_a_report_without_branches_is_refused() -> None:
    with pytest.raises(ValueError, match="without branch coverage"):
        coverage_gate.offenders({"meta": {"branch_coverage": False}, "files": {}}, [])


def test_all_modules_are_asked_for() -> None:
    assert {"errors.py", "wire/codec.py", "wire/__init__.py"} <= set(coverage_gate.existing())


def test_a_real_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = tmp_path / "tailrace" / "wire" / "half.py"
    measured.parent.mkdir(parents=True)
    measured.write_text("def f(x):\n    if x:\n        return 1\n    return 2\n")
    data = coverage.CoverageData(basename=str(tmp_path / ".coverage"))
    data.add_arcs({str(measured): {(-1, 1), (1, -1), (-1, 2), (2, 3), (3, -1)}})
    data.write()
    measure = coverage.Coverage(
        data_file=str(tmp_path / ".coverage"), config_file=False, branch=True
    )
    measure.load()
    report = tmp_path / "coverage.json"
    measure.json_report(outfile=str(report))
    data.close()

    (offender,) = coverage_gate.offenders(json.loads(report.read_text()), ["wire/half.py"])
    assert offender.missing == "4, 2->4"
    assert offender.share == pytest.approx(4 / 6)

    assert coverage_gate.main([str(report)]) == 1
    assert "wire/codec.py" in capsys.readouterr().err
    assert coverage_gate.main([]) == 2


def test_silence_when_all_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "coverage.json"
    files = {f"src/tailrace/{name}": entry("1/1") for name in coverage_gate.existing()}
    report.write_text(json.dumps({"meta": {"branch_coverage": True}, "files": files}))
    assert coverage_gate.main([str(report)]) == 0
    assert capsys.readouterr() == ("", "")
