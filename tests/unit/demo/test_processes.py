"""The processes of the demonstration: each fault is named, nothing stays behind."""

from __future__ import annotations

import socket

import pytest

from support.processes.demo import Stage, listening
from support.waiting import HANG
from tailrace.demo import processes
from tailrace.demo.measurements import DemoFailed


@pytest.mark.parametrize("command", ["tailrace", "localproxy"])
def test_a_command_that_is_missing(stage: Stage, command: str) -> None:
    (stage.directory / command).unlink()
    assert stage.fails() == (
        f"the command {command} is not installed beside {stage.directory}/python"
    )


@pytest.mark.parametrize("name", ["service", "destination", "source"])
@pytest.mark.parametrize(
    ("status", "how"),
    [(3, "ended with status 3"), (0, "ended with status 0"), (-9, "was killed by signal 9")],
)
def test_a_process_that_dies_at_its_start(stage: Stage, name: str, status: int, how: str) -> None:
    says = [f"line {number}" for number in range(8)]
    stage.plan[name] = {"dies": status, "says": says}
    tail = "".join(f"\n    {line}" for line in says[-5:])
    assert stage.fails() == f"the {name} {how}:{tail}"


@pytest.mark.parametrize(
    ("name", "before"), [("service", ""), ("destination", "tunnel"), ("source", "destination")]
)
def test_a_process_that_is_never_ready(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, name: str, before: str
) -> None:
    """The ones before it get all the time they need; ``before`` is the line said last."""

    def lose_patience(line: str = "") -> None:
        if line.startswith(before):
            monkeypatch.setattr(processes, "_START_TIMEOUT", 0.2)

    if not before:
        lose_patience()
    stage.plan[name] = {"mute": True}
    with pytest.raises(DemoFailed) as caught:
        stage.run(say=lose_patience)
    assert str(caught.value) == f"{name}.json did not appear within 0.2 s:"


def test_the_death_of_another_is_noticed_while_one_starts(stage: Stage) -> None:
    stage.plan["service"] = {"dies_later": 1, "says": ["out of memory"]}
    stage.plan["source"] = {"mute": True}
    stage.touch("now")
    assert stage.fails() == "the service ended with status 1:\n    out of memory"


def test_a_process_that_dies_during_a_transfer(stage: Stage) -> None:
    """Its death ends a transfer that would wait for ever."""

    def hold(sock: socket.socket) -> None:
        sock.recv(1)
        stage.touch("now")
        while sock.recv(65536):
            pass

    stage.plan["destination"] = {"dies_later": -9, "says": ["oops"]}
    with listening(hold) as port:
        stage.plan["source"] = {"ports": {"HTTP": port}}
        assert stage.fails() == "the destination was killed by signal 9:\n    oops"


def test_a_process_that_takes_its_connections_along(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transfer fails first; what is named is its cause."""
    monkeypatch.setattr(processes, "_DYING_TIME", HANG)

    def drop(sock: socket.socket) -> None:
        stage.touch("now")

    stage.plan["destination"] = {"dies_later": 5}
    with listening(drop) as port:
        stage.plan["source"] = {"ports": {"HTTP": port}}
        assert stage.fails() == "the destination ended with status 5:"


@pytest.mark.parametrize("name", ["service", "destination", "source"])
def test_a_process_that_ends_badly(stage: Stage, name: str) -> None:
    stage.plan[name] = {"status": 7, "says": ["at the end"]}
    assert stage.fails() == f"the {name} ended with status 7:\n    at the end"


def test_a_process_that_does_not_end(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_STOP_TIMEOUT", 0.2)
    stage.plan["source"] = {"deaf": True}
    assert stage.fails() == "the source did not end:"
