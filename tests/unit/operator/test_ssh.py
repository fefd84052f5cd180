from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from support.repository import SOURCE
from support.waiting import HANG
from tailrace.errors import ConfigurationError
from tailrace.operator import ssh
from tailrace.operator.messages import encode_message
from tailrace.operator.sharing import Membership
from tailrace.operator.ssh import explanation, run, ssh_command
from tailrace.operator.state import HolderState, Phase


def test_the_command() -> None:
    command = ssh_command(Path("/run/a b/100%.sock"), "pump-7", "SSH", "pi", ["-v", "uptime"])
    options = dict(word.split("=", 1) for flag, word in pairwise(command) if flag == "-o")
    helper = shlex.split(options["ProxyCommand"])
    assert helper[-2:] == ["/run/a b/100%%.sock", "SSH"]
    assert Path(helper[3]).is_file()
    assert options["HostKeyAlias"] == "pump-7.tunnel"
    assert options["ProxyUseFdpass"] == "yes"
    assert command[-5:] == ["-l", "pi", "pump-7.tunnel", "-v", "uptime"]
    other = ssh_command(Path("s"), "pump-7", "ADMIN", None, [])
    assert other[-1] == "pump-7.ADMIN.tunnel"
    assert "-l" not in other


def test_the_command_of_a_single_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "single_file", lambda: SOURCE.parent)  # imports take it as well
    command = ssh_command(Path("/nowhere"), "pump-7", "SSH", None, [])
    (proxy,) = (word for word in command if word.startswith("ProxyCommand="))
    helper = shlex.split(proxy.partition("=")[2])
    done = subprocess.run(helper, capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("tailrace ssh: No such file or directory\n", 1)


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 5", 5),
        ("kill -9 $$", -9),
        # The signal is sent to the parent, and goes on to the child.
        ("kill -TERM $PPID; exec sleep 60", -15),
    ],
)
def test_how_it_ends(script: str, status: int) -> None:
    # In a process of its own, which has no other threads that could get the signal.
    code = f"from tailrace.operator.ssh import run; print(run(['sh', '-c', {script!r}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert int(done.stdout) == status


def test_a_signal_that_comes_before_its_child() -> None:
    with ssh._forwarded_signals() as forward_to:
        os.kill(os.getpid(), signal.SIGTERM)
        child = os.posix_spawnp("sleep", ["sleep", "60"], os.environ)
        forward_to(child)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -15


def test_a_child_that_stops_stops_its_parent() -> None:
    """As ``~^Z`` does; the shell goes on with both."""
    code = (
        "from tailrace.operator.ssh import run; print(run(['sh', '-c', 'kill -STOP $$; exit 7']))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    child.send_signal(signal.SIGCONT)
    output, _ = child.communicate(timeout=HANG)
    assert output == b"7\n"


def test_signals_are_the_default_ones_in_ssh() -> None:
    code = "import signal; assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN"
    assert run([sys.executable, "-c", code]) == 0  # as Python itself sets it
    assert run(["sh", "-c", "kill -PIPE $$"]) == -signal.SIGPIPE


def test_which_programs_there_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert ssh.has_program("sh")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "plain").touch(mode=0o600)
    assert not ssh.has_program("sh")
    assert not ssh.has_program("plain")


def test_there_is_no_ssh() -> None:
    with pytest.raises(ConfigurationError, match="there is no ssh on this machine"):
        run(["/nowhere/ssh"])


# -- why ------------------------------------------------------------------------------------------


@pytest.fixture
def pair(short: Path) -> Iterator[tuple[Membership, socket.socket]]:
    ours, theirs = socket.socketpair()
    membership = Membership(ours, short / "s")
    membership.state = HolderState(Phase.READY)
    yield membership, theirs
    membership.close()
    theirs.close()


def test_a_status_of_the_remote_command(pair: tuple[Membership, socket.socket]) -> None:
    membership, holder = pair
    holder.sendall(encode_message("failed", "over", status=7))
    assert explanation(membership, 1) == ""
    assert explanation(membership, 255) == "over"


def test_a_device_that_has_gone(
    pair: tuple[Membership, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    membership, holder = pair
    monkeypatch.setattr(ssh, "_NEWS", 0.01)
    assert explanation(membership, 255) == ""
    state = replace(membership.state, phase=Phase.WAITING, cause="the device has disconnected")
    holder.sendall(encode_message("state", state.to_document()))
    monkeypatch.setattr(ssh, "_NEWS", HANG)
    assert explanation(membership, 255) == "the device has disconnected"


def test_a_service_that_does_not_answer(pair: tuple[Membership, socket.socket]) -> None:
    membership, holder = pair
    state = replace(membership.state, refusal="the destination could not reach localhost:22")
    holder.sendall(encode_message("state", state.to_document()))
    assert explanation(membership, 255) == "the destination could not reach localhost:22"
