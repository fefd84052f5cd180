"""The tutorials and how-tos, run as they stand there.

They run on a machine of their own: a network without anybody else, where names are what a file
says, and where ``ssh`` and ``scp`` are stand-ins, as there is one machine only.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
import trustme

from support.documents import Block, blocks, commands, section
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

FETCH = """
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1]).read().decode())
"""

DIAL = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])))"

TUNNEL_ID = "import json, sys; print(json.load(sys.stdin)['tunnelId'])"

PYTHON = shlex.quote(sys.executable)

SERVE = "tailrace serve\n"

SERVE_ALL = (
    "tailrace serve --api-listen 0.0.0.0:7443 --data-listen 0.0.0.0:7444 "
    "--host-name tunnel.example\n"
)

READY = {
    "http.server": "^Serving HTTP on ",
    "tailrace connect --source": "^SSH 127.0.0.1:",
    "tailrace connect": "^WEB 127.0.0.1:",
    "tailrace serve": "^for a shell: ",
    "tailrace agent run": "waiting at ",
    "-d SSH=localhost:22": "Successfully established websocket connection",
    "-s SSH=5555": "Listening for new connection on port 5555",
}
"""Part of a command that stays -> the line that says that it is ready."""


def ready(commands: str) -> str | None:
    """Return the line that says that what stays is ready, if something does."""
    return next((line for part, line in READY.items() if part in commands), None)


def steps(page: str, heading: str) -> list[Block]:
    """Return the blocks of commands in a section of a page."""
    path = ROOT / page
    return [block for block in blocks(path, section(path, heading)) if block.language == ""]


def on_device(block: Block) -> bool:
    """Return whether the paragraph above says that this is for another machine."""
    return block.paragraph.startswith("On the device")


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
        self.run_commands(block.text, environment, "device" if on_device(block) else ".")

    def run_commands(self, text: str, environment: str = "", directory: str = ".") -> None:
        """Run commands as those of a block."""
        name = f"block{next(self._numbers)}"
        (self._home / name).write_text(f"set -eu\n{commands(text)}")
        shell = f"cd {directory}; . $HOME/{name}"
        line = ready(text)
        if line is None:
            self.run(f"({environment}\n{shell})")
            return
        self.run(
            f"({environment}\n{shell}) >{name}.log 2>&1 & last=$!\n"
            f"until grep -q '{line}' {name}.log; do\n"
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


FIRST_SHELL = "docs/tutorials/without-aws.md"


@needs_sshd
@pytest.mark.skipif(os.geteuid() != 0, reason="port 22, where the device has its server, is root's")
def test_from_a_clone_to_a_shell_in_four_commands(machine: Machine, tmp_path: Path) -> None:
    """With the commands as they are installed, and a real server."""
    blocks = [block.text for block in steps(FIRST_SHELL, "To a shell")]
    assert [block.text for block in steps("README.md", "tailrace")] == blocks
    install, serve, agent, ssh = "".join(blocks).splitlines()
    assert install == "python3 -m venv .venv && .venv/bin/pip install '.[service]'"
    server = configure_sshd(tmp_path, 22, "pump-7.tunnel", tmp_path)
    machine.run(f"kill $!; {shlex.join(server)} &")
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parent.parent)
    for command in (serve, agent):
        machine.run_commands(command)
    assert ssh == ".venv/bin/tailrace ssh pump-7"
    (tmp_path / "bin" / "ssh").unlink()
    found = f"-i {tmp_path}/.ssh/id_ed25519 -o UserKnownHostsFile={tmp_path}/.ssh/known_hosts"
    machine.run(f"echo 'echo in a shell of $USER' | {ssh} -T {found}")
    assert "in a shell of root" in machine.output()


def test_another_service_of_a_device(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parent.parent)
    machine.run_commands(SERVE)
    for block in steps(FIRST_SHELL, "Other services of a device"):
        machine.run_block(block)
    machine.run(f"{PYTHON} -c {shlex.quote(FETCH)} http://127.0.0.1:8080/hosts")
    machine.run("tailrace things | grep lamp-2; tailrace tunnel list; tailrace status")
    assert "127.0.0.1 localhost" in machine.output()


COUNTING = "i=0; while sleep 1; do i=$((i + 1)); echo $i; done"


@needs_sshd
@pytest.mark.skipif(os.geteuid() != 0, reason="port 22, where the device has its server, is root's")
def test_a_shell_that_lives_through_the_end_of_the_service(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts faster than on the page, and until this test tells it to stop."""
    page = "docs/guides/cut-links.md"
    server = configure_sshd(tmp_path, 22, "pump-7.tunnel", tmp_path)
    machine.run(f"kill $!; {shlex.join(server)} &")
    keys = f"-i {tmp_path}/.ssh/id_ed25519 -o UserKnownHostsFile={tmp_path}/.ssh/known_hosts"
    (tmp_path / "bin" / "ssh").unlink()
    runtime = tempfile.TemporaryDirectory(prefix="tailrace-run-")
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime.name)
    machine.run_commands(SERVE)
    (options,) = steps(page, "How long connections wait")
    agent, ssh = options.text.splitlines()
    machine.run_commands(agent)
    (status, kill, serve) = steps(page, "See it")[0].text.splitlines()
    assert f"\n{COUNTING}\n" in (ROOT / page).read_text()
    counting = COUNTING.replace("while sleep 1", f"until test -e {tmp_path}/stop")
    counting = counting.replace("echo $i", "echo $i; sleep 0.02")
    machine.run(f": > counted; {ssh} -- -T {keys} {shlex.quote(counting)} >> counted & ssh=$!")
    more = (
        "l=$(wc -l < counted); until test $(wc -l < counted) -gt $((l + 9)); do\n"
        "    kill -0 $ssh; sleep 0.05\n"
        "done"
    )
    machine.run(more)
    machine.run(f"pid=$({status} | sed -n 's/^serve \\([0-9]*\\) .*/\\1/p' | head -n 1)")
    machine.run(kill.replace("PID", "$pid"))
    machine.run_commands(serve)
    machine.run(more)
    machine.run(f"touch {tmp_path}/stop; wait $ssh; seq $(wc -l < counted) | cmp - counted")
    with runtime:  # no other service is there to be killed
        machine.output()


