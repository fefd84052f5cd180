"""The programs in examples/, each as a process, against the servers that they are about."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest

import tailrace
from support.network.applications import noise
from support.network.certificates import Certificates
from support.network.ports import free_port
from support.processes.child import process
from support.processes.redis import needs_redis, redis_server
from support.processes.sshd import needs_sshd, sshd
from support.repository import ROOT
from support.service import ServiceProcess
from support.tunnel import Tunnel, open_tunnel, tunnel_process
from support.waiting import HANG, POLL, wait_until
from tailrace.common.addresses import LocalAddress, TCPAddress
from tailrace.wire import Side

EXAMPLES = ROOT / "examples"
THING = "pump-7"
SERVICES = ("SSH", "HTTP", "HTTPS", "REDIS")

CLIENTS = {
    "ssh_asyncssh.py": ("asyncssh", ("true",)),
    "ssh_paramiko.py": ("paramiko", ("true",)),
    "http_httpx.py": ("httpx", ("http://device/",)),
    "http_aiohttp.py": ("aiohttp", ("http://device/",)),
    "redis_listener.py": ("redis", ("visits",)),
    "proxy_command.py": ("", ("SSH",)),
}
"""Example -> package that it needs, arguments after the thing."""


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        bool(package) and find_spec(package) is None, reason=f"{package} is not installed"
    )


def command(example: str, *arguments: str) -> list[str]:
    return [sys.executable, str(EXAMPLES / example), *arguments]


class Page(BaseHTTPRequestHandler):
    """A page that shows what it was asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        text = f"{self.headers['Host']} {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def web_server(port: int, certificates: Certificates | None = None) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", port), Page) as server:
        server.daemon_threads = True
        if certificates is not None:
            context = certificates.server_context(certificates.ca.issue_cert("device"))
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class Lab:
    """A thing whose tunnel is open and whose device is connected, and an operator."""

    tunnel: Tunnel
    ports: Mapping[str, int]
    """Service id -> where the device's server is to be."""
    home: Path
    environment: Mapping[str, str]

    def run(self, command: Sequence[str], **options: str) -> subprocess.CompletedProcess[str]:
        """Run what uses the tunnel, once nobody else does."""
        wait_until(self._is_free, "the end of the last source")
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=HANG,
            check=False,
            env={**self.environment, **options},
            cwd=self.home,
        )

    def _is_free(self) -> bool:
        described = self.tunnel.control.call("DescribeTunnel", {"tunnelId": self.tunnel.tunnel_id})
        state = described["tunnel"]["sourceConnectionState"]["status"]
        return state == "DISCONNECTED"


