"""``tailrace serve`` and ``tailrace env`` as processes."""

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.processes.systemd import Systemd
from support.service import api, dial
from support.waiting import HANG, wait_until
from tailrace.cli import serve as command
from tailrace.cli.exit_codes import ExitCode
from tailrace.cli.tailrace import main
from tailrace.common.installing import how_to_install_extra
from tailrace.errors import ListenError
from tailrace.service.config import Endpoints
from tailrace.wire import Message, MessageType

CLIENT = "2da438cf-9a30-4148-b236-c338182f243c"

MAIN = "import sys; from tailrace.cli.tailrace import main; sys.exit(main())"


class Served:
    """A ``serve`` process."""

    def __init__(self, tmp_path: Path, *options: str, **variables: str) -> None:
        self.state_dir = tmp_path / "state"
        self.ready_file = tmp_path / "ready"
        self.ready_file.unlink(missing_ok=True)
        command = [sys.executable, "-c", MAIN, "serve", "--state-dir", str(self.state_dir)]
        command += ["--ready-file", str(self.ready_file), *options]
        for option in ("--api-listen", "--data-listen"):
            if option not in options:
                command += [option, "127.0.0.1:0"]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables},
        )

    def wait_ready(self) -> Endpoints:
        ended = self.process.poll
        wait_until(lambda: self.ready_file.exists() or ended() is not None, "readiness")
        assert ended() is None, self.process.communicate()
        return Endpoints.read(self.ready_file)

    def end(self, number: signal.Signals) -> tuple[int, str, str]:
        self.process.send_signal(number)
        return self.result()

    def result(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=HANG)
        return self.process.returncode, out, err


Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    processes: list[Served] = []

    def start(*options: str, **variables: str) -> Served:
        processes.append(Served(tmp_path, *options, **variables))
        return processes[-1]

    yield start
    for served in processes:
        served.process.kill()
        served.process.communicate()


def run_command(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAIN, *argv],
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
        **options,
    )