def test_by_hand_without_aws(machine: Machine) -> None:
    machine.run_commands(SERVE)
    for block in steps(FIRST_SHELL, "By hand"):
        machine.run_block(block)
    assert "greeted by SSH-2.0-there" in machine.output()


def test_by_hand_with_aws(machine: Machine) -> None:
    """AWS is played by a service of that name; its authority is one of the system's."""
    machine.run_commands(
        "tailrace serve --api-listen 127.0.0.2:443 --data-listen 127.0.0.1:443 "
        f"--host-name {DATA} --host-name {API}\n"
    )
    machine.run("tailrace keys add > key 2>/dev/null")
    trust = "export SSL_CERT_FILE=$HOME/.local/state/tailrace/tls/ca.pem"
    for block in steps("docs/tutorials/with-aws.md", "By hand"):
        keys = "" if on_device(block) else "; set -a; . $HOME/key; set +a"
        machine.run_block(block, trust + keys)
    assert "greeted by SSH-2.0-there" in machine.output()


# Where root joins belongs to the machine of the test.
DEVICE = "export TAILRACE_SERVICE_DIR=$HOME/pump-7"
OPERATOR = "export TAILRACE_SERVICE_DIR=$HOME/laptop"


def test_a_second_machine(machine: Machine) -> None:
    page = "docs/guides/second-machine.md"
    (serve,) = steps(page, "A second machine")
    invite_device, agent = steps(page, "A device that waits for tunnels")
    invite_operator, operator = steps(page, "An operator")
    opening, device = steps(page, "A device with nothing but a token")
    machine.run_block(serve)
    for invite, who in ((invite_device, DEVICE), (invite_operator, OPERATOR)):
        machine.run(f"({who}; {invite.text.strip()} > line 2>/dev/null; sh ./line)")
    machine.run_block(agent, f"{DEVICE}; export XDG_STATE_HOME=$HOME/device")
    machine.run_block(opening)
    machine.run_block(device)
    machine.run_block(operator, OPERATOR)
    machine.run("tailrace proxy pump-7 </dev/null")
    output = machine.output()
    assert "copied device/destination.token" in output
    assert '"status": "OPEN"' in output
    assert "SSH-2.0-there" in output


def test_a_fleet(machine: Machine, tmp_path: Path) -> None:
    page = "docs/guides/fleet.md"
    machine.run_commands(SERVE_ALL)
    (dry_run,) = steps(page, "One device")
    machine.run_block(dry_run)
    (dozen,) = steps(page, "Invitations by the dozen")
    machine.run_block(dozen)
    (rights,) = steps(page, "Who may open tunnels")
    machine.run_block(rights)
    machine.run_block(steps(page, "Switching it off")[0])
    output = machine.output()
    assert "ExecStart=" in output
    for thing in ("pump-1", "pump-2", "pump-3"):
        assert (tmp_path / f"{thing}.sh").read_text().startswith("tailrace join https://")
    assert "AWS_SECRET_ACCESS_KEY=" in output
    assert "dashboard" in output


