"""The one file: run by Pythons that have nothing else installed, through whole tunnels."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from release import single_file
from release.archives import ReleaseError

import tailrace
from support.network.applications import application, check_echo, client, echo
from support.processes.child import Process, clean_environment, process
from support.processes.interpreters import interpreter
from support.service import ServiceProcess
from support.tunnel import Tunnel, arguments_for, open_tunnel, read_ready_file
from support.waiting import until
from tailrace.wire import Side

VERSIONS = ("3.11", "3.12", "3.13", "3.14")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    assert single_file.main(["--output", str(directory)]) == 0
    return directory / f"tailrace-{tailrace.__version__}.pyz"


@pytest.fixture(params=VERSIONS)
def python(request: pytest.FixtureRequest) -> list[str]:
    """A Python with its standard library only."""
    version: str = request.param
    found = interpreter(version)
    if found is None:
        pytest.skip(f"no Python {version} is installed")
    return [found, "-I", "-S"]


def test_it_has_no_compiled_code(archive: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
        assert {info.date_time[0] for info in opened.infolist()} == {2020}
    endings = {Path(name).suffix for name in names if "dist-info" not in name}
    assert endings == {".py", ".typed"}
    tops = {name.partition("/")[0] for name in names}
    packages = {"prometheus_client", "python_socks", "tailrace", "websockets", "__main__.py"}
    assert {top for top in tops if ".dist-info" not in top} == packages
    licences = [name for name in names if "LICENSE" in name.upper()]
    assert {name.partition("-")[0] for name in licences} == packages - {"__main__.py"}


def test_both_commands(archive: Path, python: list[str], tmp_path: Path) -> None:
    def said(*words: str | Path) -> str:
        done = subprocess.run(words, capture_output=True, text=True, env=clean_environment())
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert said(*python, archive, "--version") == f"tailrace {tailrace.__version__}\n"
    banner = said(*python, archive, "localproxy", "--version")
    assert banner.startswith("Running AWS IoT Secure Tunneling Local Proxy version: ")
    link = tmp_path / "localproxy"
    link.symlink_to(archive)
    assert said(*python, link, "--version") == banner
    shown = said(*python, archive, "ssh-config")
    assert f"ProxyCommand {python[0]} {archive} proxy -- '%n'\n" in shown


@pytest.mark.parametrize("python", ["3.11", "3.13"], indirect=True)
async def test_a_tunnel(
    archive: Path, python: list[str], service: ServiceProcess, tmp_path: Path
) -> None:
    tunnel = open_tunnel(service.endpoints, service.control, "ECHO")
    token = tmp_path / "destination.token"
    token.write_text(tunnel.tokens[Side.DESTINATION].reveal())
    token.chmod(0o600)
    endpoint = ("--proxy-endpoint", tunnel.endpoints.data_endpoint)
    trust = ("--capath", tunnel.endpoints.ca_dir)
    ready = tmp_path / "source.json"
    source = [*arguments_for(tunnel, Side.SOURCE), "--ready-file", str(ready), "--no-control"]
    async with application(echo) as address:
        agent = ["agent", "once", str(token), "--service", f"ECHO={address}", *endpoint, *trust]
        agent += ["--state-dir", str(tmp_path / "state")]
        with (
            started("agent", [*python, str(archive), *agent], tmp_path) as device,
            started(
                "source",
                [*python, str(archive), "localproxy", *source],
                tmp_path,
                AWSIOT_TUNNEL_ACCESS_TOKEN=tunnel.tokens[Side.SOURCE].reveal(),
            ) as proxy,
        ):
            await until(lambda: is_connected(tunnel), "the agent's connection")
            await until(lambda: ready.exists() or not proxy.running, "readiness of the source")
            async with client(read_ready_file(ready)["ECHO"]) as streams:
                await check_echo(streams, b"by a single file")
            tunnel.control.call("CloseTunnel", {"tunnelId": tunnel.tunnel_id})
            assert await device.exit_code() == 0, device.log
            assert await proxy.exit_code() == 0, proxy.log


def is_connected(tunnel: Tunnel) -> bool:
    described = tunnel.control.call("DescribeTunnel", {"tunnelId": tunnel.tunnel_id})
    state: dict[str, str] = described["tunnel"]["destinationConnectionState"]
    return state["status"] == "CONNECTED"


@contextlib.contextmanager
def started(name: str, command: list[str], directory: Path, **variables: str) -> Iterator[Process]:
    with process(name, command, directory, clean_environment(**variables)) as child:
        yield child


def test_what_needs_more_says_so(archive: Path) -> None:
    command = [f"{sys.base_prefix}/bin/python3", "-I", "-S", archive, "serve"]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment())
    assert (done.returncode, done.stdout) == (1, "")
    assert "DIR/bin/pip install '.[service]'" in done.stderr
    assert done.stderr.endswith(": a single file takes no packages\n")


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.10"])
def test_an_old_python(archive: Path, version: str) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} is installed")
    done = subprocess.run([python, archive, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("tailrace needs Python 3.11 or later; ")
    assert done.stderr.endswith(f" is Python {version}\n")


def test_a_package_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, archive: Path, tmp_path: Path
) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    wheel = tmp_path / "a.whl"
    with zipfile.ZipFile(wheel, "w"):
        pass
    with pytest.raises(ReleaseError, match=r"^websockets is not installed$"):
        single_file.single_file(wheel)