def test_a_state_directory_that_others_may_write(serve: Serve, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    state.chmod(0o777)
    status, out, err = serve().result()
    assert (status, out) == (ExitCode.USAGE, "")
    assert err == (
        f"tailrace serve: cannot use the directory {state}: it is open to other users: "
        f"chmod 755 {state}; choose another with --state-dir\n"
    )
    assert list(state.iterdir()) == []


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_with_status_0(serve: Serve, loop: str, number: signal.Signals) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    served = serve("--loop", loop)
    endpoints = served.wait_ready()
    status, out, err = served.end(number)
    assert status == ExitCode.OK, err
    assert endpoints.api_endpoint in out
    assert "Traceback" not in err
    assert ("Running as root; this command needs no privileges" in err) is (os.geteuid() == 0)
    assert not served.ready_file.exists()


def test_systemd_is_told(serve: Serve, tmp_path: Path) -> None:
    systemd = Systemd(str(tmp_path / "notify"))
    served = serve(**systemd.environment, WATCHDOG_USEC="60000000")
    status = systemd.hears("READY=1")
    endpoints = served.wait_ready()
    assert status == (
        f"READY=1\nSTATUS=API {endpoints.api_endpoint}, local proxies {endpoints.data_endpoint}"
    )
    assert systemd.hears("WATCHDOG=1")
    served.process.send_signal(signal.SIGHUP)
    assert systemd.hears("READY=1")  # RELOADING=1 came before
    assert served.end(signal.SIGTERM)[0] == ExitCode.OK
    assert systemd.told() == ["STOPPING=1"]
    systemd.close()


async def test_kill_9_loses_nothing(serve: Serve) -> None:
    """Open tunnels are still open, used tokens still used, after the hardest end."""
    served = serve()
    endpoints = await asyncio.to_thread(served.wait_ready)
    client = api(endpoints)
    opened = await asyncio.to_thread(client.open_tunnel, destinationConfig={"services": ["S"]})
    closed = await asyncio.to_thread(client.open_tunnel)
    await asyncio.to_thread(client.close_tunnel, tunnelId=closed["tunnelId"])
    client.close()
    async with (
        dial(endpoints, "source", opened["sourceAccessToken"], expect_ids=["S"]) as source,
        dial(
            endpoints,
            "destination",
            opened["destinationAccessToken"],
            client_token=CLIENT,
            expect_ids=["S"],
        ) as destination,
    ):
        served.process.kill()
        assert (await source.close_code())[0] == 1006
        assert (await destination.close_code())[0] == 1006
    await asyncio.to_thread(served.result)
    again = await asyncio.to_thread(serve().wait_ready)
    assert again.secret_access_key == endpoints.secret_access_key
    client = api(again)
    summaries = (await asyncio.to_thread(client.list_tunnels))["tunnelSummaries"]
    assert [(s["tunnelId"], s["status"]) for s in summaries] == [
        (closed["tunnelId"], "CLOSED"),
        (opened["tunnelId"], "OPEN"),
    ]
    described = await asyncio.to_thread(client.describe_tunnel, tunnelId=opened["tunnelId"])
    assert described["tunnel"]["destinationConnectionState"]["status"] == "DISCONNECTED"
    client.close()
    with pytest.raises(Exception, match="400"):
        async with dial(again, "source", opened["sourceAccessToken"]):
            pass
    token = opened["destinationAccessToken"]
    async with dial(again, "destination", token, client_token=CLIENT, expect_ids=["S"]) as peer:
        await peer.socket.ping()


async def test_the_hashed_directory_is_enough_trust(serve: Serve) -> None:
    import ssl

    endpoints = await asyncio.to_thread(serve().wait_ready)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(capath=endpoints.ca_dir)
    client = api(endpoints)
    opened = await asyncio.to_thread(client.open_tunnel)
    client.close()
    async with dial(endpoints, "source", opened["sourceAccessToken"], ssl=context) as peer:
        await peer.send(Message(MessageType.STREAM_START, 1))
        assert (await peer.recv()).type == MessageType.STREAM_RESET


@pytest.mark.parametrize("option", ["--api-listen", "--data-listen"])
def test_a_busy_port_is_status_5(serve: Serve, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        status, _, err = serve(option, address).result()
    assert status == ExitCode.LISTEN
    assert err.splitlines()[-1] == (
        f"tailrace serve: cannot listen on {address} ({option}): Address already in use; stop what "
        f"listens there, or choose another port with {option}"
    )
    assert "Traceback" not in err


def test_a_second_service_is_refused(serve: Serve) -> None:
    serve().wait_ready()
    served = serve()
    status, _, err = served.result()
    assert status == ExitCode.USAGE
    assert err == (
        f"tailrace serve: another service uses {served.state_dir}; stop it, or choose another "
        "--state-dir\n"
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--api-listen", "nonsense"], "--api-listen 'nonsense'"),
        (["--host-name", "a b\u00e9"], "--host-name"),
        (["--max-services", "0"], "--max-services '0' is not a whole number from 1 to 450"),
    ],
)
def test_wrong_options_are_one_line(serve: Serve, options: list[str], text: str) -> None:
    status, _, err = serve(*options).result()
    assert status == ExitCode.USAGE
    assert text in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--region", "us east"], "--region 'us east' is not a name such as us-east-1"),
        (["--api-listen", "x"], "--api-listen 'x' is not HOST:PORT, for example 127.0.0.1:7443 or"),
        (["--notify-command", ""], "--notify-command is empty: give a program with its arguments"),
        (["--notify-command", "'"], '--notify-command "\'": No closing quotation'),
        (
            ["--mqtt-url", "http://h"],
            "--mqtt-url must be mqtt://HOST[:PORT] or mqtts://HOST[:PORT], for example "
            "mqtts://broker.example:8883",
        ),
        (
            ["--mqtt-url", "mqtt://:secret@h"],
            "an MQTT password needs a user: give it in --mqtt-url or in TAILRACE_MQTT_USER",
        ),
        (
            ["--mqtt-url", "mqtt://h", "--mqtt-ca", "x"],
            "--mqtt-ca needs --mqtt-url with mqtts://",
        ),
        (["--mqtt-url", "mqtts://h", "--mqtt-key", "x"], "--mqtt-key needs --mqtt-cert"),
        (
            ["--mqtt-url", "mqtts://h", "--mqtt-ca", "/no/{0}"],
            "--mqtt-ca /no/{0}: No such file or directory",
        ),
        (
            ["--mqtt-url", "mqtts://h", "--mqtt-cert", "/no/x"],
            "--mqtt-cert /no/x: No such file or directory",
        ),
    ],
)
def test_settings_are_named_by_their_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], text: str
) -> None:
    argv = ["serve", "--state-dir", str(tmp_path), *options]
    assert main(argv) == ExitCode.USAGE
    assert capsys.readouterr().err.startswith(f"tailrace serve: {text}")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--host-name", "\u00e9"], "--host-name '\u00e9' is not a name for a certificate"),
        (
            ["--audit-log", "/no/{state_dir}"],
            "--audit-log: cannot write /no/{state_dir}: No such file or directory",
        ),
    ],
)
def test_settings_that_a_start_refuses(serve: Serve, options: list[str], text: str) -> None:
    status, _, err = serve(*options).result()
    assert status == ExitCode.USAGE
    assert err == f"tailrace serve: {text}\n"


