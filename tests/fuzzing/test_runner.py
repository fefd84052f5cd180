"""What finds bugs finds one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from random import Random

import fuzz.__main__ as command
import pytest
from fuzz.checks import pieces
from fuzz.mutate import Edit, apply, vary_bytes, vary_item, vary_text
from fuzz.report import table
from fuzz.runner import Tally, run_all, run_examples
from fuzz.target import Target
from hypothesis import strategies as st


def check(data: bytes) -> None:
    if data.startswith(b"!"):
        raise ValueError("refused")
    if b"x" in data:
        raise KeyError("a bug")


def target(name: str = "shed", *corpus: bytes) -> Target[bytes]:
    return Target(name, "", st.binary(max_size=3), check, (ValueError,), corpus, vary_bytes)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the package's logger and the signal back as they were."""
    logger = logging.getLogger("tailrace")
    handlers, propagate = list(logger.handlers), logger.propagate
    monkeypatch.setattr(command.signal, "signal", lambda *_: None)
    yield
    logger.handlers[:], logger.propagate = handlers, propagate


def test_allowed_errors_are_refusals() -> None:
    assert target().run(b"fine")
    assert not target().run(b"!x")
    with pytest.raises(KeyError):
        target().run(b"x")


def test_a_bug_is_found(tmp_path: Path) -> None:
    tally = Tally(target())
    run_examples(tally, 5_000, tmp_path)
    assert "KeyError: 'a bug'" in tally.finding


def test_a_bug_in_the_corpus_is_found_first(tmp_path: Path) -> None:
    tally = Tally(target("shed", b"", b"x"))
    run_examples(tally, 1, tmp_path)
    assert "KeyError" in tally.finding
    assert tally.executions == 2


def test_a_target_with_a_finding_runs_no_more(tmp_path: Path) -> None:
    broken, sound = Tally(target("broken", b"x")), Tally(target("sound"))
    sound.target = Target("sound", "", st.just(b""), lambda _: None, (), (), lambda value, _: value)
    told: list[str] = []
    run_all([broken, sound], 0.2, tmp_path, lambda tally: told.append(tally.target.name))
    assert told[0] == "broken"
    assert set(told[1:]) == {"sound"}
    assert sound.cpu_seconds >= 0.1
    assert not sound.finding


def test_a_run_ends_when_asked_to(tmp_path: Path) -> None:
    asked = iter([False] * 10)
    tally = Tally(target(), stopped=lambda: next(asked, True))
    with pytest.raises(KeyboardInterrupt):
        run_all([tally], 60.0, tmp_path, lambda _: None)
    assert tally.executions == 10


@pytest.mark.usefixtures("quiet")
def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "found"
    options = ["--minutes", "0.001", "--directory", str(directory)]
    assert command.main([*options, "port-map"]) == 0
    assert "port-map" in capsys.readouterr().out
    monkeypatch.setattr(command, "TARGETS", {"broken": target("broken", b"x")})
    assert command.main(options) == 1
    assert "KeyError" in capsys.readouterr().out
    assert "KeyError" in (directory / "finding-broken.txt").read_text()


def test_the_command_lists_targets(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    assert "sigv4" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["nonsense"], ["--minutes", "0"], ["--minutes", "nan"]])
def test_the_command_refuses(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_the_table_adds_up() -> None:
    rows = table(
        [Tally(target("a"), 1_000, 500, 2.0), Tally(target("b"), 3_000, 0, 2.0, finding="no")]
    )
    assert rows.splitlines()[-1].split() == ["all", "4,000", "12%", "4.0", "1,000", "1"]


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (Edit.FLIP, b"abg"),
        (Edit.SET, b"ab\x02"),
        (Edit.INSERT, b"ab\x02c"),
        (Edit.DELETE, b"ab"),
        (Edit.REPEAT, b"abcc"),
        (Edit.WORD, b"ab--c"),
        (Edit.OVERWRITE, b"ab--"),
        (Edit.TRUNCATE, b"ab"),
        (Edit.SPLICE, b"ab"),
        (Edit.RUN, b"ab" + b"c" * 75),
    ],
)
def test_edits(edit: Edit, expected: bytes) -> None:
    assert apply(b"abc", edit, 2, 2, b"--") == expected


def test_everything_can_be_empty() -> None:
    random = Random(1)
    for edit in Edit:
        apply(b"", edit, 7, 7, b"")
    assert vary_item([], vary_bytes, random) == ()
    for _ in range(100):
        vary_text(vary_text("", random), random)


def test_pieces_are_the_whole() -> None:
    data = bytes(range(256)) * 10
    assert b"".join(pieces(data, [1, 7])) == data
    assert [len(piece) for piece in pieces(b"abcd", [1, 2])] == [1, 2, 1]
    assert len(list(pieces(bytes(100_000), [1]))) <= 510
