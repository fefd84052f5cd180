"""``tailrace env --for``: files for another machine. For shells see ``test_serve.py``."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.processes.child import clean_environment, installed
from support.service import config, running
from support.waiting import HANG
from tailrace.aws.credentials import Credentials
from tailrace.aws.joined import JoinedService, read_joined, write_joined
from tailrace.cli.exit_codes import ExitCode
from tailrace.cli.tailrace import main
from tailrace.common.enrolment import Role
from tailrace.common.secret import Secret
from tailrace.service.environment import VARIABLES, client_environment
from tailrace.service.identity.key_store import KeyFile, credentials_file
from tailrace.service.identity.policy import Policy, device_policy


async def test_files_for_other_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state_dir = tmp_path / "state"
    async with running(config(state_dir)) as service:
        for role, name, options, policy in (
            (Role.DEVICE, "pump-7", [], device_policy("pump-7")),
            (Role.OPERATOR, "alice", ["--read-only"], Policy(read_only=True)),
        ):
            out = tmp_path / name
            argv = ["env", "--state-dir", str(state_dir), "--for", role.value, "--name", name]
            host = ["--host", "localhost"]
            assert main([*argv, "--out", str(out), *options, *host]) == ExitCode.OK
            joined = read_joined(out)
            assert joined is not None
            assert (joined.role, joined.name, joined.region) == (role, name, "us-east-1")
            port = service.endpoints.api_endpoint.rpartition(":")[2]
            assert joined.api_endpoint == f"https://localhost:{port}"
            assert joined.ca_file.read_bytes() == (state_dir / "tls" / "ca.pem").read_bytes()
            (key,) = (k for k in KeyFile(credentials_file(state_dir)).read() if k.name == name)
            assert key.access_key_id == joined.credentials.access_key_id
            assert key.secret_access_key == joined.credentials.secret_access_key
            assert key.policy == policy
            shown = capsys.readouterr()
            assert key.secret_access_key.reveal() not in shown.out + shown.err
            assert shown.err.startswith(f"wrote {out} with the key {key.access_key_id}; ")


def test_a_machine_that_has_joined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "none"))
    directory = tmp_path / "joined"
    monkeypatch.setenv("TAILRACE_SERVICE_DIR", str(directory))
    service = JoinedService(
        Role.OPERATOR,
        "alice",
        "https://mine.example:7443",
        "mine.example:7444",
        "eu-west-1",
        Path(),
        Credentials("AKJOINED", Secret("SK")),
    )
    write_joined(directory, service, b"PEM")
    assert main(["env"]) == ExitCode.OK
    out = capsys.readouterr().out
    for line in (
        "export AWS_ENDPOINT_URL_IOTSECURETUNNELING=https://mine.example:7443",
        "export AWSIOT_TUNNEL_ENDPOINT=mine.example:7444",
        "export AWS_ACCESS_KEY_ID=AKJOINED",
        "export AWS_SECRET_ACCESS_KEY=SK",
        f"export AWS_CA_BUNDLE={directory}/tls/bundle.pem",
    ):
        assert line in out.splitlines()
    assert (directory / "tls" / "bundle.pem").read_bytes().endswith(b"PEM")
    # Not where a state directory is asked for, or files for others.
    for options in (["--state-dir", str(tmp_path / "none")], ["--for", "device"]):
        assert main(["env", *options]) == ExitCode.USAGE
        assert "no service is running here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--for", "device", "--name", "a"], "--out is missing"),
        (["--for", "device", "--out", "{out}"], "--name is missing"),
        (["--name", "a", "--out", "{out}"], "--for is missing"),
        (["--for", "device", "--name", "a b", "--out", "{out}"], "'a b' is not the name of a"),
        (["--for", "device", "--name", "a", "--out", "{out}", "--thing", "b"], "one policy"),
        (["--for", "device", "--name", "a", "--out", "{out}"], "for this machine only"),
        (
            ["--for", "operator", "--name", "a", "--out", "/proc/x", "--host", "localhost"],
            "cannot make the directory /proc/x",
        ),
    ],
)
async def test_wrong_options_make_no_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], text: str
) -> None:
    state_dir = tmp_path / "state"
    given = [each.format(out=tmp_path / "out") for each in options]
    async with running(config(state_dir)):
        assert main(["env", "--state-dir", str(state_dir), *given]) == ExitCode.USAGE
    err = capsys.readouterr().err
    assert text in err
    assert err.count("\n") == 1
    assert len(KeyFile(credentials_file(state_dir)).read()) == 1
    assert not (tmp_path / "out").exists()


async def shown_by(shell: str, script: str, *, state_dir: Path) -> list[str]:
    """Return what a script prints in a shell to which `tailrace env` was told."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    done = await asyncio.to_thread(
        subprocess.run,
        [program, "-c", script],
        env=clean_environment(
            PATH=f"{Path(installed('tailrace')).parent}:{os.environ['PATH']}",
            XDG_STATE_HOME=str(state_dir.parent),
            AWS_SESSION_TOKEN="of another key",
        ),
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("shell", "told"),
    [
        ("sh", 'eval "$(tailrace env {})"'),
        ("fish", "tailrace env --shell fish {} | source"),
        ("sh", "false || tailrace exec -- env; exit"),
    ],
)
async def test_shells_and_commands(tmp_path: Path, shell: str, told: str) -> None:
    """What they are told, and that it goes away again."""
    state_dir = tmp_path / "it's a \\ state" / "tailrace"
    state_dir.mkdir(parents=True, mode=0o700)
    async with running(config(state_dir)) as service:
        expected = client_environment(service.endpoints, state_dir, {})
        assert set(expected) == set(VARIABLES)
        before = await shown_by(shell, "env", state_dir=state_dir)
        found = await shown_by(shell, f"{told.format('')}; env", state_dir=state_dir)
        after = await shown_by(
            shell, f"{told.format('')}; {told.format('--unset')}; env", state_dir=state_dir
        )
    assert {f"{name}={value}" for name, value in expected.items()} <= set(found)
    assert not any(line.startswith("AWS_SESSION_TOKEN=") for line in found)
    if "exec" not in told:
        assert set(before) - set(after) == {"AWS_SESSION_TOKEN=of another key"}
        assert not any(line.startswith(tuple(f"{name}=" for name in VARIABLES)) for line in after)