def test_a_store_of_another_version(serve: Serve, tmp_path: Path) -> None:
    served = serve()
    served.wait_ready()
    served.end(signal.SIGTERM)
    database = tmp_path / "state" / "tunnels.sqlite3"
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("UPDATE schema_version SET version = 7")
    status, _, err = serve().result()
    assert status == ExitCode.USAGE
    assert err == (
        f"tailrace serve: the tunnel store {database} has schema version 7, this version of "
        "tailrace knows 2: use the version that wrote it, or another --state-dir\n"
    )
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("DELETE FROM schema_version")
    status, _, err = serve().result()
    assert status == ExitCode.USAGE
    assert err == (
        f"tailrace serve: the tunnel store {database} is broken: it has no schema version; put a "
        "copy back, or remove it with the files beside it to start without tunnels\n"
    )


def test_a_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "starlette" else find_spec(name)
    )
    assert main(["serve", "--state-dir", str(tmp_path)]) == ExitCode.USAGE
    assert capsys.readouterr().err == (
        "tailrace serve: packages are not installed: starlette; install them: "
        f"{how_to_install_extra('service')}\n"
    )


async def test_a_control_api_that_has_ended_ends_the_command() -> None:
    class Failed:
        async def failed(self) -> None:
            pass

    with pytest.raises(ListenError, match="the control API has ended unexpectedly"):
        await command._wait(Failed(), asyncio.Event())


def test_importing_the_commands_is_cheap() -> None:
    heavy = "{'starlette', 'uvicorn', 'picows', 'cryptography', 'uvloop'}"
    code = f"import sys, tailrace.cli.serve; print({heavy} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=HANG
    )
    assert result.stdout == "set()\n"


