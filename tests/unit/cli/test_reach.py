"""The commands, with a holder that plays its part: how arguments and endings are taken."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tailrace.cli import reach
from tailrace.cli.tailrace import main
from tailrace.errors import ConfigurationError
from tailrace.library.settings import RESUME_TIMEOUT
from tailrace.operator import reaching, ssh, stdio
from tailrace.operator.failures import CommandFailed, Terminated
from tailrace.operator.progress import TerminalLine
from tailrace.operator.sharing import Membership
from tailrace.operator.state import HolderState, Phase
from tailrace.operator.wish import Wish


class Stage:
    """What the commands ask for, and what they get."""

    def __init__(self) -> None:
        self.wish: Wish | None = None
        self.command: list[str] = []
        self.status = 0
        self.ending: BaseException | None = None
        """Raised when the tunnel is closed."""
        self.here, self.there = socket.socketpair()
        self.membership = Membership(self.here, Path("/s"))
        self.membership.state = HolderState(Phase.READY)

    @contextmanager
    def reached(self, wish: Wish, line: TerminalLine) -> Iterator[Membership]:
        self.wish = wish
        yield self.membership
        if self.ending is not None:
            raise self.ending

    def run(self, command: list[str]) -> int:
        self.command = command
        return self.status


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stage]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    stage = Stage()
    monkeypatch.setattr(reaching, "reached", stage.reached)
    monkeypatch.setattr(ssh, "run", stage.run)
    monkeypatch.setattr(ssh, "_NEWS", 0.0)
    monkeypatch.setattr(ssh, "has_program", lambda name: True)
    yield stage
    stage.membership.close()
    stage.there.close()


@pytest.mark.parametrize(
    ("words", "tail"),
    [
        (["pump-7"], ["pump-7.tunnel"]),
        (["pump-7", "ls", "-la", "--", "x"], ["pump-7.tunnel", "ls", "-la", "--", "x"]),
        (["pump-7", "--", "-v", "ls"], ["pump-7.tunnel", "-v", "ls"]),
        (["pi@pump-7.tunnel", "ls"], ["-l", "pi", "pump-7.tunnel", "ls"]),
        (["--user", "a", "pi@pump-7"], ["-l", "a", "pump-7.tunnel"]),
        (
            ["pump-7", "--user", "a", "--service=ADMIN", "--new", "ls", "--all"],
            ["-l", "a", "pump-7.ADMIN.tunnel", "ls", "--all"],
        ),
        (["pump-7.ADMIN.tunnel"], ["pump-7.ADMIN.tunnel"]),
    ],
)
def test_arguments_of_ssh(stage: Stage, words: list[str], tail: list[str]) -> None:
    assert main(["ssh", *words]) == 0
    rest = stage.command[stage.command.index("CheckHostIP=no") + 1 :]
    assert rest == tail
    assert stage.wish is not None
    assert stage.wish.tunnel.thing == "pump-7"
    assert stage.wish.tunnel.services == (("ADMIN",) if "ADMIN" in str(words) else ("SSH",))
    assert stage.wish.tunnel.new is ("--new" in words)


def test_options_of_a_tunnel(stage: Stage, tmp_path: Path) -> None:
    words = [
        "--tunnel",
        "t",
        "--keep",
        "--lifetime",
        "60",
        "--timeout",
        "1.5",
        "--resume-timeout",
        "3600",
    ]
    assert main(["ssh", *words, "pump-7"]) == 0
    wish = stage.wish
    assert wish is not None
    wanted = wish.tunnel
    assert (wanted.tunnel_id, wanted.keep, wanted.timeout, wanted.new) == ("t", True, 1.5, False)
    assert wanted.resume_timeout == 3600
    assert wanted.lifetime is not None
    assert wanted.lifetime.total_seconds() == 3600
    assert wanted.ledger == tmp_path / "tailrace" / "opened"
    assert wish.exit_status(ConfigurationError("x")) == 1
    with pytest.raises(ConfigurationError):
        wish.make_client()


@pytest.mark.parametrize(("is_terminal", "timeout"), [(True, None), (False, 30.0)])
def test_how_long_is_waited(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, is_terminal: bool, timeout: float | None
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    main(["ssh", "pump-7"])
    assert stage.wish is not None
    assert stage.wish.tunnel.timeout == timeout
    assert stage.wish.tunnel.resume_timeout == RESUME_TIMEOUT


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["ssh"], "required: THING"),
        (["ssh", "pi@"], "'pi@' names no thing"),
        (["ssh", "--lifetime", "1h", "t"], "'1h' is not a number of minutes, 1 to 720"),
        (["ssh", "--lifetime", "721", "t"], "is not a number of minutes"),
        (["ssh", "--timeout", "0", "t"], "'0' is not a number of seconds"),
        (["ssh", "--timeout", "x", "t"], "'x' is not a number of seconds"),
        (["ssh", "--resume-timeout", "86401", "t"], "is not a number of seconds, 0 to 86400"),
        (["ssh", "--new", "--tunnel", "x", "t"], "not allowed with argument"),
        (["ssh", "t", "--usr", "x"], "did you mean --user?"),
        (["proxy", "t", "SSH", "x"], "unrecognized arguments: x"),
        (["ssh-config", "--things", "a b"], "--things 'a b' is not a pattern"),
    ],
)
def test_what_cannot_be(
    stage: Stage, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    try:
        status = main(words)
    except SystemExit as error:
        status = int(error.code or 0)
    assert status == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line


def test_a_system_that_cannot_do_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(os, "fork")
    assert main(["proxy", "pump-7"]) == 1
    assert "this system has no unix sockets and no fork" in capsys.readouterr().err


def test_there_is_no_ssh(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ssh, "has_program", lambda name: False)
    assert main(["ssh", "pump-7"]) == 1
    assert "there is no ssh on this machine" in capsys.readouterr().err
    assert stage.wish is None


@pytest.mark.parametrize(("status", "code"), [(3, 3), (255, 255), (-9, 137)])
def test_the_status_of_ssh(stage: Stage, status: int, code: int) -> None:
    stage.status = status
    assert main(["ssh", "pump-7"]) == code


def test_why_ssh_has_failed(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.status = 255
    stage.membership.state = HolderState(Phase.WAITING, cause="the device has disconnected")
    assert main(["ssh", "pump-7"]) == 255
    assert capsys.readouterr().err == "tailrace ssh: pump-7: the device has disconnected\n"


def test_a_tunnel_that_cannot_be_closed_does_not_change_the_status(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.status, stage.ending = 3, CommandFailed("still open", 4)
    assert main(["ssh", "pump-7"]) == 3
    assert capsys.readouterr().err == "tailrace: pump-7: still open\n"


def test_no_tunnel(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(command: list[str]) -> int:
        raise CommandFailed("no", 6)

    monkeypatch.setattr(ssh, "run", run)
    assert main(["ssh", "pump-7"]) == 6
    assert capsys.readouterr().err == "tailrace ssh: no\n"


def test_a_signal(stage: Stage) -> None:
    stage.ending = Terminated(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        main(["ssh", "pump-7"])
    assert caught.value.code == 143


# -- proxy ----------------------------------------------------------------------------------------


@pytest.fixture
def device(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The device's end of the connection that a proxy gets."""
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(stage.membership, "open_socket", lambda service: ours)
    yield theirs
    ours.close()
    theirs.close()


