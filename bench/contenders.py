"""The contenders: each knows how to start itself, and what its processes are.

A contender leads clients to applications. The source's way to the relay goes through
``gate``, which may put a slow link in front of the relay's address.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import trustme

from tailrace.aws import ControlClient, Credentials
from tailrace.common.secret import Secret
from tailrace.errors import ControlError

from .processes import BenchError, Process, Supervisor, unused_ports

__all__ = [
    "LOOPBACK",
    "NGINX",
    "PICOWS",
    "PYTHON",
    "REFERENCE",
    "WEBSOCKETS",
    "Address",
    "Contender",
    "Gate",
    "Role",
    "Running",
    "TunnelingService",
    "all_contenders",
    "find_nginx",
    "start_service",
]

LOOPBACK: Final = "127.0.0.1"
PICOWS: Final = "picows"
PYTHON: Final = "python"
WEBSOCKETS: Final = "websockets"
NGINX: Final = "nginx"
REFERENCE: Final = "reference"

_BIN: Final = Path(sys.executable).parent
_REFERENCE: Final = "LOCALPROXY_REFERENCE"
"""Environment variable with the path of the C++ binary."""


class Address(NamedTuple):
    """A TCP address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


Gate = Callable[[Address], Address]
Targets = Mapping[str, Address]


class Role(Enum):
    """The parts of a contender whose cost is told apart."""

    SOURCE = "source"
    RELAY = "relay"
    DESTINATION = "destination"


@dataclass(frozen=True, slots=True)
class Running:
    """A contender at work."""

    endpoints: dict[str, Address]
    """Name of an application -> where clients reach it."""
    processes: dict[Role, Process]


class Contender(ABC):
    """One column of the tables."""

    name: str
    description: str
    """One line for the report."""

    @abstractmethod
    def missing(self) -> str | None:
        """Return what is missing to run it here, ``None`` if nothing is."""

    @abstractmethod
    def start(self, supervisor: Supervisor, applications: Targets, gate: Gate) -> Running:
        """Start it and return once connections to every application work.

        Raises:
            BenchError: it did not start.
        """


def all_contenders(variants: Iterable[str] = ()) -> list[Contender]:
    """Return the columns of a run, those from ``--variant`` behind tailrace's own two.

    Raises:
        BenchError: a variant is not understood.
    """
    return [
        LocalProxies(PICOWS, "tailrace with the picows link", ["--link", "picows"]),
        LocalProxies(
            PYTHON,
            "the same without the compiled extension, at both ends and in the service",
            ["--link", "picows"],
            environment={"TAILRACE_FAST": "0"},
        ),
        LocalProxies(WEBSOCKETS, "tailrace with the websockets link", ["--link", "websockets"]),
        *(_variant(text) for text in variants),
        Nginx(),
        LocalProxies(
            REFERENCE,
            "the C++ localproxy, both ends, through tailrace serve",
            ["--settings-json", _SETTINGS],
            program=os.environ.get(_REFERENCE, ""),
        ),
    ]


# The service, which two contenders share


class Tunnel(NamedTuple):
    """An open tunnel and its tokens."""

    id: str
    source: str
    destination: str


