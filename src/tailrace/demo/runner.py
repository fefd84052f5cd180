"""Run the demonstration and print what it measured."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

from ..aws import ControlClient, Credentials
from ..common.addresses import format_host_port
from ..common.secret import Secret
from ..errors import ConfigurationError
from .applications import EchoServer, FileServer
from .measurements import DemoFailed, measure, table
from .processes import Processes, ended_by_sigterm, installed

__all__ = ["run_demo"]

_FILE: Final = "64MiB.bin"
_FILE_SIZE: Final = 64 * 1024 * 1024
_SSH_PORT: Final = 22
_HOST: Final = "127.0.0.1"

Say = Callable[[str], None]


def run_demo(say: Say, stay: bool) -> None:
    """Run the whole demonstration; ``stay`` keeps it up afterwards until Ctrl-C.

    Raises:
        DemoFailed: a step did not work.
        ConfigurationError: there is no room for temporary files.
    """
    with ExitStack() as stack:
        stack.enter_context(ended_by_sigterm())
        directory, files = _make_files(stack)
        processes = Processes(directory, stack)
        applications = _start_applications(files, stack)
        endpoints = _start_service(directory, processes, say)
        control = ControlClient(
            endpoints["api_endpoint"],
            endpoints["region"],
            Credentials(endpoints["access_key_id"], Secret(endpoints["secret_access_key"])),
            Path(endpoints["ca_file"]),
        )
        tunnel = _open_tunnel(control, list(applications), say)
        ports = _start_proxies(processes, endpoints, tunnel, applications, say)
        say("transfer     64 MiB in each direction, then round trips")
        with processes.watched():
            found = measure(ports["HTTP"], ports["ECHO"], files, _FILE)
        say("")
        for line in table(found):
            say(line)
        if not (found.download_matches and found.upload_matches):
            raise DemoFailed("the bytes that came out of the tunnel are not those that went in")
        if stay:
            _stay(ports, processes, say)
        # Both proxies end by themselves when their tunnel is closed.
        control.call("CloseTunnel", {"tunnelId": tunnel["tunnelId"]})
        processes.wait()


def _make_files(stack: ExitStack) -> tuple[Path, Path]:
    """Return a new temporary directory, and one in it with files to transfer."""
    try:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tailrace-demo-")))
        files = directory / "files"
        files.mkdir()
        (files / _FILE).write_bytes(os.urandom(_FILE_SIZE))
        (files / "hello.txt").write_text("Hello through the tunnel.\n")
    except OSError as error:
        raise ConfigurationError(
            f"cannot write {_FILE_SIZE >> 20} MiB of temporary files: {error.strerror}; "
            "name a directory with room for them in TMPDIR"
        ) from None
    return directory, files


def _start_applications(files: Path, stack: ExitStack) -> dict[str, int]:
    """Start what the destination forwards to; return service id -> port."""
    applications = {
        "HTTP": stack.enter_context(FileServer(files)).port,
        "ECHO": stack.enter_context(EchoServer()).port,
    }
    with suppress(OSError):  # many machines have no SSH server
        socket.create_connection((_HOST, _SSH_PORT), timeout=1).close()
        applications["SSH"] = _SSH_PORT
    return applications


def _start_service(directory: Path, processes: Processes, say: Say) -> dict[str, Any]:
    """Start a service on ports of its own; return its endpoints and credentials."""
    command = [installed("tailrace"), "serve", "--state-dir", str(directory / "state")]
    command += ["--api-listen", f"{_HOST}:0", "--data-listen", f"{_HOST}:0"]
    endpoints = processes.start("service", command, {})
    say(f"service      api {endpoints['api_endpoint']}  data {endpoints['data_endpoint']}")
    return endpoints


def _open_tunnel(control: ControlClient, services: list[str], say: Say) -> dict[str, Any]:
    tunnel = control.call(
        "OpenTunnel",
        {"description": "tailrace demo", "destinationConfig": {"services": services}},
    )
    say(f"tunnel       {tunnel['tunnelId']}  services {', '.join(services)}")
    return tunnel


def _start_proxies(
    processes: Processes,
    endpoints: dict[str, Any],
    tunnel: dict[str, Any],
    applications: dict[str, int],
    say: Say,
) -> dict[str, int]:
    """Start the destination, then the source; return service id -> port of the source."""
    mapping = ",".join(f"{name}={_HOST}:{port}" for name, port in applications.items())
    services: dict[str, Any] = {}
    for mode, options in (
        ("destination", ["-d", mapping]),
        ("source", ["-m", "source", "-b", _HOST]),
    ):
        command = [installed("localproxy"), *options]
        command += ["-e", endpoints["data_endpoint"], "-c", endpoints["ca_dir"], "--no-state"]
        # In the environment, because arguments can be seen by other users.
        token = {"AWSIOT_TUNNEL_ACCESS_TOKEN": tunnel[f"{mode}AccessToken"]}
        services = processes.start(mode, command, token)["services"]
        shown = [f"{name} {format_host_port(**address)}" for name, address in services.items()]
        say(f"{mode:<12} {'  '.join(shown)}")
    return {name: address["port"] for name, address in services.items()}


def _stay(ports: dict[str, int], processes: Processes, say: Say) -> None:
    """Keep everything running until Ctrl-C."""
    say("")
    say("The tunnel is up. Try, in another terminal:")
    say(f"  curl http://{_HOST}:{ports['HTTP']}/")
    say(f"  nc {_HOST} {ports['ECHO']}")
    if "SSH" in ports:
        say(f"  ssh -p {ports['SSH']} {_HOST}")
    say("Ctrl-C ends it.")
    try:
        while True:
            processes.check()
            time.sleep(0.5)
    except KeyboardInterrupt:
        say("")