def test_a_proxy(
    stage: Stage, device: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(stdio, "join_streams", asked.append)
    assert main(["proxy", "pump-7.tunnel", "ADMIN"]) == 0
    assert stage.wish is not None
    assert (stage.wish.tunnel.thing, stage.wish.tunnel.services) == ("pump-7", ("ADMIN",))
    assert len(asked) == 1


@pytest.mark.parametrize("cause", ["", "the device has disconnected"])
def test_a_proxy_whose_connection_is_cut(
    stage: Stage,
    device: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cause: str,
) -> None:
    def cut(sock: socket.socket) -> None:
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(stdio, "join_streams", cut)
    stage.membership.state = HolderState(Phase.WAITING, cause=cause)
    assert main(["proxy", "pump-7"]) == 4
    reason = cause or "Connection reset by peer"
    line = f"tailrace proxy: pump-7: the connection was cut: {reason}\n"
    assert capsys.readouterr().err == line


def test_a_proxy_whose_output_nobody_reads(
    stage: Stage, device: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(sock: socket.socket) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(stdio, "join_streams", broken)
    monkeypatch.setattr("tailrace.cli.tailrace.discard", lambda stream: None)
    assert main(["proxy", "pump-7"]) == 141


def test_a_proxy_whose_holder_has_died(
    stage: Stage,
    device: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def ended(sock: socket.socket) -> None:
        stage.there.close()

    monkeypatch.setattr(stdio, "join_streams", ended)
    assert main(["proxy", "pump-7"]) == 4
    said = "tailrace proxy: the process that held the tunnel has ended\n"
    assert capsys.readouterr().err == said


# -- ssh-config -----------------------------------------------------------------------------------


def test_ssh_config(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "tailrace"
    program.touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["./tailrace"])
    assert main(["ssh-config", "--things", "pump-*", "--profile", "lab", "--user", "pi"]) == 0
    printed = capsys.readouterr().out
    assert "Host pump-*.tunnel\n" in printed
    assert f"ProxyCommand {program} proxy --profile lab -- '%n'\n" in printed
    assert "User pi\n" in printed
    monkeypatch.setattr(sys, "argv", ["-c"])
    assert main(["ssh-config"]) == 0
    assert f"ProxyCommand {sys.executable} -m tailrace proxy -- '%n'\n" in capsys.readouterr().out
    monkeypatch.setattr(reach, "single_file", lambda: Path("tailrace.pyz"))
    assert main(["ssh-config"]) == 0
    shown = f"ProxyCommand {sys.executable} {tmp_path}/tailrace.pyz proxy -- '%n'\n"
    assert shown in capsys.readouterr().out
