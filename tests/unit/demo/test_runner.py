"""The demonstration when something does not work: each fault is named, nothing stays behind.

The commands it starts are real processes, but stand-ins that do what a test asks for: the
tunnel of these ones has no length, the source's ports are those of the applications. What
the true commands do together is for ``tests/e2e/test_demo.py``.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from support.network.ports import free_port
from tailrace.aws import ControlError
from tailrace.demo import runner
from tailrace.demo.runner import DemoFailed, Measurements, run_demo
from tailrace.errors import ExitCode

HANG = 20.0

STAND_IN = """#!{python} -IS
import json, os, signal, sys, time

here = os.path.dirname(os.path.abspath(__file__))
with open(here + "/plan.json") as file:
    plan = json.load(file)
name = "service" if "serve" in sys.argv else "destination" if "-d" in sys.argv else "source"
mine = plan.get(name, {{}})
with open(here + "/" + name + ".seen", "w") as file:
    json.dump({{"argv": sys.argv, "environ": dict(os.environ), "cwd": os.getcwd()}}, file)

def end(status):
    for line in mine.get("says", []):
        print(line, file=sys.stderr, flush=True)
    if status < 0:
        os.kill(os.getpid(), -status)
    sys.exit(status)

def wait_for(path):
    while not os.path.exists(here + "/" + path):
        time.sleep(0.01)

if "dies" in mine:
    end(mine["dies"])
if name == "service":
    signal.signal(signal.SIGTERM, lambda *_: end(mine.get("status", 0)))
    ready = plan["endpoints"]
elif name == "destination":
    pairs = (each.split("=") for each in sys.argv[sys.argv.index("-d") + 1].split(","))
    ready = {{"services": {{
        service: {{"host": where.split(":")[0], "port": int(where.split(":")[1])}}
        for service, where in pairs
    }}}}
    with open(here + "/mapping.json", "w") as file:
        json.dump(ready, file)
else:
    with open(here + "/mapping.json") as file:
        ready = json.load(file)
    for service, port in mine.get("ports", {{}}).items():
        ready["services"][service]["port"] = port
if mine.get("mute"):
    time.sleep(60)
target = sys.argv[sys.argv.index("--ready-file") + 1]
with open(target + ".new", "w") as file:
    json.dump(ready, file)
os.rename(target + ".new", target)
if "dies_later" in mine:
    wait_for("now")
    end(mine["dies_later"])
if mine.get("deaf"):
    time.sleep(60)
if name == "service":
    time.sleep(60)
