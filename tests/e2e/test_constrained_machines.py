"""Both programs on machines where much is missing: places to write, a user, memory, a locale."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.network.applications import application, exchange, mirror
from support.processes.child import clean_environment, installed
from support.processes.machines import MACHINES, machine_of
from support.service import ServiceProcess, service_process
from support.tunnel import both_processes, tunnel_of, tunnel_process
from support.waiting import HANG
from tailrace.cli.exit_codes import ExitCode
from tailrace.wire import Side

each_machine = pytest.mark.parametrize("name", MACHINES)


def run(machine: Sequence[str], directory: Path, *command: str, **environment: str):
    """Run a command of tailrace to its end."""
    return subprocess.run(
        [*machine, installed(command[0]), *command[1:]],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=HANG,
        cwd=directory,
        env=clean_environment(**environment),
        check=False,
    )


@each_machine
async def test_a_tunnel_works(tmp_path: Path, name: str):
    """Service, destination and source have nothing more than that."""
    machine = machine_of(name, tmp_path)
    with service_process(tmp_path, machine=machine) as service, tunnel_of(service, "SSH") as tunnel:
        async with (
            application(mirror) as where,
            both_processes(tmp_path, tunnel, {"SSH": where}, machine=machine) as ends,
        ):
            source, destination, ports = ends
            await exchange(ports["SSH"], 3_000_000)
            for end in (source, destination):
                end.terminate()
                assert await end.exit_code() == ExitCode.OK, end.log
        assert service.stop() == ExitCode.OK
        for each in (service.process, source, destination):
            assert "Traceback" not in each.log
            assert "[error]" not in each.log


@each_machine
def test_the_tools_work(tmp_path: Path, name: str, service: ServiceProcess):
    machine = machine_of(name, tmp_path)
    state = str(Path(service.endpoints.ca_file).parent.parent)
    endpoints = {
        "AWS_ENDPOINT_URL": service.endpoints.api_endpoint,
        "AWS_ACCESS_KEY_ID": service.endpoints.access_key_id,
        "AWS_SECRET_ACCESS_KEY": service.endpoints.secret_access_key,
        "AWS_REGION": service.endpoints.region,
        "AWS_CA_BUNDLE": service.endpoints.ca_file,
    }
    # Makes a file, which then stays as it is.
    assert run((), tmp_path, "tailrace", "env", "--state-dir", state).returncode == 0
    for command in (
        ("tailrace", "env", "--state-dir", state),
        ("tailrace", "keys", "--state-dir", state, "list"),
        ("tailrace", "tunnel", "list"),
        ("tailrace", "--version"),
        ("tailrace", "config", "show", "-m", "src", "-r", "eu-west-1", "-i", "c" * 32),
        ("localproxy", "--version"),
    ):
        ended = run(
            machine, tmp_path, *command, **endpoints, AWSIOT_TUNNEL_ACCESS_TOKEN="not-a-token"
        )
        assert (ended.returncode, ended.stderr) == (0, ""), command
        assert ended.stdout


@pytest.mark.parametrize("name", ["locale C", "plain ASCII"])
def test_a_directory_whose_name_is_not_ascii(tmp_path: Path, name: str):
    machine = machine_of(name, tmp_path)
    directory = tmp_path / "gr\u00fcn"
    directory.mkdir()
    with service_process(directory, machine=machine) as service:
        ended = run(machine, tmp_path, "tailrace", "env", "--state-dir", f"{directory}/state")
        assert f"AWS_CA_BUNDLE='{directory}/state/tls/bundle.pem'" in ended.stdout
        assert service.stop() == ExitCode.OK
        assert "Traceback" not in service.process.log


def test_a_service_whose_standard_output_is_on_a_full_disk(tmp_path: Path):
    """As log files often are. It is there for its clients."""
    full = ("/bin/sh", "-c", 'exec "$@" > /dev/full', "full")
    with service_process(tmp_path, machine=full) as service, tunnel_of(service, "SSH"):
        assert "standard output: No space left on device" in service.process.log
        assert service.stop() == ExitCode.OK
        assert "Traceback" not in service.process.log


@pytest.mark.parametrize("name", ["read-only", "no user", "little memory", "plain ASCII"])
def test_the_demonstration_works_where_it_has_room(tmp_path: Path, name: str):
    machine = machine_of(name, tmp_path)
    (tmp_path / "room").mkdir()
    ended = run([*machine, "env", f"TMPDIR={tmp_path}/room"], tmp_path, "tailrace", "demo")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "sha256 match: download upload" in ended.stdout


@pytest.mark.parametrize(
    ("name", "command", "status", "said"),
    [
        (
            "no user",
            ("tailrace", action),
            ExitCode.USAGE,
            f"tailrace {action}: this user has no home directory: set HOME, or give a directory "
            "with --state-dir",
        )
        for action in ("env", "serve")
    ]
    + [
        (
            "read-only",
            ("tailrace", "serve", "--state-dir", "/var/lib/tailrace"),
            ExitCode.USAGE,
            "tailrace serve: cannot make the directory /var/lib/tailrace: Read-only file system; "
            "choose another with --state-dir",
        ),
        (
            "full disk",
            ("tailrace", "serve"),
            ExitCode.USAGE,
            "tailrace serve: cannot use the tunnel store "
            "{directory}/full/.local/state/tailrace/tunnels.sqlite3: database or disk is full",
        ),
        (
            "read-only",
            ("tailrace", "demo"),
            ExitCode.USAGE,
            "tailrace demo: cannot write 64 MiB of temporary files: No usable temporary directory "
            "found in ['/tmp', '/var/tmp', '/usr/tmp', '/']; name a directory with room for them "
            "in TMPDIR",
        ),
    ],
)
def test_what_cannot_work_is_said_in_one_line(
    tmp_path: Path, name: str, command: tuple[str, ...], status: ExitCode, said: str
):
    machine = machine_of(name, tmp_path)
    ended = run(machine, tmp_path, *command)
    assert ended.stderr == said.format(directory=tmp_path) + "\n"
    assert ended.returncode == status


@pytest.mark.parametrize(("name", "place"), [("full disk", "full/state"), ("read-only", "/state")])
async def test_a_client_token_that_cannot_be_kept_is_said_before_the_token_is_used(
    tmp_path: Path, service: ServiceProcess, name: str, place: str
):
    machine = machine_of(name, tmp_path)
    with tunnel_of(service, "SSH") as tunnel:
        state = ["--state-dir", str(tmp_path / place)]
        with tunnel_process(tmp_path, tunnel, Side.SOURCE, None, *state, machine=machine) as proxy:
            assert await proxy.exit_code() == ExitCode.USAGE
            assert place in proxy.fatal_line
        with tunnel_process(tmp_path, tunnel, Side.SOURCE, name="again") as proxy:
            await proxy.ready()


@pytest.mark.parametrize(
    ("name", "place"),
    [("read-only", "/srv/state"), ("full disk", "{directory}/full/state"), ("no user", "")],
)
async def test_by_default_a_client_token_that_cannot_be_kept_is_a_warning(
    tmp_path: Path, service: ServiceProcess, name: str, place: str
):
    machine = machine_of(name, tmp_path)
    machine += ["env", f"XDG_STATE_HOME={place.format(directory=tmp_path)}"]
    with (
        tunnel_of(service, "SSH") as tunnel,
        tunnel_process(tmp_path, tunnel, Side.SOURCE, machine=machine) as proxy,
    ):
        await proxy.ready()
        (warning,) = (line for line in proxy.log.splitlines() if "after a restart" in line)
        assert "[warning]" in warning
        assert "--state-dir" in warning
