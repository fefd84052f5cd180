"""The compiled extension is used where it fits, and otherwise the reason is known."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tailrace.common import extension
from tailrace.common.extension import VARIABLE, data_path, find, load, record_of, source_of, why_not

BUILT_FOR = "picows=9.8.7 aiofastnet=1.2.3"


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An extension that was built for what is installed."""
    file = tmp_path / "tailrace" / "_fast.cpython-311-x86_64-linux-gnu.so"
    places = {"tailrace._fast": file}
    for name, module, version in (
        ("picows", "version.py", "9.8.7"),
        ("aiofastnet", "_version.py", "1.2.3"),
    ):
        places[name] = tmp_path / name / "__init__.py"
        places[name].parent.mkdir()
        places[name].with_name(module).write_text(f'__author__ = "x"\n__version__ = "{version}"\n')
    file.parent.mkdir()
    record_of(file).write_text(f"- {BUILT_FOR}\n")
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(
        extension, "find_spec", lambda name: SimpleNamespace(origin=str(places[name]))
    )
    return file


def test_one_that_fits_is_used(built: Path) -> None:
    assert find() == ""


@pytest.mark.parametrize(("value", "used"), [("", True), ("1", True), ("0", False)])
def test_the_variable_leaves_all_to_python(
    built: Path, monkeypatch: pytest.MonkeyPatch, value: str, used: bool
) -> None:
    monkeypatch.setenv(VARIABLE, value)
    assert find() == ("" if used else "TAILRACE_FAST is 0")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("- picows=9.8.6 aiofastnet=1.2.3", "it was built for picows=9.8.6 and aiofastnet=1.2.3"),
        ("- picows=9.8.7 aiofastnet=1.2.4", "it was built for picows=9.8.7 and aiofastnet=1.2.4"),
        ("12345678 " + BUILT_FOR, "it was built from another source"),
        ("", "not recorded"),
        (None, "not recorded"),
    ],
)
def test_one_that_does_not_fit(built: Path, record: str | None, reason: str) -> None:
    if record is None:
        record_of(built).unlink()
    else:
        record_of(built).write_text(record)
    assert reason in find()


@pytest.mark.parametrize("text", [None, "version = 1\n"])
def test_a_package_that_tells_no_version(built: Path, text: str | None) -> None:
    file = built.parents[1] / "picows" / "version.py"
    file.unlink() if text is None else file.write_text(text)
    assert "not installed, or not recorded" in find()


def test_its_sources_are_compared_where_they_lie_beside_it(built: Path) -> None:
    for name in ("_fast.pyx", "_core.pyx", "_core.pxd"):
        built.with_name(name).write_text(name)
    assert "another source" in find()
    record_of(built).write_text(f"{source_of(built)} {BUILT_FOR}")
    assert find() == ""
    built.with_name("_core.pxd").write_text("cdef class Meter: pass")
    assert "another source" in find()


def test_one_that_was_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(extension, "find_spec", lambda name: None)
    assert "C compiler" in find()


def test_without_picows_it_is_not_used(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = extension.find_spec
    monkeypatch.setattr(
        extension, "find_spec", lambda name: None if name == "picows" else specs(name)
    )
    assert "not installed" in find()


def test_the_choice_is_made_once(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = why_not()
    monkeypatch.setenv(VARIABLE, "0")
    assert why_not() is before
    assert (load() is None) is bool(before)
    if not before:
        assert load() is sys.modules["tailrace._fast"]


def test_words_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "why_not", lambda: "")
    assert data_path() == "compiled extension"
    monkeypatch.setattr(extension, "why_not", lambda: "it was not built")
    assert data_path() == "Python: it was not built"
    assert load() is None
