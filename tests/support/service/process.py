"""A service as a process of its own: ``tailrace serve``."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from support.processes.child import Process, clean_environment, installed, process
from support.waiting import HANG, wait_until
from tailrace.aws import ControlClient, Credentials
from tailrace.cli.exit_codes import ExitCode
from tailrace.common.secret import Secret
from tailrace.service.config import Endpoints, parse_address

__all__ = ["ServiceProcess", "control_client", "service_process"]


_TRIES = 40
_PAUSE = 0.25
"""How often a service is started again where its port is taken, and seconds in between."""


class ServiceProcess:
    """A running ``tailrace serve``; after :meth:`restart` it has the same ports."""

    def __init__(
        self,
        directory: Path,
        options: Sequence[str],
        patience: float = HANG,
        machine: Sequence[str] = (),
        command: str = installed("tailrace"),
    ) -> None:
        self._directory = directory
        self._machine = machine
        self._command = command
        self._options = options
        self._patience = patience
        self._ready = directory / "service.json"
        self._stack = contextlib.ExitStack()
        self.process: Process
        self.endpoints: Endpoints
        self.control: ControlClient

    def start(self, api_port: int = 0, data_port: int = 0, host: str = "127.0.0.1") -> None:
        """Start, and wait until the service accepts requests."""
        command = [
            *(*self._machine, self._command, "serve"),
            *("--state-dir", str(self._directory / "state"), "--ready-file", str(self._ready)),
            *("--api-listen", f"{host}:{api_port}", "--data-listen", f"{host}:{data_port}"),
            *self._options,
        ]
        self.process = self._stack.enter_context(
            process("service", command, self._directory, clean_environment())
        )
        wait_until(
            lambda: self._ready.exists() or not self.process.running,
            "readiness of the service",
            self._patience,
        )
        assert self.process.running, self.process.log
        self.endpoints = Endpoints.read(self._ready)
        self.control = control_client(self.endpoints)

    def shell_environment(self) -> dict[str, str]:
        """Return the environment of a shell that has evaluated what ``tailrace env`` prints."""
        state_dir = str(self._directory / "state")
        printed = _output([self._command, "env", "--state-dir", state_dir])
        dumped = _output(["/bin/sh", "-c", 'eval "$1"; exec env -0', "sh", printed])
        return dict(line.split("=", 1) for line in dumped.split("\0") if line)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End, by default in order; return the exit status."""
        self.process.signal(number)
        status = self.process.wait()
        self._stack.close()
        return status

    def restart(self, number: int = signal.SIGTERM) -> None:
        """End the service with a signal and start it again at the same addresses."""
        assert self.stop(number) == (-number if number == signal.SIGKILL else ExitCode.OK)
        # Only who is killed leaves it behind.
        assert self._ready.exists() is (number == signal.SIGKILL)
        self._ready.unlink(missing_ok=True)
        data = parse_address(self.endpoints.data_endpoint, "data")
        api = parse_address(self.endpoints.api_endpoint.removeprefix("https://"), "api")
        for _ in range(_TRIES):
            try:
                self.start(api.port, data.port, data.host)
            except AssertionError:
                # The system may have given a port to a connection of another test meanwhile.
                if "Address already in use" not in self.process.log:
                    raise
                self._stack.close()
                time.sleep(_PAUSE)
            else:
                return
        raise AssertionError(f"ports {api.port} and {data.port} do not become free")

    def close(self) -> None:
        """End in order if it still runs, and reap it in any case."""
        if self.process.running:
            self.stop()
        self._stack.close()


def _output(command: Sequence[str]) -> str:
    """Return what a command prints that has nothing to complain about."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env=clean_environment()
    )
    return done.stdout


@contextmanager
def service_process(
    directory: Path,
    *options: str,
    host: str = "127.0.0.1",
    machine: Sequence[str] = (),
    command: str = installed("tailrace"),
) -> Iterator[ServiceProcess]:
    """A service in a process of its own.

    ``machine`` is a command that runs another one; ``command`` is ``tailrace`` as it is installed.
    """
    service = ServiceProcess(directory, options, machine=machine, command=command)
    try:
        service.start(host=host)
        yield service
    finally:
        service.close()


def control_client(endpoints: Endpoints) -> ControlClient:
    """Return a client of a service's control API."""
    return ControlClient(
        endpoints.api_endpoint,
        endpoints.region,
        Credentials(endpoints.access_key_id, Secret(endpoints.secret_access_key)),
        Path(endpoints.ca_file),
    )