async def test_powershell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state_dir = tmp_path / "it's"
    async with running(config(state_dir)):
        assert main(["env", "--shell", "pwsh", "--state-dir", str(state_dir)]) == ExitCode.OK
    quoted = str(state_dir).replace("'", "''")
    assert f"$env:AWS_CA_BUNDLE = '{quoted}/tls/bundle.pem'\n" in capsys.readouterr().out
    assert main(["env", "--shell", "pwsh", "--unset"]) == ExitCode.OK
    line = "Remove-Item -ErrorAction SilentlyContinue Env:AWS_REGION\n"
    assert line in capsys.readouterr().out


async def test_commands_end_as_they_do_and_have_to_be_there(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"

    async def run(*argv: str) -> tuple[int, str]:
        command = [installed("tailrace"), "exec", "--state-dir", str(state_dir), *argv]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=HANG, check=False
        )
        return done.returncode, done.stderr

    async with running(config(state_dir)):
        assert await run("--", "sh", "-c", "exit 7") == (7, "")
        assert await run("sh", "-c", "kill -9 $$") == (-9, "")
        text = "tailrace exec: cannot run no-such-command: No such file or directory\n"
        assert await run("--", "no-such-command") == (ExitCode.USAGE, text)
        text = "tailrace exec: no command: write it behind --, as: tailrace exec -- aws help\n"
        assert await run("--") == (ExitCode.USAGE, text)
    status, text = await run("--", "true")
    assert status == ExitCode.USAGE
    assert text.startswith("tailrace exec: no service is running here: ")
