"""A stage for the demonstration: stand-in commands, a control API, applications that misbehave.

The commands it starts are real processes, but stand-ins that do what a test asks for: the
tunnel of these ones has no length, the source's ports are those of the applications.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from support.network.ports import free_port
from support.waiting import HANG
from tailrace.demo import measurements, runner
from tailrace.demo.measurements import DemoFailed
from tailrace.demo.runner import run_demo

__all__ = ["LISTING", "Behaviour", "Stage", "answers", "listening", "stage"]

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

    def run(self, stay: bool = False, say: Callable[[str], None] | None = None) -> None:
        (self.directory / "plan.json").write_text(json.dumps(self.plan))
        run_demo(say or self.said.append, stay)

    def fails(self) -> str:
        """Run, and return the text of the failure."""
        with pytest.raises(DemoFailed) as caught:
            self.run()
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
    monkeypatch.setattr(measurements, "_ROUND_TRIPS", 20)
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
