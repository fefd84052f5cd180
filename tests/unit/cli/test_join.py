"""``tailrace join``: from a line to files."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.processes.child import clean_environment, installed
from support.service import ServiceProcess, service_process
from tailrace.aws.joined import read_joined
from tailrace.cli.exit_codes import ExitCode
from tailrace.cli.tailrace import main
from tailrace.common.enrolment import Role, new_code
from tailrace.service.identity.invitations import InvitationFile, invitations_file

PIN = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with service_process(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TAILRACE_SERVICE_DIR", str(tmp_path / "joined"))


def invite(service: ServiceProcess, *argv: str) -> list[str]:
    """Return the words of an invitation."""
    state_dir = Path(service.endpoints.ca_file).parent.parent
    command = [installed("tailrace"), "invite", "--state-dir", str(state_dir), *argv]
    made = subprocess.run(
        [*command, "--host", "localhost"], capture_output=True, text=True, check=True
    )
    return shlex.split(made.stdout)


def test_a_device_joins(
    service: ServiceProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, *words = invite(service, "device", "pump-7")
    directory = tmp_path / "joined"
    assert main(words) == ExitCode.OK
    out, err = capsys.readouterr()
    assert out.splitlines()[1:] == [
        f"written to {directory}",
        "to wait for tunnels: tailrace agent run --service SSH=22",
    ]
    assert "waits for tunnels of pump-7" in out
    assert err == ""
    first = read_joined(directory)
    assert first is not None
    assert sorted(path.name for path in directory.iterdir()) == [
        first.ca_file.name,
        "service.json",
    ]
    # Used up.
    assert main(words) == ExitCode.USAGE
    assert "ask for another" in capsys.readouterr().err
    assert read_joined(directory) == first
    # Another one takes the place of it.
    _, *words = invite(service, "operator", "alice", "--read-only")
    assert main([*words, "--dir", str(directory)]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert "opens tunnels as alice" in out
    assert f"to find it there: export TAILRACE_SERVICE_DIR={directory}" in out.splitlines()
    assert f"tailrace keys revoke {first.credentials.access_key_id}" in err
    second = read_joined(directory)
    assert second is not None
    assert (second.role, second.name) == (Role.OPERATOR, "alice")


def test_a_code_from_elsewhere(
    service: ServiceProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "code"
    for given in (["--code-file", str(file)], ["--code-file", "-"], ["-"]):
        _, *words, code = invite(service, "device", "pump-7")
        file.write_text(f"{code}\n")
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{code.lower()}\n"))
        assert main([*words, *given]) == ExitCode.OK
    assert code not in "".join(capsys.readouterr())


def test_who_dies_before_the_answer_joins_with_the_same_line(
    service: ServiceProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailrace.cli import join as command

    _, *words = invite(service, "device", "pump-7")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(command, "write_joined", die)
        assert main(words) == 130
    with monkeypatch.context() as context:
        # An attempt that comes to nothing in between forgets nothing.
        context.setenv("https_proxy", "gopher://localhost:1")
        context.delenv("no_proxy", raising=False)
        context.delenv("NO_PROXY", raising=False)
        assert main(words) == ExitCode.USAGE
    assert main(words) == ExitCode.OK
    assert not (tmp_path / "joined" / "joining.json").exists()


def test_another_key_than_the_pinned_one(
    service: ServiceProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, command, url, option, _, code = invite(service, "device", "pump-7")
    assert main([command, url, option, PIN, code]) == ExitCode.TLS
    err = capsys.readouterr().err
    assert "and not the pinned key" in err
    assert code not in err
    assert err.count("\n") == 1
    state_dir = Path(service.endpoints.ca_file).parent.parent
    invitations = InvitationFile(invitations_file(state_dir)).read()
    assert invitations[-1].used_at is None
    assert read_joined(tmp_path / "joined") is None


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--pin", PIN, "short"], "the code is not 26 letters and digits"),
        (["--pin", "sha256:00", new_code().reveal()], "--pin 'sha256:00' is not sha256: and 64"),
        (["--pin", PIN, "a", "--code-file", "-"], "give the code once"),
        (["--pin", PIN, "--code-file", "/nowhere"], "--code-file /nowhere: No such file"),
        (["--pin", PIN], "the following arguments are required: CODE"),
        ([new_code().reveal()], "the following arguments are required: --pin"),
        (["--pin", PIN, new_code().reveal(), "--dir", "/proc/x"], "cannot make the directory"),
    ],
)
def test_wrong_arguments_are_one_line(
    capsys: pytest.CaptureFixture[str], argv: list[str], text: str
) -> None:
    try:
        status = main(["join", "https://localhost:1", *argv])
    except SystemExit as end:
        status = int(str(end.code))
    assert status == ExitCode.USAGE
    err = capsys.readouterr().err
    assert text in err
    assert err.count("\n") == 1


@pytest.mark.skipif(not os.path.exists("/proc/self/cmdline"), reason="other systems show less")
def test_the_list_of_processes_does_not_show_the_code(tmp_path: Path) -> None:
    script = (
        "import sys; from tailrace.cli import join\n"
        "from tailrace.cli.tailrace import main\n"
        "def stop(*_, **__): print(open('/proc/self/cmdline').read()); sys.exit(7)\n"
        "join.pending_secret_key = stop\n"
        "main(sys.argv[1:])"
    )
    code = new_code().reveal()
    argv = ["join", "https://localhost:1", "--pin", PIN, code]
    ended = subprocess.run(
        [sys.executable, "-c", script, *argv],
        capture_output=True,
        text=True,
        env=clean_environment(),
        check=False,
    )
    assert ended.returncode == 7
    assert PIN in ended.stdout
    assert code not in ended.stdout
