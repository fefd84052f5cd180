"""The suite itself: nothing is forgotten, and failures are seen."""

from __future__ import annotations

import ast
import asyncio
import shlex
from collections import Counter
from pathlib import Path

import pytest

from conformance import report
from conformance.lab import Lab
from conformance.laboratory import Laboratory, Outcome, Task, Trial
from conformance.messages import (
    CONNECTION_RESET,
    CONNECTION_START,
    DATA,
    SESSION_RESET,
    STREAM_RESET,
    STREAM_START,
    data,
    message,
    read,
    service_ids,
)
from conformance.results import Results, Verdict, summary, table, write
from conformance.results import read as read_results
from conformance.targets import Target
from conformance.titles import DECIDED, KINDS, OVER_EACH_LINK, TITLES

HERE = Path(__file__).parent


def carried(source: str) -> list[tuple[str, list[str]]]:
    """Return function name and numbers of each scenario in a module."""
    found = []
    for node in ast.parse(source).body:
        for each in getattr(node, "decorator_list", ()):
            if isinstance(each, ast.Call) and ast.unparse(each.func) == "scenario":
                found.append((node.name, [ast.literal_eval(arg) for arg in each.args]))
    return found


SCENARIOS = [each for file in sorted(HERE.glob("test_*.py")) for each in carried(file.read_text())]


def test_every_number_is_shown() -> None:
    shown = {number for _, numbers in SCENARIOS for number in numbers}
    assert shown == set(TITLES)
    assert set(DECIDED) <= set(TITLES)
    assert set(TITLES) >= OVER_EACH_LINK
    kinds = Counter(number[0] for number in TITLES)
    assert (kinds["S"], kinds["B"], kinds["R"], kinds["L"]) == (62, 21, 14, 16)
    assert set(kinds) == set(KINDS)


def test_names_carry_their_numbers() -> None:
    names = [name for name, _ in SCENARIOS]
    assert len(set(names)) == len(names)
    for name, numbers in SCENARIOS:
        start = "_".join(["test", *(n.lower().replace("-", "_") for n in numbers)])
        assert name.startswith(f"{start}_"), f"{name} carries {numbers}"


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (message(STREAM_START, 1), "000408021001"),
        (message(DATA, 1, payload=b"hello"), "000b08011001220568656c6c6f"),
        (message(STREAM_RESET, 1), "000408031001"),
        (message(SESSION_RESET), "00020804"),
        (service_ids(), "00020805"),
        (service_ids("SSH1", "HTTP1"), "000f080532045353483132054854545031"),
        (message(STREAM_START, 1, "SSH1"), "000a080210012a0453534831"),
        (message(STREAM_START, 1, "SSH1", 1), "000c080210012a04535348313801"),
        (message(CONNECTION_START, 1, "SSH1", 2), "000c080610012a04535348313802"),
        (data(b"hello", 1, "SSH1", 2)[0], "001308011001220568656c6c6f2a04535348313802"),
        (message(DATA, 300, "", 70000, b"x"), "000c080110ac0222017838f0a204"),
        (message(STREAM_START, 2**31 - 1), "0008080210ffffffff07"),
        (message(CONNECTION_RESET, 1, "", 2**32 - 1), "000a0807100138ffffffff0f"),
    ],
)
def test_messages_are_those_of_the_document(built: bytes, expected: str) -> None:
    assert built.hex() == expected
    assert read(built).raw == built


def test_messages_are_read_strictly() -> None:
    assert read(message(DATA, 3, "SSH1", 4, b"hi"))[:5] == (DATA, 3, "SSH1", 4, b"hi")
    for bad in ("000408011808", "00020805ff", "000b0801100122017a42026869"):
        with pytest.raises((AssertionError, IndexError)):
            read(bytes.fromhex(bad))


# -- the laboratory can fail ---------------------------------------------------------------


async def wants_a_link(lab: Lab) -> None:
    stage = lab.stage()
    lab.proxy("-e", stage.endpoint)
    await stage.link()


async def wants_success(lab: Lab) -> None:
    proxy = lab.proxy()
    code = await proxy.ended()
    assert code == 0, f"exit status {code}"


async def does_nothing(lab: Lab) -> None:
    lab.proxy()
    await asyncio.sleep(0.3)


