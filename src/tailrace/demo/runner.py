"""Run the demonstration and print what it measured."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..aws import ControlClient, Credentials
from ..common.secret import Secret
from ..errors import ExitCode, TailraceError
from .applications import EchoServer, FileServer

__all__ = ["DemoFailed", "Measurements", "run_demo"]

_FILE_SIZE: Final = 64 * 1024 * 1024
_ROUND_TRIPS: Final = 500
_START_TIMEOUT: Final = 30.0
_STOP_TIMEOUT: Final = 10.0
_DYING_TIME: Final = 0.5
"""Seconds from the end of a process' connections to its end."""
_SSH_PORT: Final = 22

Say = Callable[[str], None]


class DemoFailed(TailraceError):
    """A step of the demonstration did not work; the text says which and why."""

    exit_code = ExitCode.PROTOCOL


@dataclass(slots=True)
class Measurements:
    """What the demonstration found out."""

    listing: list[str] = field(default_factory=list)
    download_rate: float = 0.0
    """Megabytes (10**6) a second."""
    upload_rate: float = 0.0
    download_matches: bool = False
    upload_matches: bool = False
    round_trips: list[float] = field(default_factory=list)
    """Seconds, for 64 bytes."""


def run_demo(say: Say, stay: bool) -> int:
    """Run the whole demonstration; ``stay`` keeps it up afterwards until Ctrl-C.

    Raises:
        DemoFailed: a step did not work.
    """
    with ExitStack() as stack:
        stack.enter_context(_ended_by_sigterm())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tailrace-demo-")))
        demo = _Demo(directory, say, stack)
        demo.set_up()
        try:
            with demo.watched():
                measurements = demo.measure()
        except DemoFailed:
            demo.find_the_dead()
            raise
        for line in _table(measurements):
            say(line)
        if not (measurements.download_matches and measurements.upload_matches):
            raise DemoFailed("the bytes that came out of the tunnel are not those that went in")
        if stay:
            demo.stay()
        demo.tear_down()
    return ExitCode.OK