@dataclass(frozen=True, slots=True)
class TunnelingService:
    """A running ``tailrace serve``."""

    process: Process
    data: Address
    ca_dir: str
    ca_file: str
    api: Address
    region: str
    credentials: Credentials = field(repr=False)
    _client: ControlClient = field(repr=False)

    def call(self, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Call an operation of the control API and return its answer.

        Raises:
            BenchError: the service refused.
        """
        try:
            return self._client.call(operation, parameters)
        except ControlError as error:
            raise BenchError(str(error)) from None

    def open_tunnel(self, services: Sequence[str] = ()) -> Tunnel:
        """Open a tunnel.

        Raises:
            BenchError: the service refused.
        """
        parameters = {"destinationConfig": {"services": list(services)}} if services else {}
        tunnel = self.call("OpenTunnel", parameters)
        names = ("tunnelId", "sourceAccessToken", "destinationAccessToken")
        return Tunnel(*(tunnel[name] for name in names))


def start_service(
    supervisor: Supervisor, directory: Path = _BIN, environment: Mapping[str, str] | None = None
) -> TunnelingService:
    """Start the ``tailrace serve`` of a ``bin`` directory.

    Raises:
        BenchError: it did not start.
    """
    file = supervisor.directory / "service.json"
    command = [
        *(str(directory / "tailrace"), "serve", "--ready-file", str(file)),
        *("--state-dir", str(supervisor.directory / "state")),
        *("--api-listen", f"{LOOPBACK}:0", "--data-listen", f"{LOOPBACK}:0"),
    ]
    process = supervisor.spawn("service", command, environment)
    process.wait_until(file.exists, "was not ready")
    ready = json.loads(file.read_text())
    region, ca_file = ready["region"], ready["ca_file"]
    credentials = Credentials(ready["access_key_id"], Secret(ready["secret_access_key"]))
    client = ControlClient(ready["api_endpoint"], region, credentials, Path(ca_file))
    data, api = map(_address, (ready["data_endpoint"], ready["api_endpoint"]))
    return TunnelingService(
        process, data, ready["ca_dir"], ca_file, api, region, credentials, client
    )


def _address(text: str) -> Address:
    host, _, port = text.removeprefix("https://").rpartition(":")
    return Address(host, int(port))


# Two local proxies, of whatever make

_SETTINGS: Final = "settings.json"
_REFERENCE_SETTINGS: Final = '{"tunneling": {"proxy": {"tcp": {"write_buffer_size": "67108864"}}}}'
"""The reference's buffer has no back-pressure: where it is full, the process ends."""


class LocalProxies(Contender):
    """A source and a destination through ``tailrace serve``; all speak the same command line."""

    def __init__(
        self,
        name: str,
        description: str,
        arguments: Sequence[str] = (),
        *,
        directory: Path = _BIN,
        program: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Take the commands of a ``bin`` directory, or ``program`` as local proxy."""
        self.name = name
        self.description = description
        self._arguments = arguments
        self._directory = directory
        self._program = str(directory / "localproxy") if program is None else program
        self._environment = environment or {}

    def missing(self) -> str | None:
        present = os.access(self._program, os.X_OK)
        return None if present else f"no program {self._program or f'named by {_REFERENCE}'}"

    def start(self, supervisor: Supervisor, applications: Targets, gate: Gate) -> Running:
        service = start_service(supervisor, self._directory, self._environment)
        tunnel = service.open_tunnel(list(applications))
        (supervisor.directory / _SETTINGS).write_text(_REFERENCE_SETTINGS)
        ports = dict(zip(applications, unused_ports(len(applications)), strict=True))

        def spawn(name: str, flag: str, services: Mapping[str, object], hub: Address) -> Process:
            command = [
                *(self._program, flag, ",".join(f"{k}={v}" for k, v in services.items())),
                *("-e", str(hub), "-c", service.ca_dir, "-b", LOOPBACK, *self._arguments),
            ]
            token = {"AWSIOT_TUNNEL_ACCESS_TOKEN": getattr(tunnel, name)}
            environment = {"TAILRACE_NO_STATE": "yes", **self._environment, **token}
            return supervisor.spawn(name, command, environment)

        destination = spawn("destination", "-d", applications, service.data)
        source = spawn("source", "-s", ports, gate(service.data))
        for proxy in (destination, source):
            proxy.wait_until(partial(_is_connected, proxy), "did not connect")
        for port in ports.values():
            source.wait_for_port(port)
        return Running(
            {name: Address(LOOPBACK, port) for name, port in ports.items()},
            {Role.SOURCE: source, Role.RELAY: service.process, Role.DESTINATION: destination},
        )


def _is_connected(proxy: Process) -> bool:
    return b"Successfully established websocket connection" in proxy.log.read_bytes()


def _variant(text: str) -> LocalProxies:
    """Return a contender from ``NAME=[@DIRECTORY] [VARIABLE=VALUE]... [ARGUMENT]...``.

    ``DIRECTORY`` is the ``bin`` of another virtual environment, by which two states of
    the code run against each other.

    Raises:
        BenchError: the text has no name.
    """
    name, separator, rest = text.partition("=")
    if not name or not separator:
        raise BenchError(f"--variant {text!r}: write NAME=[@BIN] [VARIABLE=VALUE]... [ARGUMENT]...")
    words = rest.split()
    places = [Path(word[1:]).absolute() for word in words if word.startswith("@")]
    words = [word for word in words if not word.startswith("@")]
    description = " ".join(["tailrace", *words])
    environment = {}
    while words and words[0].partition("=")[0].isupper():
        variable, _, environment[variable] = words.pop(0).partition("=")
    directory = places[0] if places else _BIN
    return LocalProxies(name, description, words, directory=directory, environment=environment)


# nginx

_NAME: Final = "hop.test"
_MODULE: Final = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

_CONFIGURATION: Final = """
{load}
daemon off;
master_process off;
pid {role}.pid;
error_log stderr warn;
worker_rlimit_nofile 60000;
events {{ worker_connections 50000; multi_accept off; }}
stream {{
    proxy_timeout 1h;
    proxy_buffer_size 64k;
    tcp_nodelay on;
    {tls}
    {servers}
}}
"""

_SERVER_TLS: Final = """
    ssl_certificate certificate.pem;
    ssl_certificate_key key.pem;
    ssl_session_cache shared:tls:1m;
"""

_CLIENT_TLS: Final = f"""
    proxy_ssl on;
    proxy_ssl_verify on;
    proxy_ssl_protocols TLSv1.2 TLSv1.3;
    proxy_ssl_trusted_certificate authority.pem;
    proxy_ssl_name {_NAME};
"""


def find_nginx() -> str:
    """Return its path, "" if it is not installed; users do not have system programs in theirs."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin") or ""


class Nginx(Contender):
    """Three ``stream`` proxies in a row: plain to TLS, TLS to TLS, TLS to plain.

    The same work as a tunnel does, in C, without a protocol in between. Each hop is one
    process with one worker, as the tunnel's are, and verifies the next one's certificate,
    which is of the kind that our service makes: ECDSA, P-256.
    """

    name = NGINX
    description = "three nginx stream TLS hops, one worker each: the floor of native code"

    def missing(self) -> str | None:
        return None if find_nginx() else "no nginx (Debian: nginx-light and libnginx-mod-stream)"

    def start(self, supervisor: Supervisor, applications: Targets, gate: Gate) -> Running:
        authority = trustme.CA()
        certificate = authority.issue_cert(_NAME)
        authority.cert_pem.write_to_path(supervisor.directory / "authority.pem")
        certificate.private_key_pem.write_to_path(supervisor.directory / "key.pem")
        certificate.cert_chain_pems[0].write_to_path(supervisor.directory / "certificate.pem")
        ports = iter(unused_ports(3 * len(applications)))
        last = {next(ports): address for address in applications.values()}
        middle = {next(ports): Address(LOOPBACK, port) for port in last}
        first = {next(ports): gate(Address(LOOPBACK, port)) for port in middle}
        hops = {Role.DESTINATION: last, Role.RELAY: middle, Role.SOURCE: first}
        processes = {role: _hop(supervisor, role, targets) for role, targets in hops.items()}
        for role, targets in hops.items():
            for port in targets:
                processes[role].wait_for_port(port)
        endpoints = {
            name: Address(LOOPBACK, port) for name, port in zip(applications, first, strict=True)
        }
        return Running(endpoints, processes)


def _hop(supervisor: Supervisor, role: Role, targets: Mapping[int, Address]) -> Process:
    """Start one hop: port to listen on -> where it goes."""
    tls = "" if role is Role.SOURCE else "ssl"
    sections = (_SERVER_TLS if tls else "") + ("" if role is Role.DESTINATION else _CLIENT_TLS)
    configuration = supervisor.directory / f"{role.value}.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            load=f"load_module {_MODULE};" if _MODULE.exists() else "",
            role=role.value,
            tls=sections,
            servers="\n".join(
                f"server {{ listen {LOOPBACK}:{port} {tls} backlog=4096; proxy_pass {target}; }}"
                for port, target in targets.items()
            ),
        )
    )
    command = [find_nginx(), "-p", f"{supervisor.directory}/", "-c", str(configuration)]
    return supervisor.spawn(f"nginx-{role.value}", command)