LAST_WORDS = {
    "error": "[1] [fatal] shutdown: not connected [system:107 at x.hpp]",
    "assertion": "p: x.hpp:200: void f(): Assertion `! value()' failed.",
}
STAND_INS = {
    "wait in vain": (wants_a_link, "exec sleep 60"),
    "unexpected end": (wants_a_link, "exit 7"),
    "last words: error": (wants_a_link, f"echo {shlex.quote(LAST_WORDS['error'])} >&2; exit 1"),
    "last words: assertion": (
        wants_a_link,
        f"echo {shlex.quote(LAST_WORDS['assertion'])} >&2; exit 1",
    ),
    "crash": (wants_a_link, "kill -SEGV $$"),
    "false claim of ours": (wants_success, "exit 3"),
    "traceback": (does_nothing, "echo Traceback >&2; exec sleep 60"),
    "token in the log": (does_nothing, "env >&2; exec sleep 60"),
    "success": (wants_success, "exit 0"),
}
"""Scenarios, and shell commands that stand for a local proxy."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What becomes of the stand-ins, all of them at the same time."""
    tasks = {
        name: Task(
            Trial(script, ("S1",), 0.0, False),
            Target(("sh", "-c", command, "sh"), name.endswith("ours"), name, patience=2.0),
        )
        for name, (script, command) in STAND_INS.items()
    }
    with Laboratory(tasks, tmp_path_factory.mktemp("stand-ins"), False) as laboratory:
        return {name: laboratory.outcome(name) for name in tasks}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("unexpected end", "the proxy ended with status 7"),
        ("last words: error", "the proxy ended with status 1: shutdown: not connected"),
        (
            "last words: assertion",
            "the proxy ended with status 1: Assertion `! value()' failed.",
        ),
        ("crash", "the proxy ended with status -11 (SIGSEGV)"),
        ("traceback", "a traceback in the log"),
        ("token in the log", "the access token in the log"),
    ],
)
def test_failures_are_seen(name: str, reason: str, outcomes: dict[str, Outcome]) -> None:
    assert outcomes[name].reason == reason


def test_a_wait_in_vain_is_seen(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["wait in vain"]
    assert outcome.reason == "waited in vain for connection 1 to the service"
    with pytest.raises(pytest.xfail.Exception, match="in vain"):
        outcome.judge()


def test_a_false_claim_is_seen(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["false claim of ours"]
    assert outcome.reason == "exit status 3"
    with pytest.raises(AssertionError, match="exit status 3"):
        outcome.judge()


def test_success_is_seen(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["success"]
    assert (outcome.error, outcome.reason) == (None, "")
    outcome.judge()


# -- results ---------------------------------------------------------------------------------


@pytest.fixture
def results() -> Results:
    noted = Results("other v1")
    noted.note(["S1", "B3"], Verdict.PASS)
    noted.note(["S1"], Verdict.FAIL, "it | crashed")
    noted.note(["S1"], Verdict.PASS)
    noted.note(["S57"], Verdict.NOT_RUN, "no service")
    return noted


def test_the_worst_counts(results: Results, tmp_path: Path) -> None:
    assert results.verdicts == {
        "S1": Verdict.FAIL,
        "B3": Verdict.PASS,
        "S57": Verdict.NOT_RUN,
    }
    assert summary(results, KINDS) == "other v1: S 0/1, B 1/1, R 0/0, L 0/0"
    write([results, results], tmp_path / "run.json")
    assert read_results(tmp_path / "run.json") == [results, results]


def test_table(results: Results) -> None:
    ours = Results("ours", {"S1": Verdict.PASS})
    assert table([ours, results], ["S1", "B3"]) == [
        "          ours",
        "                other v1",
        f"S1        pass  FAIL  {TITLES['S1']}",
        "          other v1: it | crashed",
        f"B3        -     pass  {TITLES['B3']}",
    ]


def test_report(results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = Results("tailrace, picows", {"S1": Verdict.PASS}, {})
    files = [tmp_path / "ours.json", tmp_path / "other.json"]
    for run, file in zip([ours, results], files, strict=True):
        write([run], file)
    assert report.main([str(file) for file in files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"| S1 | {TITLES['S1']} | pass | FAIL | it \\| crashed |" in lines
    assert f"| B3 | {TITLES['B3']} | - | pass |  |" in lines
    assert "|  | passed | 1/1 | 0/1 |  |" in lines
    assert report.main([]) == 2