class TestEnv:
    def test_a_shell_gets_all_it_needs(self, serve: Serve) -> None:
        served = serve()
        endpoints = served.wait_ready()
        script = (
            f'eval "$({sys.executable} -c "$MAIN" env --state-dir "{served.state_dir}")"; '
            'exec "$PYTHON" -c "import boto3, json, os;'
            "c = boto3.client('iotsecuretunneling');"
            "print(json.dumps([c.open_tunnel()['tunnelArn'], os.environ['AWSIOT_TUNNEL_ENDPOINT'],"
            "os.environ['SSL_CERT_FILE'], os.environ['AWS_DEFAULT_REGION']]))\""
        )
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS")}
        environment |= {"MAIN": MAIN, "PYTHON": sys.executable, "AWS_SESSION_TOKEN": "stale"}
        environment["AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"] = "true"
        result = subprocess.run(
            ["/bin/sh", "-c", script],
            capture_output=True,
            text=True,
            env=environment,
            timeout=HANG,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        arn, data_endpoint, bundle, region = json.loads(result.stdout)
        assert arn.startswith("arn:aws:iot:us-east-1:")
        assert data_endpoint == endpoints.data_endpoint
        assert region == "us-east-1"
        assert Path(endpoints.ca_file).read_text() in Path(bundle).read_text()

    def test_old_clients_are_named(self, serve: Serve) -> None:
        served = serve()
        served.wait_ready()
        shown = run_command("env", "--state-dir", str(served.state_dir)).stdout
        *exports, note = shown.splitlines()
        assert all(line.startswith(("export ", "unset ")) for line in exports)
        assert note.startswith("# Clients that know no AWS_ENDPOINT_URL_*")
        assert '--endpoint-url "$AWS_ENDPOINT_URL_IOTSECURETUNNELING"' in note
        for text in (shown, " ".join(run_command("env", "--help").stdout.split())):
            assert "boto3 before 1.28" in text
            assert "go to AWS itself" in text
        ready = served.state_dir / "ready.json"
        assert stat.S_IMODE(ready.stat().st_mode) == 0o600

    def test_no_service(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["env", "--state-dir", str(tmp_path)]) == ExitCode.USAGE
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err == (
            f"tailrace env: no service is running here: {tmp_path}/ready.json does not exist; "
            f"start one with: tailrace serve --state-dir {tmp_path}\n"
        )

    def test_a_key_from_the_environment(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given = {"TAILRACE_ACCESS_KEY_ID": "AKGIVEN", "TAILRACE_SECRET_ACCESS_KEY": "its-secret"}
        with monkeypatch.context() as context:
            for name, value in given.items():
                context.setenv(name, value)
            served = serve()
            served.wait_ready()
            knowing = run_command("env", "--state-dir", str(served.state_dir))
        assert "export AWS_ACCESS_KEY_ID=AKGIVEN\n" in knowing.stdout
        assert "export AWS_SECRET_ACCESS_KEY=its-secret\n" in knowing.stdout
        assert knowing.stdout.splitlines()[-2] == "unset AWS_SESSION_TOKEN"
        unknowing = run_command("env", "--state-dir", str(served.state_dir))
        assert unknowing.returncode == ExitCode.OK
        assert "AWS_ENDPOINT_URL_IOTSECURETUNNELING=" in unknowing.stdout
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            assert name not in unknowing.stdout
        assert unknowing.stderr.startswith("tailrace env: the key AKGIVEN is only in")
        assert unknowing.stderr.count("\n") == 1

    def test_a_ready_file_that_others_may_write(
        self, serve: Serve, capsys: pytest.CaptureFixture[str]
    ) -> None:
        served = serve()
        served.wait_ready()
        path = served.state_dir / "ready.json"
        path.chmod(0o666)
        assert main(["env", "--state-dir", str(served.state_dir)]) == ExitCode.USAGE
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err == (
            f"tailrace env: cannot read {path}: it is open to other users: chmod 644 {path}\n"
        )

    def test_a_dead_service(self, serve: Serve) -> None:
        served = serve()
        served.wait_ready()
        served.end(signal.SIGKILL)
        result = run_command("env", "--state-dir", str(served.state_dir))
        assert result.returncode == ExitCode.USAGE
        assert "is no longer running" in result.stderr
        assert result.stdout == ""


async def test_limits_are_those_of_the_command_line(serve: Serve) -> None:
    served = serve("--limits", "aws", "--max-open-tunnels", "1")
    endpoints = await asyncio.to_thread(served.wait_ready)
    client = api(endpoints)
    limit = client.exceptions.LimitExceededException
    with pytest.raises(limit, match="at most 3 services"):
        await asyncio.to_thread(
            client.open_tunnel, destinationConfig={"services": ["a", "b", "c", "d"]}
        )
    opened = await asyncio.to_thread(client.open_tunnel)
    with pytest.raises(limit, match="at most 1 open tunnels"):
        await asyncio.to_thread(client.open_tunnel)
    await asyncio.to_thread(client.close_tunnel, tunnelId=opened["tunnelId"])
    await asyncio.to_thread(client.open_tunnel)
    client.close()