@pytest.fixture(scope="module")
def lab(session_service: ServiceProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("lab")
    home = directory / "home"
    home.mkdir()
    environment = session_service.shell_environment()
    path = f"{Path(sys.executable).parent}:{environment['PATH']}"
    ports = {service: free_port() for service in SERVICES}
    tunnel = open_tunnel(session_service.endpoints, session_service.control, *SERVICES, thing=THING)
    applications: dict[str, LocalAddress] = {
        service: TCPAddress("127.0.0.1", port) for service, port in ports.items()
    }
    with tunnel_process(directory, tunnel, Side.DESTINATION, applications) as device:
        wait_until(device.ready_file.exists, "the device")
        yield Lab(tunnel, ports, home, environment | {"HOME": str(home), "PATH": path})


@pytest.fixture(scope="module")
def ssh_server(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The device's sshd; gives options by which ssh takes the files of ``lab.home``."""
    files = lab.home / ".ssh"
    with sshd(tmp_path_factory.mktemp("sshd"), lab.ports["SSH"], THING, lab.home):
        # Whatever HOME says, it takes those of the user.
        options = {
            "IdentityFile": files / "id_ed25519",
            "UserKnownHostsFile": files / "known_hosts",
        }
        yield ["-F", "none", *(f"-o{name}={file}" for name, file in options.items())]


@pytest.mark.parametrize(
    ("example", "output", "errors"),
    [
        pytest.param("ssh_asyncssh.py", "hello\n", "dear\n", marks=needs("asyncssh")),
        pytest.param("ssh_paramiko.py", "hello\ndear\n", "", marks=needs("paramiko")),
    ],
)
@needs_sshd
@pytest.mark.usefixtures("ssh_server")
def test_ssh(lab: Lab, tmp_path: Path, example: str, output: str, errors: str) -> None:
    done = lab.run(command(example, THING, "echo hello; echo dear >&2; exit 3"))
    assert (done.stdout, done.stderr, done.returncode) == (output, errors, 3)
    # Without its host key in a file, the device is not trusted.
    (tmp_path / ".ssh").mkdir()
    assert_one_line(lab.run(command(example, THING, "true"), HOME=str(tmp_path)), THING)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "example", [pytest.param(f"http_{name}.py", marks=needs(name)) for name in ("httpx", "aiohttp")]
)
def test_http(lab: Lab, tmp_path: Path, example: str, scheme: str) -> None:
    certificates = Certificates(tmp_path)
    trust = ("--ca", str(certificates.ca_file)) if scheme == "https" else ()
    with web_server(lab.ports[scheme.upper()], certificates if trust else None):
        done = lab.run(command(example, THING, f"{scheme}://device/a?b=c", *trust))
        assert (done.stdout, done.stderr, done.returncode) == ("device /a?b=c\n", "", 0)
        if trust:
            stranger = lab.run(command(example, THING, f"{scheme}://else/", *trust))
            assert_one_line(stranger, "is not valid for 'else'")


@needs("redis")
@needs_redis
def test_redis(lab: Lab, tmp_path: Path) -> None:
    with redis_server(tmp_path, lab.ports["REDIS"], "a password"):
        for count in (1, 2):
            done = lab.run(
                command("redis_listener.py", THING, "visits"), REDISCLI_AUTH="a password"
            )
            assert (done.stdout, done.stderr, done.returncode) == (f"{count}\n", "", 0)
        wrong = lab.run(command("redis_listener.py", THING, "visits"), REDISCLI_AUTH="a guess")
        assert_one_line(wrong, "Redis of pump-7: invalid username-password pair")


@needs_sshd
def test_ssh_by_proxy_command(lab: Lab, ssh_server: list[str]) -> None:
    proxy = f"-oProxyCommand={' '.join(command('proxy_command.py', '%h', 'SSH'))}"
    done = lab.run(["ssh", *ssh_server, proxy, THING, "echo hello; exit 3"])
    assert (done.stdout, done.stderr, done.returncode) == ("hello\n", "", 3)


@needs_sshd
@pytest.mark.skipif(
    shutil.which("ansible") is None, reason="ansible is not installed (ansible-core; `make apt`)"
)
def test_ansible_by_proxy_command(lab: Lab, ssh_server: list[str]) -> None:
    inventory = str(EXAMPLES / "ansible_inventory.ini")
    directory = str(lab.home / "ansible")
    done = lab.run(
        ["ansible", "--inventory", inventory, "pumps", "--module-name", "ping"],
        ANSIBLE_HOME=directory,
        ANSIBLE_REMOTE_TMP=directory,
        # One connection for the task, and none that stays for a minute.
        ANSIBLE_PIPELINING="True",
        ANSIBLE_PYTHON_INTERPRETER="/usr/bin/python3",
        ANSIBLE_SSH_ARGS=" ".join(ssh_server),
    )
    assert '"ping": "pong"' in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


@needs("httpx")
@needs("fastapi")
def test_fastapi(session_service: ServiceProcess, lab: Lab, tmp_path: Path) -> None:
    tunnel = open_tunnel(session_service.endpoints, session_service.control, "HTTP", thing="pump-8")
    file = tmp_path / "destination.token"
    file.write_text(tunnel.tokens[Side.DESTINATION].reveal() + "\n")
    device_command = command("fastapi_device.py", str(file))
    with process("device", device_command, tmp_path, lab.environment) as device:
        wait_until(lambda: device.output or not device.running, "the device")
        done = lab.run(command("http_httpx.py", "pump-8", "http://pump-8/load"))
        assert (done.stderr, done.returncode) == ("", 0), device.log
        assert '"1 min":' in done.stdout
        tunnel.close()
        assert device.wait() == 0, device.log
        assert (device.output, device.log) == ("serving\n", "")
    again = subprocess.run(
        device_command, capture_output=True, text=True, check=False, env=lab.environment
    )
    assert_one_line(again, "Tunnel is closed")


def test_pytest(lab: Lab, tmp_path: Path) -> None:
    done = lab.run(
        [
            *(sys.executable, "-m", "pytest", str(EXAMPLES / "test_device.py")),
            *("-p", "no:cacheprovider", "--basetemp", str(tmp_path / "pytest")),
        ]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"rootdir: {EXAMPLES}" in done.stdout
    assert "2 passed" in done.stdout


def assert_one_line(done: subprocess.CompletedProcess[str], part: str) -> None:
    """Check that a program has ended with one line that says why."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout == ""
    assert part in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


@pytest.fixture
def surroundings(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process find the service as the examples do."""
    for name, value in lab.environment.items():
        if name.startswith("AWS") or name == "SSL_CERT_FILE":
            monkeypatch.setenv(name, value)


@contextlib.asynccontextmanager
async def device(
    client: tailrace.Client, thing: str, services: Mapping[str, tailrace.Application]
) -> AsyncIterator[str]:
    """A thing whose tunnel is open and whose device is connected; gives the tunnel's id."""
    opened = await client.open(thing=thing, services=list(services))
    async with tailrace.Tunnel.destination(opened.destination_token, services):
        yield opened.tunnel_id


async def start(lab: Lab, *command: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=lab.environment,
    )


async def run(lab: Lab, *command: str) -> subprocess.CompletedProcess[str]:
    started = await start(lab, *command)
    output, errors = await started.communicate()
    assert started.returncode is not None
    return subprocess.CompletedProcess(
        command, started.returncode, output.decode(), errors.decode()
    )


def installed_clients() -> list[str]:
    return [name for name, (package, _) in CLIENTS.items() if not package or find_spec(package)]


def away(example: str) -> str:
    """Return a thing whose device is away."""
    return f"away-{example.partition('.')[0]}"


@pytest.mark.usefixtures("surroundings")
async def test_a_device_that_is_away(lab: Lab) -> None:
    """One line says so, and the tunnel that was opened for it is closed."""
    names = installed_clients()

    async def ask(name: str) -> subprocess.CompletedProcess[str]:
        _, arguments = CLIENTS[name]
        return await run(lab, *command(name, away(name), *arguments, "--timeout", "1"))

    for done in await asyncio.gather(*map(ask, names)):
        assert_one_line(done, "")
        # On a busy machine, even the program's own link may take longer than that.
        assert re.match(
            r"(the device has not connected to the tunnel|the tunnel could not be used) within 1 s"
            r"( at [\d.:]+)?\. Check ",
            done.stderr,
        ), done.stderr
    async with tailrace.Client() as client:
        for name in names:
            (tunnel,) = [each async for each in client.list(thing=away(name))]
            assert tunnel.state is tailrace.TunnelState.CLOSED


@pytest.mark.usefixtures("surroundings")
async def test_a_device_without_the_server(lab: Lab) -> None:
    nowhere = free_port()

    async def ask(client: tailrace.Client, name: str) -> subprocess.CompletedProcess[str]:
        services = dict.fromkeys(("SSH", "HTTP", "REDIS"), nowhere)
        _, arguments = CLIENTS[name]
        thing = f"empty-{name.partition('.')[0]}"
        async with device(client, thing, services):
            return await run(lab, *command(name, thing, *arguments))

    async with tailrace.Client() as client:
        for done in await asyncio.gather(*(ask(client, name) for name in installed_clients())):
            assert_one_line(done, "")


@pytest.mark.usefixtures("surroundings")
async def test_the_proxy_command_ends_with_the_device(lab: Lab, tmp_path: Path) -> None:
    """Not with its input, be that a file that ends before the answer, or a pipe that does not."""
    sent = noise(1_000_000)

    async def digest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = await reader.readexactly(len(sent))
        writer.write(hashlib.sha256(received).hexdigest().encode())

    async def greeting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"and bye")

    (tmp_path / "request").write_bytes(sent)
    services: dict[str, tailrace.Application] = {"SUM": digest, "BYE": greeting}
    async with tailrace.Client() as client, device(client, "sums", services) as tunnel_id:
        with (tmp_path / "request").open() as stdin, (tmp_path / "response").open("w") as stdout:
            proxy = await asyncio.create_subprocess_exec(
                *command("proxy_command.py", "sums", "SUM"),
                stdin=stdin,
                stdout=stdout,
                env=lab.environment,
            )
        assert await proxy.wait() == 0
        assert (tmp_path / "response").read_text() == hashlib.sha256(sent).hexdigest()
        while (await client.describe(tunnel_id)).source.is_connected:
            await asyncio.sleep(POLL)
        proxy = await start(lab, *command("proxy_command.py", "sums", "BYE"))
        assert proxy.stdin is not None
        assert proxy.stdout is not None
        assert await proxy.stdout.read() == b"and bye"
        assert await proxy.wait() == 0
        proxy.stdin.close()


@pytest.mark.usefixtures("surroundings")
async def test_the_proxy_command_closes_its_tunnel_when_ended(lab: Lab) -> None:
    """By a signal, before the device comes: paramiko sends SIGTERM, ssh SIGHUP."""
    async with tailrace.Client() as client:

        async def end_by(number: int) -> None:
            thing = f"ended-by-{number}"
            proxy = await start(lab, *command("proxy_command.py", thing, "SSH"))
            found: list[tailrace.TunnelSummary] = []
            while not found:
                found = [each async for each in client.list(thing=thing)]
                await asyncio.sleep(POLL)
            proxy.send_signal(number)
            assert await proxy.communicate() == (b"", b"")
            assert proxy.returncode == 0
            tunnel = await client.describe(found[0].tunnel_id)
            assert tunnel.state is tailrace.TunnelState.CLOSED

        await asyncio.gather(end_by(signal.SIGHUP), end_by(signal.SIGTERM))


def test_the_page_has_every_example() -> None:
    page = (EXAMPLES / "README.md").read_text()
    names = [path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ini")]
    assert len(names) > len(CLIENTS)
    assert [name for name in names if f"]({name})" not in page and name != "pytest.ini"] == []
