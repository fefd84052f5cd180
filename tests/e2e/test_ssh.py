"""One command to a device: real ssh, scp, sftp, rsync and git, real terminals, a real service."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from support.network.ports import free_port
from support.processes.child import Process, clean_environment, installed, process
from support.processes.sshd import needs_sshd, sshd
from support.processes.terminals import Terminal, on_terminal
from support.service.process import ServiceProcess, service_process
from support.waiting import HANG, wait_until

THING, LATE, NEVER = "pump-7", "pump-8", "pump-9"
TAILRACE = installed("tailrace")


pytestmark = [
    needs_sshd,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc"),
]


@dataclass(frozen=True)
class Site:
    """A service that notifies devices, one of which is there, and a user who may log in."""

    service: ServiceProcess
    directory: Path
    ports: Mapping[str, int]
    environment: Mapping[str, str]
    options: tuple[str, ...]
    """By which ssh finds the keys of the user and of the device."""
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @contextmanager
    def device(self, thing: str) -> Iterator[Process]:
        """A device with the agent, which is waiting."""
        joined = self.directory / f"{thing}.joined"
        if not joined.exists():
            make_key(self.directory, "device", thing, joined)
        (self.directory / f"{thing}.log").unlink(missing_ok=True)
        services = [f"--service={name}={port}" for name, port in self.ports.items()]
        environment = clean_environment(
            TAILRACE_SERVICE_DIR=str(joined),
            XDG_STATE_HOME=str(self.directory / f"{thing}.state"),
        )
        command = [TAILRACE, "agent", "run", *services]
        known = self.service.process.log.count(f"thing {thing} waits")
        with process(thing, command, self.directory, environment) as agent:
            wait_until(
                lambda: (
                    self.service.process.log.count(f"thing {thing} waits") > known
                    or not agent.running
                ),
                "the agent",
            )
            yield agent

    def run(self, *command: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run a command without a terminal."""
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            timeout=HANG,
            check=False,
            env=dict(self.environment),
            cwd=self.directory,
        )

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a command without a terminal; it is killed after the test."""
        popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(self.environment),
            cwd=self.directory,
        )
        self.started.append(popen)
        return popen

    def ssh(self, thing: str, *arguments: str) -> list[str]:
        return [TAILRACE, "ssh", thing, *self.options, *arguments]

    def on_terminal(self, *command: str, **environment: str) -> AbstractContextManager[Terminal]:
        return on_terminal(command, {**self.environment, **environment}, self.directory)

    def other_user(self, name: str) -> Site:
        """Return the same for somebody who shares no files."""
        directories = {
            variable: str(self.directory / f"{name}-{variable}")
            for variable in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME")
        }
        return replace(self, environment={**self.environment, **directories})

    def tunnels(self, *, all_of_them: bool = False) -> list[dict[str, Any]]:
        """Return the tunnels that are open, newest first; or those that were, too."""
        found = self.service.control.call("ListTunnels", {})["tunnelSummaries"]
        return [each for each in found if all_of_them or each["status"] == "OPEN"]

    def no_tunnels(self) -> bool:
        """Return whether no tunnel is open, and nothing of one is left with the user."""
        left = [
            *Path(self.environment["XDG_RUNTIME_DIR"]).glob("tailrace/*.holder"),
            *Path(self.environment["XDG_STATE_HOME"]).glob("tailrace/opened/*"),
        ]
        return not self.tunnels() and not left

    def holder(self) -> int:
        """Return the process that holds a tunnel."""
        (path,) = Path(self.environment["XDG_RUNTIME_DIR"]).glob("tailrace/*.holder")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid = int(struct.unpack("3i", raw)[0])
        # It is in no process group of a command.
        assert os.getpgid(pid) != pid != os.getsid(pid)
        return pid


class Echo(threading.Thread):
    """Returns what it gets, and ends each connection after a number of bytes."""

    SIZE = 1_000_000

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]

    def run(self) -> None:
        while True:
            try:
                sock, _ = self.listening.accept()
            except OSError:
                return
            with sock:
                left = self.SIZE
                while left and (data := sock.recv(65536)):
                    sock.sendall(data)
                    left -= len(data)


def make_key(directory: Path, role: str, name: str, out: Path) -> None:
    """Let a machine join the service, as `tailrace join` does."""
    command = ["env", "--state-dir", str(directory / "state"), "--for", role, "--name", name]
    words = [*command, "--host", "127.0.0.1", "--out", str(out)]
    subprocess.run([TAILRACE, *words], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def site_of_all() -> Iterator[Site]:
    # Short, as names of sockets have to be.
    with tempfile.TemporaryDirectory(prefix="tailrace-") as name:
        directory = Path(name)
        home = directory / "home"
        home.mkdir()
        ports = {"SSH": free_port()}
        echo = Echo()
        echo.start()
        with (
            echo.listening,
            service_process(directory) as service,
            sshd(directory, ports["SSH"], f"{THING}.tunnel,{LATE}.tunnel", home),
        ):
            make_key(directory, "operator", "alice", directory / "operator")
            environment = clean_environment(
                TAILRACE_SERVICE_DIR=str(directory / "operator"),
                XDG_RUNTIME_DIR=name,
                XDG_STATE_HOME=str(directory / "state-of-user"),
                TERM="xterm",
            )
            environment.pop("NO_COLOR", None)
            files = home / ".ssh"
            options = (
                *("-F", "none"),
                *("-o", f"IdentityFile={files / 'id_ed25519'}"),
                *("-o", f"UserKnownHostsFile={files / 'known_hosts'}"),
                *("-o", "StrictHostKeyChecking=yes"),
            )
            site = Site(service, directory, {**ports, "ECHO": echo.port}, environment, options)
            with site.device(THING):
                yield site
            echo.listening.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def site(site_of_all: Site) -> Iterator[Site]:
    """A site without tunnels, before and after."""
    yield site_of_all
    while site_of_all.started:
        with site_of_all.started.pop() as popen:
            popen.kill()
    wait_until(site_of_all.no_tunnels, "the end of all tunnels", 20)


# -- ssh ------------------------------------------------------------------------------------------


def test_ssh_in_a_script(site: Site) -> None:
    done = site.run(*site.ssh(THING, "cat; echo dear >&2; exit 3"), stdin=b"\0hello\r\n")
    assert (done.stdout, done.stderr, done.returncode) == (b"\0hello\r\n", b"dear\n", 3)
    assert site.tunnels() == []


def test_ssh_on_a_terminal(site: Site) -> None:
    with site.on_terminal(*site.ssh(THING), NO_COLOR="1") as terminal:
        terminal.wait_for("device connected")
        terminal.type("echo $((6 * 7)); tty; exit 5\r")
        terminal.wait_for("/dev/pts/")
        assert terminal.end() == 5
    first = terminal.shown.partition("\n")[0]
    steps = r"tunnel [0-9a-f]{4}… opened · notified · device connected \(\d+\.\d s\)"
    line = rf"\r\x1b\[Jpump-7: {steps}\r"
    assert re.search(line, first), terminal.shown
    assert "\r\x1b[Jpump-7: opening a tunnel" in first
    assert "\x1b[1m" not in first
    assert "42\r\n" in terminal.shown
    assert site.tunnels() == []


def test_options_behind_the_thing_and_for_ssh(site: Site) -> None:
    command = [TAILRACE, "ssh", f"nobody@{THING}", "--user", "root", "--new", "--", *site.options]
    if os.geteuid() != 0:
        command[4] = os.environ["USER"]
    done = site.run(*command, "-v", "echo", "$SSH_CONNECTION")
    assert done.returncode == 0
    assert done.stdout.startswith(b"127.0.0.1 ")
    assert b"Authenticating to pump-7.tunnel:22 as" in done.stderr


def test_a_user_who_may_not_log_in(site: Site) -> None:
    command = [TAILRACE, "ssh", THING, "-F", "none", "-o", "BatchMode=yes", "-i", "/dev/null"]
    done = site.run(*command, "-o", "StrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null")
    assert done.returncode == 255
    assert b"tailrace" not in done.stderr  # which has nothing to explain


@pytest.mark.parametrize("service", ["ssh", "nothing"])
def test_a_service_that_the_tunnel_does_not_have(site: Site, service: str) -> None:
    opened = site.service.control.call("OpenTunnel", {"destinationConfig": {"services": ["SSH"]}})
    tunnel = ("--tunnel", opened["tunnelId"])
    done = site.run(TAILRACE, "proxy", *tunnel, "--timeout", "0.2", THING, service)
    assert done.returncode == 4
    site.service.control.call("CloseTunnel", {"tunnelId": opened["tunnelId"]})


# -- devices that come late, never, or go ---------------------------------------------------------


def test_a_device_that_never_comes(site: Site) -> None:
    done = site.run(TAILRACE, "ssh", "--timeout", "1", NEVER)
    assert (done.stdout, done.returncode) == (b"", 4)
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("tailrace ssh: the ")
    assert " within 1 s" in line
    assert site.tunnels() == []


@pytest.mark.parametrize(
    ("key", "number", "status"),
    [
        ("\x03", None, 130),
        ("", signal.SIGTERM, 143),
        ("", signal.SIGHUP, 129),
    ],
)
def test_waiting_in_vain(site: Site, key: str, number: signal.Signals | None, status: int) -> None:
    with site.on_terminal(TAILRACE, "ssh", NEVER) as terminal:
        terminal.wait_for("waiting for the device")
        assert len(site.tunnels()) == 1
        if key:
            terminal.type(key)
        else:
            os.kill(terminal.pid, number)
        assert terminal.end() == status
    assert site.tunnels() == []


def test_a_device_that_comes_late(site: Site) -> None:
    with site.on_terminal(*site.ssh(LATE, "echo here"), TERM="dumb") as terminal:
        terminal.wait_for("notified")
        with site.device(LATE):
            assert terminal.end() == 0
    assert "device connected" in terminal.shown
    assert "\nhere\r\n" in terminal.shown
    assert "\x1b" not in terminal.shown


def test_a_device_that_goes(site: Site) -> None:
    with site.device(LATE) as device:
        command, ssh, *rest = site.ssh(LATE, "echo started; exec sleep 60")
        # Otherwise the session waits two minutes for it.
        session = site.start(command, ssh, "--resume-timeout", "0.1", *rest)
        assert session.stdout is not None
        assert session.stdout.readline() == b"started\n"
        device.kill()
        _, errors = session.communicate(timeout=HANG)
    assert session.returncode == 255
    assert errors.decode().splitlines()[-1] == "tailrace ssh: pump-8: the device has disconnected"


def test_a_tunnel_that_is_closed_in_mid_session(site: Site) -> None:
    session = site.start(*site.ssh(THING, "echo started; exec sleep 60"))
    assert session.stdout is not None
    assert session.stdout.readline() == b"started\n"
    (tunnel,) = site.tunnels()
    site.service.control.call("CloseTunnel", {"tunnelId": tunnel["tunnelId"]})
    _, errors = session.communicate(timeout=HANG)
    assert session.returncode == 255
    assert "the tunnel was closed, or its lifetime is over" in errors.decode()


# -- commands that are killed ---------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_ended_in_mid_session(site: Site, number: signal.Signals) -> None:
    session = site.start(*site.ssh(THING, "echo started; exec sleep 60"))
    assert session.stdout is not None
    assert session.stdout.readline() == b"started\n"
    assert len(site.tunnels()) == 1
    session.send_signal(number)
    session.communicate(timeout=HANG)  # its ssh has its pipes, too
    assert session.returncode == (-9 if number == signal.SIGKILL else 255)
    wait_until(lambda: not site.tunnels(), "the end of the tunnel")


def test_all_of_it_killed(site: Site) -> None:
    with site.on_terminal(TAILRACE, "ssh", NEVER) as terminal:
        terminal.wait_for("waiting for the device")
        (tunnel,) = site.tunnels()
        os.kill(site.holder(), signal.SIGKILL)
        assert terminal.end() == 4
        assert "the process that held the tunnel has ended" in terminal.shown
    assert len(site.tunnels()) == 1
    with site.on_terminal(*site.ssh(THING, "true")) as terminal:
        assert terminal.end() == 0
    said = f"closed tunnel {tunnel['tunnelId']} to {NEVER}, which a killed command had left open"
    assert said in terminal.shown
    assert site.tunnels() == []


# -- tunnels that are open ------------------------------------------------------------------------


def test_a_tunnel_that_is_kept_and_taken(site: Site) -> None:
    done = site.run(TAILRACE, "ssh", "--keep", "--lifetime", "7", THING, *site.options, "true")
    assert (done.stderr, done.returncode) == (b"", 0)
    (tunnel,) = site.tunnels()
    described = site.service.control.call("DescribeTunnel", {"tunnelId": tunnel["tunnelId"]})
    assert described["tunnel"]["timeoutConfig"] == {"maxLifetimeTimeoutMinutes": 7}
    for which in ((), ("--tunnel", tunnel["tunnelId"])):
        wait_until(lambda: _is_free(site, tunnel["tunnelId"]), "the end of the last source")
        with site.on_terminal(TAILRACE, "ssh", *which, *site.ssh(THING, "true")[2:]) as terminal:
            assert terminal.end() == 0
        assert "… taken · device connected" in re.sub(r"\x1b\[\d+m", "", terminal.shown)
    assert [each["tunnelId"] for each in site.tunnels()] == [tunnel["tunnelId"]]
    site.service.control.call("CloseTunnel", {"tunnelId": tunnel["tunnelId"]})


def _is_free(site: Site, tunnel_id: str) -> bool:
    tunnel = site.service.control.call("DescribeTunnel", {"tunnelId": tunnel_id})["tunnel"]
    return bool(tunnel["sourceConnectionState"]["status"] == "DISCONNECTED")


def test_two_users_at_once(site: Site) -> None:
    users = [site.other_user(name) for name in ("alice", "bob")]
    sessions = [user.start(*user.ssh(THING, "echo started; read line")) for user in users]
    for session in sessions:
        assert session.stdout is not None
        assert session.stdout.readline() == b"started\n"
    assert len(site.tunnels()) == 2
    for session in sessions:
        assert session.communicate(b"\n", timeout=HANG) == (b"", b"")
        assert session.returncode == 0


# -- proxies --------------------------------------------------------------------------------------


def test_a_proxy_is_exact(site: Site) -> None:
    data = os.urandom(Echo.SIZE)
    done = site.run(TAILRACE, "proxy", THING, "ECHO", stdin=data)
    assert done.stdout == data
    assert (done.stderr, done.returncode) == (b"", 0)
    assert site.tunnels() == []


def test_a_proxy_whose_holder_dies(site: Site) -> None:
    proxies = [site.start(TAILRACE, "proxy", THING) for _ in range(2)]
    for proxy in proxies:
        assert proxy.stdout is not None
        assert proxy.stdout.readline().startswith(b"SSH-2.0-")
    assert len(site.tunnels()) == 1
    os.kill(site.holder(), signal.SIGKILL)
    for proxy in proxies:
        _, errors = proxy.communicate(timeout=HANG)
        assert errors == b"tailrace proxy: the process that held the tunnel has ended\n"
        assert proxy.returncode == 4
    assert site.run(*site.ssh(THING, "true")).returncode == 0


def test_all_that_uses_ssh_shares_a_tunnel(site: Site) -> None:
    for program in ("rsync", "git", "scp", "sftp"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (`make apt`)")
    printed = site.run(TAILRACE, "ssh-config", "--things", "pump-*")
    assert printed.returncode == 0
    config = site.directory / "config"
    settings = [f"    {each}\n" for each in site.options[3::2]]
    config.write_text(printed.stdout.decode() + "".join(settings))
    host, work = f"{THING}.tunnel", site.directory / "work"
    work.mkdir()
    data = os.urandom(200_000)
    (work / "file").write_bytes(data)
    subprocess.run(["git", "init", "-q", str(work / "repository")], check=True)
    identity = ("-c", "user.name=a", "-c", "user.email=b")
    commit = ("commit", "-q", "--allow-empty", "-m", "first")
    subprocess.run(["git", "-C", str(work / "repository"), *identity, *commit], check=True)
    before = len(site.tunnels(all_of_them=True))
    ssh = f"ssh -F {config}"
    session = site.start(*ssh.split(), host, "echo started; read line; exit 3")
    assert session.stdout is not None
    assert session.stdout.readline() == b"started\n"
    commands = (
        ["scp", "-q", "-F", str(config), f"{host}:{work}/file", f"{work}/by-scp"],
        ["rsync", "-e", ssh, f"{host}:{work}/file", f"{work}/by-rsync"],
        ["sftp", "-q", "-F", str(config), f"{host}:{work}/file", f"{work}/by-sftp"],
        [
            "git",
            "-c",
            f"core.sshCommand={ssh}",
            "clone",
            "-q",
            f"{host}:{work}/repository",
            f"{work}/by-git",
        ],
    )
    running = [site.start(*command) for command in commands]
    for command, each in zip(commands, running, strict=True):
        _, errors = each.communicate(timeout=HANG)
        assert (errors, each.returncode) == (b"", 0), command
    session.communicate(b"\n", timeout=HANG)
    assert session.returncode == 3
    for name in ("by-scp", "by-rsync", "by-sftp"):
        assert (work / name).read_bytes() == data
    assert (work / "by-git" / ".git").is_dir()
    assert len(site.tunnels(all_of_them=True)) == before + 1
    shutil.rmtree(work)


def test_no_service_to_ask(site: Site) -> None:
    nowhere = {"HOME": str(site.directory), "TAILRACE_SERVICE_DIR": ""}
    done = replace(site, environment=site.environment | nowhere).run(TAILRACE, "ssh", THING)
    assert done.returncode == 1
    assert done.stderr == b"tailrace ssh: no region: give --region or set AWS_REGION\n"


def test_status_shows_who_holds_a_tunnel(site: Site) -> None:
    session = site.start(*site.ssh(THING, "echo started; read line"))
    assert session.stdout is not None
    assert session.stdout.readline() == b"started\n"
    shown = site.run(TAILRACE, "status", "--json")
    processes = json.loads(shown.stdout)["processes"]
    assert not any("problem" in each for each in processes)
    (holder,) = (each for each in processes if each["kind"] == "holder")
    assert holder["pid"] == site.holder()
    (tunnel,) = holder["tunnels"]
    assert (tunnel["tunnel"], tunnel["services"], tunnel["peer"]) == (
        THING,
        {"SSH": 1},
        "connected",
    )
    assert session.communicate(b"\n", timeout=HANG) == (b"", b"")


def test_json_of_nothing(site: Site) -> None:
    """Whatever is asked of the holder by somebody else of this user ends only that connection."""
    session = site.start(*site.ssh(THING, "echo started; read line"))
    assert session.stdout is not None
    assert session.stdout.readline() == b"started\n"
    (path,) = Path(site.environment["XDG_RUNTIME_DIR"]).glob("tailrace/*.holder")
    assert path.stat().st_mode & 0o777 == 0o600
    for text in (b"no json\n", b"[]\n", json.dumps({"what": 1}).encode() + b"\n", b"{" * 300_000):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            try:
                sock.sendall(text)
                while sock.recv(65536):
                    pass
            except ConnectionError:
                pass
    assert session.communicate(b"\n", timeout=HANG) == (b"", b"")
    assert session.returncode == 0
