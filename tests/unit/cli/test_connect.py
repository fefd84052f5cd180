"""``tailrace connect``: its arguments, and whole runs in a thread of this process."""

import asyncio
import io
import resource
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.network.applications import check_echo, echo
from support.network.applications import client as connection
from support.network.ports import free_port
from support.service.devices import device_of, service_client
from support.service.process import ServiceProcess
from support.service.shell import clear_environment, use_service
from support.waiting import until
from tailrace.aws import Client, TunnelState
from tailrace.cli.connect import parse_services
from tailrace.cli.exit_codes import ExitCode
from tailrace.cli.tailrace import main
from tailrace.common.addresses import TCPAddress
from tailrace.errors import ConfigurationError
from tailrace.library import Tunnel
from tailrace.operator import connect as operator_connect
from tailrace.operator.failures import Terminated


class Run:
    """The command in a thread."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = self.err = ""

    def start(self, *words: str) -> None:
        self._task = asyncio.get_running_loop().create_task(
            asyncio.to_thread(main, ["connect", *words])
        )

    async def address(self, service: str) -> TCPAddress:
        """Return the address of a service, once it is printed."""
        await until(lambda: self._task.done() or f"{service} " in self._read())
        assert f"{service} " in self.out, self.err
        line = next(each for each in self.out.splitlines() if each.startswith(service))
        host, _, port = line.partition(" ")[2].rpartition(":")
        return TCPAddress(host, int(port))

    async def end(self) -> int:
        status = await self._task
        self._read()
        return status

    def _read(self) -> str:
        captured = self._capsys.readouterr()
        self.out += captured.out
        self.err += captured.err
        return self.out


@pytest.fixture(autouse=True)
def environment(service: ServiceProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clear_environment(monkeypatch, tmp_path)
    use_service(monkeypatch, service.endpoints)
    monkeypatch.setenv("AWSIOT_TUNNEL_ENDPOINT", service.endpoints.data_endpoint)
    monkeypatch.setenv("SSL_CERT_FILE", service.endpoints.ca_file)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state-home"))


@pytest.fixture
async def client(service: ServiceProcess) -> AsyncIterator[Client]:
    async with service_client(service) as client:
        yield client


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


async def test_a_thing(service: ServiceProcess, client: Client, run: Run) -> None:
    port = free_port()
    async with device_of(service, client, "connected", "SSH", "WEB"):
        run.start("connected", f"SSH={port}", "WEB", "--lifetime", "5")
        assert (await run.address("SSH")).port == port
        async with connection(await run.address("WEB")) as streams:
            await check_echo(streams, b"hello")
        (tunnel,) = [each async for each in client.list(thing="connected")]
        assert (await client.describe(tunnel.tunnel_id)).lifetime.total_seconds() == 300
        await client.close(tunnel.tunnel_id)
        assert await run.end() == ExitCode.OK
    assert run.out.count("\n") == 2
    assert run.err == ""


async def test_a_tunnel_by_the_beginning_of_its_id(
    service: ServiceProcess, client: Client, run: Run
) -> None:
    opened = await client.open(thing="lamp", services=["SSH", "WEB"])
    place = service.endpoints.data_endpoint
    services = {"SSH": echo, "WEB": echo}
    async with Tunnel.destination(opened.destination_token, services, endpoint=place):
        # The thing may be named, and no services are all services.
        run.start("--tunnel", opened.tunnel_id[:9], "lamp")
        await run.address("SSH")
        async with connection(await run.address("WEB")) as streams:
            await check_echo(streams, b"hello")
        await client.close(opened.tunnel_id)
        assert await run.end() == ExitCode.OK
    run.start("--tunnel", opened.tunnel_id, "SSH")
    assert await run.end() == ExitCode.USAGE
    assert f"tailrace connect: the tunnel {opened.tunnel_id} is closed\n" in run.err


@pytest.mark.parametrize("way", ["file", "stdin"])
async def test_a_token_without_keys(
    service: ServiceProcess,
    client: Client,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    opened = await client.open(services=["SSH"])
    token = tmp_path / "pump-7" / "source.token"
    token.parent.mkdir()
    token.write_text(f"{opened.source_token.reveal()}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL_IOTSECURETUNNELING", "AWS_REGION"):
        monkeypatch.delenv(name)
    place = service.endpoints.data_endpoint
    async with Tunnel.destination(opened.destination_token, {"SSH": echo}, endpoint=place):
        if way == "stdin":
            monkeypatch.setattr(sys, "stdin", io.StringIO(token.read_text()))
        run.start("--source-token-file", "-" if way == "stdin" else str(token))
        async with connection(await run.address("SSH")) as streams:
            await check_echo(streams, b"hello")
        await client.rotate(opened.tunnel_id)
        assert await run.end() == ExitCode.TOKEN_REFUSED
    await client.close(opened.tunnel_id)


@pytest.mark.parametrize(
    ("words", "wishes"),
    [
        ([], []),
        (["SSH"], [("SSH", 0)]),
        (["SSH=22", "WEB=0", "X=0"], [("SSH", 22), ("WEB", 0), ("X", 0)]),
        (["a:b=65535"], [("a:b", 65535)]),
    ],
)
def test_services_and_ports(words: list[str], wishes: list[tuple[str, int]]) -> None:
    assert [(each.service, each.port) for each in parse_services(words)] == wishes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["SSH="], "'SSH=' is not SERVICE=PORT, with a port of 0 to 65535"),
        (["SSH=x"], "is not SERVICE=PORT"),
        (["SSH=65536"], "is not SERVICE=PORT"),
        (["=22"], "'=22' names no service"),
        ([""], "'' names no service"),
        (["A=1", "A=2"], "the service 'A' is named twice"),
        (["A=1", "B=1"], "the port 1 is named twice"),
    ],
)
def test_services_that_are_none(words: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_services(words)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "which thing? give its name and services, as: pump-7 SSH=5555"),
        (["pump-7"], "which services of pump-7? name them, as: tailrace connect pump-7 SSH"),
        (["pump-7", "A", "B", "--open"], "--open: no service has a name that begins with HTTP"),
        (["--source-token-file", "x", "--keep"], "--source-token-file goes without --keep"),
        (["--source-token-file", "x", "--tunnel", "y"], "goes without --tunnel"),
        (["--source-token-file", "/no/file"], "cannot read /no/file: No such file or directory"),
        (["--source-token-file", "/dev/null"], "/dev/null has no access token in it"),
        (["pump-7", "SSH", "--lifetime", "0"], "'0' is not a number of minutes"),
    ],
)
def test_wrong_arguments(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(["connect", *words])
    except SystemExit as end:
        status = int(end.code or 0)
    assert status == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tailrace connect: ")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("content", [b"two words\n", b"\xff\xfe", b"a\x1bb"])
def test_files_without_a_token(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    assert main(["connect", "--source-token-file", str(path)]) == ExitCode.USAGE
    assert f"{path} has no access token in it" in capsys.readouterr().err


def test_which_service_has_the_tunnel_of_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    regions: list[str | None] = []

    def source(token: object, *, region: str | None, **_: object) -> None:
        regions.append(region)
        raise ConfigurationError("enough")

    monkeypatch.setattr(Tunnel, "source", source)
    token = tmp_path / "token"
    token.write_text("t0ken")
    command = ["connect", "--source-token-file", str(token)]
    main(command)
    main([*command, "--region", "eu-west-1"])
    # A token of another service never goes to AWS.
    monkeypatch.delenv("AWSIOT_TUNNEL_ENDPOINT")
    assert main(command) == ExitCode.USAGE
    assert "which service has the tunnel of the token? give --region" in capsys.readouterr().err
    monkeypatch.delenv("AWS_ENDPOINT_URL_IOTSECURETUNNELING")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    main(command)
    assert regions == [None, "eu-west-1", "us-east-1"]


def test_a_signal_is_its_own_status(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(self: object, tunnel: object) -> None:
        raise Terminated(15)

    monkeypatch.setattr(operator_connect.Connecting, "run", run)
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        with pytest.raises(SystemExit) as caught:
            main(["connect", "pump-7", "SSH"])
        # Each client takes some of them.
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))
    assert caught.value.code == 143


async def test_nobody_comes(client: Client, run: Run) -> None:
    run.start("nobody", "SSH", "--timeout", "0.1")
    assert await run.end() == ExitCode.NETWORK
    assert run.err.startswith("tailrace connect: the device has not connected to the tunnel")
    assert [each.state async for each in client.list(thing="nobody")] == [TunnelState.CLOSED]
