"""Bad input to the installed command: one clear line, the exit code of the table, no traceback."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.network.applications import application, echo
from support.network.ports import free_port
from support.service import ServiceProcess, dial
from support.tunnel import (
    Tunnel,
    arguments_for,
    both_processes,
    proxy_process,
    tunnel_of,
    tunnel_process,
)
from tailrace.cli.exit_codes import ExitCode
from tailrace.common.addresses import ServiceAddresses, TCPAddress, UnixAddress
from tailrace.common.secret import Secret
from tailrace.testing.middlebox import middlebox
from tailrace.wire import Side

UNKNOWN = Secret("t" * 43)


async def failing(
    directory: Path,
    arguments: Sequence[str],
    code: ExitCode,
    token: Secret | None = UNKNOWN,
    **env: str,
) -> str:
    """Run the command until it fails; return its one fatal line."""
    with proxy_process(directory, "localproxy", arguments, token, **env) as proxy:
        assert await proxy.exit_code() == code, proxy.log
        if token is not None:
            assert token.reveal() not in proxy.log + proxy.output
        assert not proxy.ready_file.exists()
        return proxy.fatal_line


def endpoint(service: ServiceProcess) -> list[str]:
    return ["-e", service.endpoints.data_endpoint, "-c", service.endpoints.ca_dir]


def few_tries(directory: Path) -> list[str]:
    """Return the options for settings with two quick tries."""
    values = {"connect_retry_count": "1", "retry_delay_ms": "100"}
    path = directory / "settings.json"
    path.write_text(json.dumps({"tunneling": {"proxy": {"websocket": values}}}))
    return ["--settings-json", str(path)]


# -- before anything is connected --------------------------------------------------------------


@pytest.mark.parametrize("token", ["/etc/tunnel/token", "token.txt", "./token", "here"])
async def test_a_token_that_is_the_name_of_a_file(
    service: ServiceProcess, tmp_path: Path, token: str
):
    (tmp_path / "here").write_text("the token itself")
    line = await failing(tmp_path, [*endpoint(service), "-m", "src"], ExitCode.USAGE, Secret(token))
    assert "is the name of a file" in line
    assert "--access-token-file" in line


async def test_a_file_without_a_token(service: ServiceProcess, tmp_path: Path):
    arguments = [*endpoint(service), "-m", "src", "--access-token-file", "missing"]
    line = await failing(tmp_path, arguments, ExitCode.USAGE, None)
    assert "missing: No such file or directory" in line


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["-s", "S S=5959"], "Service ID must contain only"),
        (["-s", "SSH=70000"], "Port must be between 1 and 65535"),
        (["-m", "src", "-c", "{file}"], "holds no PEM certificate"),
        (["-m", "src", "--settings-json", "{file}"], "settings: "),
        (["-m", "src", "--config-dir", "nowhere"], "nowhere"),
        (["-m", "src", "-e", "a b"], "ndpoint"),
        (["-d", "http://localhost:8765"], "is a URL; write localhost:8765"),
    ],
    ids=lambda value: value[-2] if isinstance(value, list) else None,
)
async def test_values_out_of_their_limits(
    service: ServiceProcess, tmp_path: Path, option: list[str], words: str
):
    (tmp_path / "settings").write_text("nothing of the kind")
    option = [word.format(file="settings") for word in option]
    arguments = option if "-e" in option else [*endpoint(service)[:2], *option]
    assert words in await failing(tmp_path, arguments, ExitCode.USAGE)


async def test_the_port_of_the_control_api(service: ServiceProcess, tmp_path: Path):
    api = service.endpoints.api_endpoint.removeprefix("https://")
    arguments = ["-e", api, "-c", service.endpoints.ca_dir, "-m", "src"]
    line = await failing(tmp_path, arguments, ExitCode.NETWORK)
    assert f"{api} is the control API, not the data endpoint; " in line


async def test_options_that_do_not_go_together(tmp_path: Path):
    """A usage error is no log line, as in the reference."""
    arguments = ["-r", "us-east-1", "-e", "localhost", "-m", "src"]
    with proxy_process(tmp_path, "localproxy", arguments, UNKNOWN) as proxy:
        assert await proxy.exit_code() == ExitCode.USAGE
        assert proxy.log.splitlines() == [
            "Must specify one and only one of --region/-r or --proxy-endpoint/-e options",
            "Try 'localproxy --help' for a list of options.",
        ]


async def test_a_busy_port_leaves_the_token_unused(service: ServiceProcess, tmp_path: Path):
    with (
        tunnel_of(service, "SSH") as tunnel,
        socket.create_server(("127.0.0.1", 0)) as taken,
    ):
        port = taken.getsockname()[1]
        wanted: ServiceAddresses = {"SSH": TCPAddress("", port)}
        line = await failing(
            tmp_path,
            arguments_for(tunnel, Side.SOURCE, wanted),
            ExitCode.LISTEN,
            tunnel.tokens[Side.SOURCE],
        )
        assert f"127.0.0.1:{port} -- Address already in use" in line
        assert f"choose another one for -s SSH={port}" in line
        taken.close()
        with tunnel_process(tmp_path, tunnel, Side.SOURCE, wanted) as proxy:
            assert await proxy.ready() == {"SSH": TCPAddress("127.0.0.1", port)}


async def test_a_socket_path_that_cannot_be_bound(service: ServiceProcess, tmp_path: Path):
    path = str(tmp_path / "precious")
    (tmp_path / "precious").write_text("data")
    with tunnel_of(service, "SSH") as tunnel:
        arguments = arguments_for(tunnel, Side.SOURCE, {"SSH": UnixAddress(path)})
        line = await failing(tmp_path, arguments, ExitCode.LISTEN, tunnel.tokens[Side.SOURCE])
    assert f"{path} -- Address already in use" in line
    assert (tmp_path / "precious").read_text() == "data"


async def test_a_ready_file_that_cannot_be_written(service: ServiceProcess, tmp_path: Path):
    path = tmp_path / "localproxy.json"
    path.mkdir()
    with proxy_process(tmp_path, "localproxy", [*endpoint(service), "-m", "src"], UNKNOWN) as proxy:
        assert await proxy.exit_code() == ExitCode.USAGE
        assert f"Cannot write the ready file {path}: Is a directory" in proxy.fatal_line
        assert "Attempting to establish web socket" not in proxy.log


# -- on the way to the service -------------------------------------------------------------------


async def test_an_endpoint_where_nobody_listens(tmp_path: Path):
    port = free_port()
    arguments = ["-e", f"127.0.0.1:{port}", "-m", "src", *few_tries(tmp_path)]
    line = await failing(tmp_path, arguments, ExitCode.NETWORK)
    assert f"127.0.0.1:{port}: Connection refused; gave up after 2 tries" in line
    assert "check the endpoint (-e, -r)" in line


async def test_an_endpoint_without_an_address(tmp_path: Path):
    arguments = ["-e", "no-such-host.invalid", "-m", "src", *few_tries(tmp_path)]
    line = await failing(tmp_path, arguments, ExitCode.NETWORK)
    assert "cannot resolve no-such-host.invalid" in line
    assert "check the endpoint (-e, -r)" in line


async def test_an_endpoint_that_speaks_no_tls(tmp_path: Path):
    async with application(echo) as where:
        arguments = ["-e", str(where), "-m", "src", *few_tries(tmp_path)]
        line = await failing(tmp_path, arguments, ExitCode.NETWORK)
    assert f"TLS handshake with {where} failed" in line
    assert "gave up after 2 tries" in line


async def test_an_unknown_certificate_authority(service: ServiceProcess, tmp_path: Path):
    arguments = ["-e", service.endpoints.data_endpoint, "-m", "src"]
    line = await failing(tmp_path, arguments, ExitCode.TLS)
    assert f"certificate of {service.endpoints.data_endpoint} does not verify" in line
    assert "issued by 'CN=Tailrace service CA" in line
    assert "add the CA that signed it with -c" in line


async def test_a_certificate_for_another_host(service: ServiceProcess, tmp_path: Path):
    with tunnel_of(service) as tunnel:
        settings = tunnel.settings(Side.SOURCE)
        async with middlebox(settings, "127.0.0.2") as box:
            arguments = ["-e", f"127.0.0.2:{box.port}", "-c", str(settings.capath), "-m", "src"]
            line = await failing(tmp_path, arguments, ExitCode.TLS, settings.access_token)
            assert "IP address mismatch" in line
            assert "check the endpoint's name" in line
            with proxy_process(tmp_path, "k", [*arguments, "-k"], settings.access_token) as proxy:
                assert await proxy.ready()
                assert "[warning]" in proxy.log


# -- what the service says -------------------------------------------------------------------------


async def refused(
    service: ServiceProcess, directory: Path, side: Side, token: Secret = UNKNOWN
) -> str:
    local = ["-m", "src"] if side is Side.SOURCE else ["-d", "SSH=22"]
    return await failing(directory, [*endpoint(service), *local], ExitCode.TOKEN_REFUSED, token)


async def test_an_unknown_token(service: ServiceProcess, tmp_path: Path):
    line = await refused(service, tmp_path, Side.SOURCE)
    assert "403 Forbidden" in line
    assert "source token" in line


@pytest.mark.parametrize("side", Side, ids=lambda side: side.value)
async def test_a_token_of_the_other_end(service: ServiceProcess, tmp_path: Path, side: Side):
    other = Side.DESTINATION if side is Side.SOURCE else Side.SOURCE
    with tunnel_of(service, "SSH") as tunnel:
        line = await refused(service, tmp_path, side, tunnel.tokens[other])
    assert f"give the {side.value} token" in line


async def test_a_used_token(service: ServiceProcess, tmp_path: Path):
    """Used without a client token: dead for everybody."""
    with tunnel_of(service, "SSH") as tunnel:
        token = tunnel.tokens[Side.SOURCE]
        async with dial(tunnel.endpoints, "source", token.reveal(), expect_ids=["SSH"]):
            pass
        line = await refused(service, tmp_path, Side.SOURCE, token)
    assert "previously used" in line
    assert "rotate-tunnel-access-token" in line


async def test_a_token_used_by_another_proxy(service: ServiceProcess, tmp_path: Path):
    with tunnel_of(service, "SSH") as tunnel:
        # One that keeps its client token elsewhere.
        with tunnel_process(tmp_path, tunnel, Side.SOURCE, None, "--no-state") as proxy:
            await proxy.ready()
        line = await refused(service, tmp_path, Side.SOURCE, tunnel.tokens[Side.SOURCE])
    assert "does not match the client token" in line
    assert "rotate-tunnel-access-token" in line


async def test_a_tunnel_that_is_closed(service: ServiceProcess, tmp_path: Path):
    with tunnel_of(service, "SSH") as tunnel:
        tunnel.close()
        line = await refused(service, tmp_path, Side.SOURCE, tunnel.tokens[Side.SOURCE])
    assert "Tunnel is closed" in line
    assert "open a new one" in line


async def mismatch(tunnel: Tunnel, directory: Path, side: Side, services: ServiceAddresses) -> str:
    arguments = arguments_for(tunnel, side, services)
    return await failing(directory, arguments, ExitCode.PROTOCOL, tunnel.tokens[side])


@pytest.mark.parametrize("side", Side, ids=lambda side: side.value)
async def test_other_service_ids_than_the_tunnel_has(
    service: ServiceProcess, tmp_path: Path, side: Side
):
    wanted: ServiceAddresses = {name: TCPAddress("", free_port()) for name in ("VNC", "SSH")}
    with tunnel_of(service, "SSH", "HTTP") as tunnel:
        line = await mismatch(tunnel, tmp_path, side, wanted)
    assert "the tunnel has the services [SSH, HTTP], you gave [VNC, SSH]" in line


async def test_one_address_for_two_services(service: ServiceProcess, tmp_path: Path):
    with tunnel_of(service, "SSH", "HTTP") as tunnel:
        wanted: ServiceAddresses = {"": TCPAddress("", free_port())}
        line = await mismatch(tunnel, tmp_path, Side.SOURCE, wanted)
    assert "the tunnel has the services [SSH, HTTP]" in line
    assert "as in SSH=PORT,HTTP=PORT" in line


async def test_service_ids_for_a_tunnel_without(service: ServiceProcess, tmp_path: Path):
    with tunnel_of(service) as tunnel:
        wanted: ServiceAddresses = {"SSH": TCPAddress("", free_port())}
        line = await mismatch(tunnel, tmp_path, Side.SOURCE, wanted)
    assert "the tunnel has no services, you gave [SSH]" in line


# -- what is not fatal ---------------------------------------------------------------------------


async def test_what_is_no_error_leaves_no_error_line(service: ServiceProcess, tmp_path: Path):
    with tunnel_of(service, "SSH") as tunnel:
        async with (
            application(echo) as where,
            both_processes(tmp_path, tunnel, {"SSH": where}) as (source, destination, _),
        ):
            for proxy in (source, destination):
                proxy.terminate()
                assert await proxy.exit_code() == ExitCode.OK
                assert not any(word in proxy.log for word in ("[error]", "[fatal]", "Traceback"))
    assert sorted(os.listdir(tmp_path)) == [
        "destination.log",
        "destination.out",
        "source.log",
        "source.out",
        "state-home",
    ]
