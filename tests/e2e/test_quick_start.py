"""The quick starts of README.md, run as they stand there.

They run on a machine of their own: a network without anybody else, where names are what a file
says, and where ``ssh`` and ``scp`` are stand-ins, as there is one machine only.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.processes.child import clean_environment
from support.processes.sshd import configure_sshd, needs_sshd
from support.repository import ROOT
from support.waiting import HANG

API = "api.tunneling.iot.us-east-1.amazonaws.com"
DATA = "data.tunneling.iot.us-east-1.amazonaws.com"

HOSTS = f"127.0.0.1 localhost tunnel.example {DATA}\n127.0.0.2 {API}\n"

NETWORK = """
import fcntl, socket, struct
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
with socket.socket() as sock:
    fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
"""

SSH_SERVER = """
import socket
with socket.create_server(("127.0.0.1", 22)) as listener:
    while True:
        accepted, _ = listener.accept()
        with accepted:
            accepted.sendall(b"SSH-2.0-there\\r\\n")
"""

SSH = """
import socket, sys
option, port, who = sys.argv[1:]
assert (option, who) == ("-p", "user@localhost")
with socket.create_connection(("localhost", int(port))) as sock, sock.makefile("rb") as received:
    print("greeted by", received.readline().decode().strip())
"""

SCP = """
import shutil, sys
*files, where = sys.argv[1:]
for file in files:
    print("copied", shutil.copy(file, where.rstrip(":")))
"""

READY = {
    "tailrace serve": "^for a shell: ",
    "tailrace agent run": "waiting at ",
    "-d SSH=localhost:22": "Successfully established websocket connection",
    "-s SSH=5555": "Listening for new connection on port 5555",
}
"""Part of a command that stays -> the line that says that it is ready."""


@dataclass(frozen=True)
class Block:
    """Commands for one shell, and the paragraph above them."""

    commands: str
    paragraph: str

    @property
    def on_device(self) -> bool:
        return self.paragraph.startswith("On the device")

    @property
    def ready(self) -> str | None:
        return next((line for part, line in READY.items() if part in self.commands), None)


def blocks(heading: str) -> list[Block]:
    """Return the blocks of a section of README.md, without those of the next heading."""
    section = re.split(r"^#+ ", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    (text,) = (part for part in section if part.startswith(f"{heading}\n"))
    parts = re.split(r"^```\n", text, flags=re.MULTILINE)
    return [
        Block(commands, words.strip().rpartition("\n\n")[2])
        for words, commands in zip(parts[::2], parts[1::2], strict=False)
    ]


class Machine:
    """A machine whose network is its own; a script is written line by line, then run."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._numbers = itertools.count(1)
        (home / "bin").mkdir()
        (home / "device").mkdir()
        for name, program in (("ssh", SSH), ("scp", SCP)):
            (home / "bin" / name).write_text(f"#!{sys.executable}\n{program}")
            (home / "bin" / name).chmod(0o755)
        (home / "hosts").write_text(HOSTS)
        (home / "network.py").write_text(NETWORK)
        (home / "server.py").write_text(SSH_SERVER)
        self._script = textwrap.dedent(f"""
            set -eu
            mount --bind "$HOME/hosts" /etc/hosts
            {sys.executable} network.py
            {sys.executable} server.py &
            """)

    def run_block(self, block: Block, environment: str = "") -> None:
        """Run the commands in a shell of their own, and wait until what stays is ready."""
        name = f"block{next(self._numbers)}"
        (self._home / name).write_text(f"set -eu\n{block.commands}")
        directory = "device" if block.on_device else "."
        shell = f"cd {directory}; . $HOME/{name}"
        if block.ready is None:
            self.run(f"({environment}\n{shell})")
            return
        self.run(
            f"({environment}\n{shell}) >{name}.log 2>&1 & last=$!\n"
            f"until grep -q '{block.ready}' {name}.log; do\n"
            f"    kill -0 $last || {{ cat {name}.log; exit 1; }}\n"
            "    sleep 0.05\n"
            "done"
        )

    def run(self, line: str) -> None:
        """Run a line of the shell."""
        self._script += f"{line}\n"

    def output(self) -> str:
        """Run everything and return what it prints."""
        command = [*unshare(), "/bin/sh", "-c", self._script]
        path = f"{self._home}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = clean_environment(HOME=str(self._home), PATH=path)
        environment.pop("XDG_STATE_HOME", None)
        done = subprocess.run(
            command,
            cwd=self._home,
            env=environment,
            capture_output=True,
            text=True,
            timeout=HANG,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def unshare() -> list[str]:
    """Return the command that runs another one on a machine of its own; skip without it."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *user, "--net", "--mount", "--pid", "--fork", "--kill-child"]
    if shutil.which("unshare") is None:
        pytest.skip("the command unshare is missing (util-linux)")
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"this user can have no machine of its own: {tried.stderr.strip()}")
    return command


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@needs_sshd
@pytest.mark.skipif(os.geteuid() != 0, reason="port 22, where the device has its server, is root's")
def test_from_a_clone_to_a_shell_in_four_commands(machine: Machine, tmp_path: Path) -> None:
    """With the commands as they are installed, and a real server."""
    setup, serve, agent, ssh = blocks("tailrace")[0].commands.splitlines()
    assert setup == "make setup"
    server = configure_sshd(tmp_path, 22, "pump-7.tunnel", tmp_path)
    machine.run(f"kill $!; {shlex.join(server)} &")
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parent.parent)
    for command in (serve, agent):
        assert command.endswith(" &")
        machine.run_block(Block(command.removesuffix(" &"), ""))
    assert ssh == ".venv/bin/tailrace ssh pump-7"
    (tmp_path / "bin" / "ssh").unlink()
    found = f"-i {tmp_path}/.ssh/id_ed25519 -o UserKnownHostsFile={tmp_path}/.ssh/known_hosts"
    machine.run(f"echo 'echo in a shell of $USER' | {ssh} -T {found}")
    assert "in a shell of root" in machine.output()


def test_without_aws(machine: Machine) -> None:
    for block in blocks("Quick start without AWS"):
        machine.run_block(block)
    assert "greeted by SSH-2.0-there" in machine.output()


def test_a_second_machine(machine: Machine) -> None:
    serve, copy, device, operator = blocks("A second machine")
    (opening,) = (
        each for each in blocks("Quick start without AWS") if "tunnel open" in each.commands
    )
    machine.run_block(serve)
    machine.run_block(opening)
    machine.run_block(copy)
    machine.run_block(device)
    # Where root joins belongs to the machine of the test.
    joined = "export TAILRACE_SERVICE_DIR=$HOME/joined"
    machine.run(f"{joined}; tailrace invite operator laptop > line 2>/dev/null; sh ./line")
    machine.run_block(operator, joined)
    output = machine.output()
    assert "copied device/destination.token" in output
    assert '"status": "OPEN"' in output


def test_with_aws(machine: Machine) -> None:
    """AWS is played by a service of that name; its authority is one of the system's."""
    machine.run_block(
        Block(
            "tailrace serve --api-listen 127.0.0.2:443 --data-listen 127.0.0.1:443 "
            f"--host-name {DATA} --host-name {API}\n",
            "",
        )
    )
    machine.run("tailrace keys add > key 2>/dev/null")
    trust = "export SSL_CERT_FILE=$HOME/.local/state/tailrace/tls/ca.pem"
    for block in blocks("Quick start with AWS"):
        keys = "" if block.on_device else "; set -a; . $HOME/key; set +a"
        machine.run_block(block, trust + keys)
    assert "greeted by SSH-2.0-there" in machine.output()