wait_for("closed")
end(mine.get("status", 0))
"""


class Stage:
    """The stand-in commands, what they shall do, and what they saw."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.plan: dict[str, Any] = {}
        self.said: list[str] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        """Operations of the control API and their parameters."""
        self.refuses = ""
        """An operation that the control API refuses."""
        for command in ("tailrace", "localproxy"):
            file = directory / command
            file.write_text(STAND_IN.format(python=sys.executable))
            file.chmod(0o755)

    def run(self, stay: bool = False, say: Callable[[str], None] | None = None) -> int:
        (self.directory / "plan.json").write_text(json.dumps(self.plan))
        return run_demo(say or self.said.append, stay)

    def fails(self) -> str:
        """Run, and return the text of the failure."""
        with pytest.raises(DemoFailed) as caught:
            self.run()
        assert caught.value.exit_code is ExitCode.PROTOCOL
        return str(caught.value)

    def seen(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / f"{name}.seen").read_text())
        return found

    def touch(self, name: str) -> None:
        (self.directory / name).touch()

    def call(self, operation: str, parameters: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.calls.append((operation, parameters))
        if operation == self.refuses:
            return 400, {"__type": "LimitExceededException", "message": "too many tunnels"}
        if operation == "CloseTunnel":
            self.touch("closed")
            return 200, {}
        return 200, {
            "tunnelId": "tunnel-1",
            "sourceAccessToken": "token-of-the-source",
            "destinationAccessToken": "token-of-the-destination",
        }


@contextmanager
def control_api(stage: Stage, ca: trustme.CA) -> Iterator[int]:
    """The control API over TLS."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            operation = self.headers["X-Amz-Target"].rpartition(".")[2]
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, answer = stage.call(operation, json.loads(body))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    httpd = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield httpd.server_port
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    directory = tmp_path / "bin"
    directory.mkdir()
    (tmp_path / "tmp").mkdir()
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    stage = Stage(directory)
    monkeypatch.setattr(sys, "executable", str(directory / "python"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(runner, "_FILE_SIZE", 200_000)
    monkeypatch.setattr(runner, "_ROUND_TRIPS", 20)
    monkeypatch.setattr(runner, "_SSH_PORT", free_port())
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGCHLD)]
    with control_api(stage, ca) as port:
        stage.plan["endpoints"] = {
            "api_endpoint": f"https://127.0.0.1:{port}",
            "data_endpoint": "127.0.0.1:4433",
            "ca_file": str(tmp_path / "ca.pem"),
            "ca_dir": str(tmp_path),
            "region": "us-east-1",
            "access_key_id": "AKIDEXAMPLE",
            "secret_access_key": "hidden-key",
        }
        yield stage
    for thread in threading.enumerate():
        if "process_request_thread" in thread.name:
            thread.join(HANG)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGCHLD)] == handlers
    assert os.listdir(tmp_path / "tmp") == []


Behaviour = Callable[[socket.socket], None]


@contextmanager
def listening(*behaviours: Behaviour) -> Iterator[int]:
    """A port whose n-th connection gets the n-th behaviour, and all further ones the last."""
    threads: list[threading.Thread] = []

    def serve(sock: socket.socket, behaviour: Behaviour) -> None:
        with sock, contextlib.suppress(OSError):
            behaviour(sock)

    def accept() -> None:
        for number in range(1000):
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            behaviour = behaviours[min(number, len(behaviours) - 1)]
            threads.append(threading.Thread(target=serve, args=(sock, behaviour)))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for thread in threads:
                thread.join(HANG)


def answers(status: str, body: bytes = b"", length: int | None = None) -> Behaviour:
    """Return the behaviour of a web server that answers each request alike."""

    def behave(sock: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(1)
        size = len(body) if length is None else length
        sock.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\n\r\n".encode() + body)
        if not head.startswith(b"PUT"):
            return
        while sock.recv(65536):
            pass

    return behave


LISTING = answers("200 OK", b'<a href="64MiB.bin"> <a href="hello.txt">')


# -- everything plays along ------------------------------------------------------------------


def test_who_is_told_what(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "AWSIOT_TUNNEL_ACCESS_TOKEN",
        "AWSIOT_TUNNEL_REGION",
        "https_proxy",
        "HTTPS_PROXY",
    ):
        monkeypatch.setenv(name, "of-the-callers-shell")
    assert stage.run() == ExitCode.OK
    assert [operation for operation, _ in stage.calls] == ["OpenTunnel", "CloseTunnel"]
    assert stage.calls[0][1]["destinationConfig"] == {"services": ["HTTP", "ECHO"]}
    assert stage.calls[1][1] == {"tunnelId": "tunnel-1"}
    for name in ("service", "destination", "source"):
        seen = stage.seen(name)
        assert "token-of" not in " ".join(seen["argv"])
        assert "of-the-callers-shell" not in seen["environ"].values()
        assert Path(seen["cwd"]).name.startswith("tailrace-demo-")
    for name in ("destination", "source"):
        token = stage.seen(name)["environ"]["AWSIOT_TUNNEL_ACCESS_TOKEN"]
        assert token == f"token-of-the-{name}"
    assert "AWSIOT_TUNNEL_ACCESS_TOKEN" not in stage.seen("service")["environ"]
    words = " ".join(stage.seen("source")["argv"][1:])
    assert words.startswith("-m source -b 127.0.0.1 -e 127.0.0.1:4433 -c ")


def test_what_is_said(stage: Stage) -> None:
    stage.run()
    assert stage.said[0].startswith("service      api https://127.0.0.1:")
    assert stage.said[1] == "tunnel       tunnel-1  services HTTP, ECHO"
    assert stage.said[2].startswith("destination  HTTP 127.0.0.1:")
    assert stage.said[3].startswith("source       HTTP 127.0.0.1:")
    assert stage.said[5] == "directory listing  64MiB.bin, hello.txt"
    assert stage.said[-1] == "sha256 match: download upload"


def test_ssh_is_shown_where_there_is_one(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sshd:
        monkeypatch.setattr(runner, "_SSH_PORT", sshd.getsockname()[1])
        stage.run()
    assert stage.said[1] == "tunnel       tunnel-1  services HTTP, ECHO, SSH"


# -- commands and processes ------------------------------------------------------------------


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
            monkeypatch.setattr(runner, "_START_TIMEOUT", 0.2)

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


def test_a_tunnel_that_is_refused(stage: Stage) -> None:
    stage.refuses = "OpenTunnel"
    with pytest.raises(ControlError, match=r"^LimitExceededException: too many tunnels$"):
        stage.run()


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
    monkeypatch.setattr(runner, "_DYING_TIME", HANG)

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
    monkeypatch.setattr(runner, "_STOP_TIMEOUT", 0.2)
    stage.plan["source"] = {"deaf": True}
    assert stage.fails() == "the source did not end:"


# -- transfers -------------------------------------------------------------------------------


def with_http(stage: Stage, *behaviours: Behaviour) -> str:
    """Return the failure when the source's HTTP port behaves like this."""
    with listening(*behaviours) as port:
        stage.plan["source"] = {"ports": {"HTTP": port}}
        return stage.fails()


def test_a_port_that_refuses(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_DYING_TIME", 0.05)
    stage.plan["source"] = {"ports": {"HTTP": free_port()}}
    assert stage.fails().startswith("GET / through the tunnel failed: [Errno ")


@pytest.mark.parametrize(
    ("behaviours", "said"),
    [
        ([answers("500 Oops")], "GET / was answered with 500"),
        ([answers("200 OK", b"a page")], "the directory listing that came through"),
        ([answers("200 OK", b"half", 8)], "GET / ended after 4 of 8 bytes"),
        ([lambda sock: sock.sendall(b"SSH-2.0\r\n")], "GET / through the tunnel failed: SSH-2.0"),
        ([LISTING, answers("404 Gone")], "GET /64MiB.bin was answered with 404"),
        ([LISTING, answers("200 OK", b"x"), lambda sock: None], "the upload through the tunnel"),
        (
            [LISTING, answers("200 OK", b"other bytes"), answers("202 OK", b"another hash")],
            "the bytes that came out of the tunnel are not those that went in",
        ),
    ],
)
def test_transfers_that_fail(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, behaviours: list[Behaviour], said: str
) -> None:
    monkeypatch.setattr(runner, "_DYING_TIME", 0.05)
    assert with_http(stage, *behaviours).startswith(said)


def test_what_does_not_match_is_not_said_to(stage: Stage) -> None:
    with_http(stage, LISTING, answers("200 OK", b"x"), answers("202 OK", b"another hash"))
    assert stage.said[-1] == "sha256 match: none"


def change_a_bit(sock: socket.socket) -> None:
    while data := sock.recv(65536):
        sock.sendall(bytes([data[0] ^ 1]) + data[1:])


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (change_a_bit, "the echo through the tunnel differs from what was sent"),
        (lambda sock: sock.recv(64), "the echo through the tunnel differs"),
        (None, "the echo through the tunnel failed: [Errno "),
    ],
)
def test_an_echo_that_fails(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, behaviour: Behaviour | None, said: str
) -> None:
    monkeypatch.setattr(runner, "_DYING_TIME", 0.05)
    if behaviour is None:
        stage.plan["source"] = {"ports": {"ECHO": free_port()}}
        assert stage.fails().startswith(said)
        return
    with listening(behaviour) as port:
        stage.plan["source"] = {"ports": {"ECHO": port}}
        assert stage.fails().startswith(said)