class _Demo:
    """The parts of one run, started in order and stopped in the reverse."""

    def __init__(self, directory: Path, say: Say, stack: ExitStack) -> None:
        self._directory = directory
        self._say = say
        self._stack = stack
        self._ports: dict[str, int] = {}
        self._processes: list[_Process] = []

    def set_up(self) -> None:
        """Start the applications, the service and both proxies."""
        files = self._directory / "files"
        files.mkdir()
        self._file = files / "64MiB.bin"
        self._file.write_bytes(os.urandom(_FILE_SIZE))
        (files / "hello.txt").write_text("Hello through the tunnel.\n")
        applications = {
            "HTTP": self._stack.enter_context(FileServer(files)).port,
            "ECHO": self._stack.enter_context(EchoServer()).port,
        }
        if _answers(_SSH_PORT):
            applications["SSH"] = _SSH_PORT
        self._start_service()
        self._open_tunnel(list(applications))
        mapping = ",".join(f"{name}=127.0.0.1:{port}" for name, port in applications.items())
        self._start_proxy("destination", ["-d", mapping])
        self._start_proxy("source", ["-m", "source", "-b", "127.0.0.1"])

    def _start_service(self) -> None:
        state = self._directory / "state"
        ready = self._directory / "service.json"
        command = [
            *(_command("tailrace"), "serve"),
            *("--state-dir", str(state), "--ready-file", str(ready)),
            *("--api-listen", "127.0.0.1:0", "--data-listen", "127.0.0.1:0"),
        ]
        self._start("service", command, {})
        self._endpoints = self._wait_for(ready)
        self._say(
            f"service      api {self._endpoints['api_endpoint']}  "
            f"data {self._endpoints['data_endpoint']}"
        )

    def _open_tunnel(self, services: list[str]) -> None:
        self._client = ControlClient(
            self._endpoints["api_endpoint"],
            self._endpoints["region"],
            Credentials(
                self._endpoints["access_key_id"], Secret(self._endpoints["secret_access_key"])
            ),
            Path(self._endpoints["ca_file"]),
        )
        self._tunnel = self._client.call(
            "OpenTunnel",
            {"description": "tailrace demo", "destinationConfig": {"services": services}},
        )
        self._say(f"tunnel       {self._tunnel['tunnelId']}  services {', '.join(services)}")

    def _start_proxy(self, mode: str, options: list[str]) -> None:
        ready = self._directory / f"{mode}.json"
        command = [
            *(_command("localproxy"), *options),
            *("-e", self._endpoints["data_endpoint"], "-c", self._endpoints["ca_dir"]),
            *("--ready-file", str(ready)),
        ]
        token = self._tunnel[f"{mode}AccessToken"]
        environment = {"AWSIOT_TUNNEL_ACCESS_TOKEN": token}
        self._start(mode, command, environment)
        services = self._wait_for(ready)["services"]
        where = "  ".join(f"{name} {_show(address)}" for name, address in services.items())
        self._say(f"{mode:<12} {where}")
        if mode == "source":
            self._ports = {name: address["port"] for name, address in services.items()}

    def _start(self, name: str, command: list[str], extra: dict[str, str]) -> None:
        log = self._directory / f"{name}.log"
        # Neither a proxy nor settings of the caller's shell may lead these astray.
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith("AWSIOT_TUNNEL_") and key.lower() != "https_proxy"
        }
        with log.open("wb") as out:
            popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment | extra,
                cwd=self._directory,
                start_new_session=True,
            )
        process = _Process(name, popen, log)
        self._stack.callback(process.kill)
        self._processes.append(process)

    def _check(self) -> None:
        for process in self._processes:
            process.check()

    def _wait_for(self, ready: Path) -> dict[str, Any]:
        """Return the ready file of a process, once it is there."""
        deadline = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < deadline:
            if ready.exists():
                document: dict[str, Any] = json.loads(ready.read_text())
                return document
            self._check()
            time.sleep(0.02)
        latest = self._processes[-1]
        raise DemoFailed(f"{ready.name} did not appear within {_START_TIMEOUT:g} s:{latest.tail()}")

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Break off what the block does when a process ends.

        Else it would wait: a source keeps its clients until there is a link again.
        """
        previous = signal.signal(signal.SIGCHLD, lambda *_: self._check())
        try:
            yield
        finally:
            signal.signal(signal.SIGCHLD, previous)

    def find_the_dead(self) -> None:
        """Raise if a transfer failed because a process has ended, or is about to."""
        deadline = time.monotonic() + _DYING_TIME
        while time.monotonic() < deadline:
            self._check()
            time.sleep(0.02)

    def measure(self) -> Measurements:
        """Move the bytes, both ways, and time them."""
        found = Measurements()
        found.listing = self._list()
        expected = hashlib.sha256(self._file.read_bytes()).hexdigest()
        content, found.download_rate = self._download()
        found.download_matches = hashlib.sha256(content).hexdigest() == expected
        answer, found.upload_rate = self._upload(content)
        found.upload_matches = answer == expected
        found.round_trips = self._round_trips()
        return found

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytearray:
        connection = http.client.HTTPConnection("127.0.0.1", self._ports["HTTP"], timeout=60)
        connection.blocksize = 1 << 18
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            content = bytearray(response.length or 0)
            view = memoryview(content)
            got = 0
            while got < len(content):
                count = response.readinto(view[got:])
                if not count:
                    raise DemoFailed(f"{method} {path} ended after {got} of {len(content)} bytes")
                got += count
        except (OSError, http.client.HTTPException) as error:
            raise DemoFailed(f"{method} {path} through the tunnel failed: {error}") from None
        finally:
            connection.close()
        if response.status >= http.HTTPStatus.BAD_REQUEST:
            raise DemoFailed(f"{method} {path} was answered with {response.status}")
        return content

    def _list(self) -> list[str]:
        page = self._request("GET", "/").decode()
        names = [name for name in ("64MiB.bin", "hello.txt") if f'href="{name}"' in page]
        if not names:
            raise DemoFailed("the directory listing that came through the tunnel is not ours")
        return names

    def _download(self) -> tuple[bytearray, float]:
        start = time.perf_counter()
        content = self._request("GET", "/64MiB.bin")
        return content, len(content) / (time.perf_counter() - start) / 1e6

    def _upload(self, content: bytes | bytearray) -> tuple[str, float]:
        connection = http.client.HTTPConnection("127.0.0.1", self._ports["HTTP"], timeout=60)
        try:
            start = time.perf_counter()
            connection.request("PUT", "/upload", memoryview(content))
            response = connection.getresponse()
            rate = len(content) / (time.perf_counter() - start) / 1e6
            return response.read().decode(), rate
        except (OSError, http.client.HTTPException) as error:
            raise DemoFailed(f"the upload through the tunnel failed: {error}") from None
        finally:
            connection.close()

    def _round_trips(self) -> list[float]:
        ping = os.urandom(64)
        times = []
        try:
            with socket.create_connection(("127.0.0.1", self._ports["ECHO"]), timeout=60) as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for _ in range(_ROUND_TRIPS):
                    start = time.perf_counter()
                    sock.sendall(ping)
                    pong = sock.recv(64, socket.MSG_WAITALL)
                    times.append(time.perf_counter() - start)
                    if pong != ping:
                        raise DemoFailed("the echo through the tunnel differs from what was sent")
        except OSError as error:
            raise DemoFailed(f"the echo through the tunnel failed: {error}") from None
        return times

    def stay(self) -> None:
        """Keep everything running until Ctrl-C."""
        self._say("")
        self._say("The tunnel is up. Try, in another terminal:")
        self._say(f"  curl http://127.0.0.1:{self._ports['HTTP']}/")
        self._say(f"  nc 127.0.0.1 {self._ports['ECHO']}")
        if "SSH" in self._ports:
            self._say(f"  ssh -p {self._ports['SSH']} 127.0.0.1")
        self._say("Ctrl-C ends it.")
        try:
            while True:
                self._check()
                time.sleep(0.5)
        except KeyboardInterrupt:
            self._say("")

    def tear_down(self) -> None:
        """Close the tunnel; both proxies end by themselves, and well."""
        self._client.call("CloseTunnel", {"tunnelId": self._tunnel["tunnelId"]})
        service, *proxies = self._processes
        for process in proxies:
            process.wait()
        service.terminate()
        service.wait()


class _Process:
    """One real process of the demonstration."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path) -> None:
        self._name = name
        self._popen = popen
        self._log = log

    def check(self) -> None:
        """Raise when the process has ended."""
        if self._popen.poll() is not None:
            raise DemoFailed(f"the {self._name} {self._end()}")

    def wait(self) -> None:
        """Wait for an orderly end."""
        try:
            self._popen.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"the {self._name} did not end:{self.tail()}") from None
        if self._popen.returncode:
            raise DemoFailed(f"the {self._name} {self._end()}")

    def terminate(self) -> None:
        """Ask the process to end."""
        self._popen.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process whatever it does."""
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait()

    def _end(self) -> str:
        status = self._popen.returncode
        how = f"ended with status {status}" if status >= 0 else f"was killed by signal {-status}"
        return f"{how}:{self.tail()}"

    def tail(self) -> str:
        """Return the end of its log, on lines of their own."""
        lines = self._log.read_text(errors="replace").splitlines()[-5:]
        return "".join(f"\n    {line}" for line in lines)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the stack: the processes have sessions of their own and would stay."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _command(name: str) -> str:
    """Return the installed command that belongs to this Python."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise DemoFailed(f"the command {name} is not installed beside {sys.executable}")
    return str(path)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _show(address: dict[str, Any]) -> str:
    return f"{address['host']}:{address['port']}"


def _table(found: Measurements) -> list[str]:
    """Format the measurements."""
    quantiles = statistics.quantiles(found.round_trips, n=100)
    matches = {"download": found.download_matches, "upload": found.upload_matches}
    rows = [
        ("directory listing", ", ".join(found.listing)),
        ("download 64 MiB", f"{found.download_rate:.0f} MB/s"),
        ("upload 64 MiB", f"{found.upload_rate:.0f} MB/s"),
        (
            "round trip 64 B",
            f"median {quantiles[49] * 1e3:.2f} ms, p99 {quantiles[98] * 1e3:.2f} ms",
        ),
        ("sha256 match", " ".join(name for name, same in matches.items() if same) or "none"),
    ]
    return [
        "",
        *(
            f"{name}: {value}" if name == "sha256 match" else f"{name:<18} {value}"
            for name, value in rows
        ),
    ]