@needs_sshd
@pytest.mark.skipif(os.geteuid() != 0, reason="port 22, where the device has its server, is root's")
def test_the_pages_on_ssh_and_connect(machine: Machine, tmp_path: Path) -> None:
    """With a real server and client; the user is the one who runs the tests."""
    server = configure_sshd(tmp_path, 22, "pump-7.tunnel", tmp_path)
    machine.run(f"kill $!; {shlex.join(server)} &")
    keys = f"-i {tmp_path}/.ssh/id_ed25519 -o UserKnownHostsFile={tmp_path}/.ssh/known_hosts"
    options = f"-F {tmp_path}/.ssh/config {keys} -o StrictHostKeyChecking=no"
    (tmp_path / "bin" / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} {options} "$@"\n')
    (tmp_path / ".ssh" / "config").touch()
    (tmp_path / "srv").mkdir()
    (tmp_path / "request").write_text("GET /hosts HTTP/1.0\r\n\r\n")
    machine.run_commands(SERVE)
    machine.run_commands("python3 -m http.server 8000 --bind 127.0.0.1")
    services = "--service SSH=22 --service ADMIN=22 --service WEB=8000"
    machine.run_commands(f"tailrace agent run --thing-name pump-7 {services}")

    page = "docs/guides/ssh.md"
    (uptime,) = steps(page, "ssh to a device")
    machine.run(commands(uptime.text).replace("uptime", "echo the first"))
    shell, forward, admin, files = steps(page, "tailrace ssh")[0].text.splitlines()
    machine.run(f"echo echo the second | {shell.replace('pi@', '')} -T")
    machine.run(f"{forward} & p=$!")
    machine.run(f"until {PYTHON} -c {shlex.quote(DIAL)} 8080 2>/dev/null; do sleep 0.05; done")
    machine.run("kill $p; wait $p || :; echo forwarded")
    machine.run(f"echo echo the third | {admin.replace('--user pi', '--user root')} -- -T")
    machine.run(
        f"mkdir sent; touch sent/file; cd sent; {files.replace('/srv', f'{tmp_path}/srv')}; cd .."
    )
    machine.run(steps(page, "ssh-config")[0].text.replace("~", "$HOME"))
    machine.run(steps(page, "ssh-config")[1].text.splitlines()[0] + " echo the fourth")
    named, proxied = steps(page, "tailrace proxy")[0].text.splitlines()
    machine.run(f"{named} echo the fifth")
    machine.run(proxied.replace("plc-3 MODBUS", "pump-7 WEB"))

    page = "docs/guides/connect.md"
    (pipe,) = steps(page, "In a pipe")
    machine.run_commands(commands(pipe.text).removesuffix(" | cat\n"))
    machine.run("kill $last; wait $last || :")
    opening, connecting = steps(page, "A source token")[0].text.splitlines()
    machine.run(opening)
    machine.run_commands(connecting, 'eval "$(tailrace env)"')
    output = machine.output()
    for word in ("first", "second", "third", "fourth", "fifth"):
        assert f"the {word}\n" in output
    assert "forwarded" in output
    assert (tmp_path / "srv" / "file").is_file()
    assert "127.0.0.1 localhost" in (tmp_path / "response").read_text()
    assert '"tunnelId"' in output


def test_the_pages_on_tunnels_and_keys(machine: Machine) -> None:
    """Each with the id of a tunnel or of a key in the place of the one on the page."""
    machine.run_commands(SERVE_ALL)
    tunnel = "docs/reference/tunnel.md"
    opening, *others = steps(tunnel, "tailrace tunnel")[0].text.splitlines()
    machine.run(f"{opening} > opened; id=$({PYTHON} -c {shlex.quote(TUNNEL_ID)} < opened)")
    for command in others:
        machine.run(command.replace("TUNNEL_ID", "$id"))
    machine.run("tailrace tunnel describe $id")
    tokens, _ = steps(tunnel, "Access tokens")[0].text.splitlines()
    machine.run(f"{tokens}; ls pump-7")
    keys = steps("docs/reference/service.md", "Access keys")[0].text.splitlines()
    machine.run(f"{keys[0]} > key; . ./key")
    for command in keys[1:]:
        machine.run(command.replace("AKIAXXXXXXXXXXXXXXXX", "$AWS_ACCESS_KEY_ID"))
    machine.run("unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY")
    enrolment = "docs/guides/enrolment.md"
    machine.run_block(steps(enrolment, "Enrolment")[1])
    machine.run_block(steps(enrolment, "Files")[0])
    output = machine.output()
    assert '"status": "CLOSED"' in output
    assert "destination.token\nsource.token\n" in output
    assert output.count("tailrace join https://") == 3


def test_the_pages_on_moving_over(machine: Machine, tmp_path: Path) -> None:
    machine.run("mkdir -p config && echo 'WEB = 8080' > config/map.ini")
    (show,) = steps("docs/guides/from-localproxy.md", "Moving over from the C++ local proxy")
    machine.run(show.text)
    home = tmp_path / ".aws-iot-device-client"
    home.mkdir()
    settings = {"endpoint": "127.0.0.1", "thing-name": "pump-7"}
    settings |= {"cert": f"{home}/pump-7.pem", "key": f"{home}/pump-7.key"}
    (home / "aws-iot-device-client.conf").write_text(json.dumps(settings))
    certificate = trustme.CA().issue_cert("pump-7.example")
    certificate.cert_chain_pems[0].write_to_path(settings["cert"])
    certificate.private_key_pem.write_to_path(settings["key"])
    moving = steps(
        "docs/guides/from-device-client.md", "Moving over from Device Client and Greengrass"
    )
    machine.run(f"{moving[1].text.strip()} || echo status $?")
    output = machine.output()
    assert re.search(r"services +SSH=5555 +command line -s", output)
    assert re.search(r"FAIL +broker TCP", output)
    assert "status 9" in output