# -- staying, and being ended ----------------------------------------------------------------


def press_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Ctrl-C come while the demonstration waits for it."""
    sleep = time.sleep

    def interrupted(seconds: float) -> None:
        if seconds == 0.5:
            signal.raise_signal(signal.SIGINT)
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", interrupted)


@pytest.mark.parametrize("ssh", [False, True])
def test_it_stays_until_ctrl_c(stage: Stage, monkeypatch: pytest.MonkeyPatch, ssh: bool) -> None:
    press_ctrl_c(monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as sshd:
        if ssh:
            monkeypatch.setattr(runner, "_SSH_PORT", sshd.getsockname()[1])
        assert stage.run(stay=True) == ExitCode.OK
    hints = stage.said[stage.said.index("The tunnel is up. Try, in another terminal:") + 1 :]
    assert [hint.split()[0] for hint in hints if hint] == (
        ["curl", "nc", "ssh", "Ctrl-C"] if ssh else ["curl", "nc", "Ctrl-C"]
    )
    assert stage.calls[-1][0] == "CloseTunnel"


def test_a_process_that_dies_while_it_stays(stage: Stage) -> None:
    def say(line: str) -> None:
        if line.startswith("Ctrl-C"):
            stage.touch("now")

    stage.plan["source"] = {"dies_later": 4}
    with pytest.raises(DemoFailed, match=r"^the source ended with status 4:"):
        stage.run(stay=True, say=say)


def test_sigterm_ends_all(stage: Stage) -> None:
    def say(line: str) -> None:
        if line.startswith("destination"):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as caught:
        stage.run(say=say)
    assert caught.value.code == 128 + signal.SIGTERM


# -- the table -------------------------------------------------------------------------------


def test_the_table() -> None:
    found = Measurements(
        listing=["a", "b"],
        download_rate=123.4,
        upload_rate=0.6,
        download_matches=True,
        round_trips=[0.001] * 98 + [0.002, 0.003],
    )
    assert runner._table(found) == [
        "",
        "directory listing  a, b",
        "download 64 MiB    123 MB/s",
        "upload 64 MiB      1 MB/s",
        "round trip 64 B    median 1.00 ms, p99 2.99 ms",
        "sha256 match: download",
    ]
