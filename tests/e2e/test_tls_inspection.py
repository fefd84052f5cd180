"""Local proxies through web proxies that inspect TLS, as docs/guides/intermediaries.md says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.network.ports import free_port
from support.processes.child import clean_environment, installed
from support.processes.inspection import InspectingProxy, mitmproxy, squid
from support.service import ServiceProcess
from support.tunnel.processes import ProxyProcess, proxy_process
from support.tunnel.tunnels import Tunnel, tunnel_of
from tailrace.cli.exit_codes import ExitCode
from tailrace.wire import Side

CONNECTED = "Successfully established websocket connection"


@contextmanager
def inspecting(kind: str, directory: Path, service: ServiceProcess) -> Iterator[InspectingProxy]:
    trusted = service.endpoints.ca_file
    if kind == "mitmproxy":
        with mitmproxy(directory, trusted) as proxy:
            yield proxy
    else:
        with squid(directory, trusted, upgrades=kind == "squid") as proxy:
            yield proxy


@contextmanager
def source(
    directory: Path, tunnel: Tunnel, proxy: InspectingProxy, *options: str, **env: str
) -> Iterator[ProxyProcess]:
    # By name: squid makes no certificate that names an address.
    endpoint = tunnel.endpoints.data_endpoint.replace("127.0.0.1", "localhost")
    arguments = ["-e", endpoint, "-s", str(free_port()), *options]
    env["https_proxy"] = f"http://127.0.0.1:{proxy.port}"
    with proxy_process(directory, "source", arguments, tunnel.tokens[Side.SOURCE], **env) as local:
        yield local


@pytest.mark.parametrize("kind", ["squid", "mitmproxy"])
@pytest.mark.parametrize("way", ["-c", "SSL_CERT_FILE"])
async def test_both_ways_to_trust_it(
    tmp_path: Path, service: ServiceProcess, kind: str, way: str
) -> None:
    with inspecting(kind, tmp_path, service) as proxy, tunnel_of(service) as tunnel:
        file = str(proxy.ca_file)
        options, env = (["-c", file], {}) if way == "-c" else ([], {"SSL_CERT_FILE": file})
        with source(tmp_path, tunnel, proxy, *options, **env) as local:
            await local.said(CONNECTED)
            local.terminate()
            assert await local.exit_code() == ExitCode.OK


@pytest.mark.parametrize("kind", ["squid", "mitmproxy"])
async def test_an_authority_that_is_not_trusted(
    tmp_path: Path, service: ServiceProcess, kind: str
) -> None:
    with (
        inspecting(kind, tmp_path, service) as proxy,
        tunnel_of(service) as tunnel,
        source(tmp_path, tunnel, proxy) as local,
    ):
        assert await local.exit_code() == ExitCode.TLS
        assert "does not verify" in local.fatal_line
        assert "presented: " in local.fatal_line


async def test_a_proxy_that_passes_no_upgrades(tmp_path: Path, service: ServiceProcess) -> None:
    with (
        inspecting("squid as it is", tmp_path, service) as proxy,
        tunnel_of(service) as tunnel,
        source(tmp_path, tunnel, proxy, "-c", str(proxy.ca_file)) as local,
    ):
        assert await local.exit_code() == ExitCode.ALTERED
        assert "got another upgrade request than was sent" in local.fatal_line
        assert "no header Upgrade" in local.fatal_line
        # The token was not used up.
        with source(tmp_path, tunnel, proxy, "-k") as again:
            assert await again.exit_code() == ExitCode.ALTERED


async def examined(
    service: ServiceProcess, proxy: InspectingProxy, *options: str
) -> tuple[int, dict[str, dict[str, str]]]:
    """Return exit code and results of ``tailrace doctor`` behind a proxy."""
    endpoint = service.endpoints.data_endpoint.replace("127.0.0.1", "localhost")
    environment = clean_environment() | {"https_proxy": f"http://127.0.0.1:{proxy.port}"}
    process = await asyncio.create_subprocess_exec(
        *(installed("tailrace"), "doctor", "--json", "-e", endpoint, *options),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, {each["name"]: each for each in json.loads(out)["checks"]}


@pytest.mark.parametrize(
    ("kind", "is_trusted", "code", "name"),
    [
        ("mitmproxy", True, ExitCode.OK, ""),
        ("mitmproxy", False, ExitCode.TLS, "service TLS"),
        ("squid as it is", True, ExitCode.ALTERED, "service upgrade"),
    ],
)
async def test_doctor_tells_what_is_wrong(
    tmp_path: Path,
    service: ServiceProcess,
    kind: str,
    is_trusted: bool,
    code: ExitCode,
    name: str,
) -> None:
    with inspecting(kind, tmp_path, service) as proxy:
        options = ["--ca-bundle", str(proxy.ca_file)] if is_trusted else []
        ended, found = await examined(service, proxy, *options)
    assert ended == code, found
    failed = [each for each, result in found.items() if result["verdict"] == "failed"]
    assert failed == ([name] if name else [])
    if is_trusted:
        assert "no token was spent" in found["service upgrade"]["figure"] or name
