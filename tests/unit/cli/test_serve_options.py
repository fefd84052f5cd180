"""The operators' options of ``tailrace serve``, as options and in a real process."""

import argparse
import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import httpx
import pytest
import trustme

from support.processes.mosquitto import broker, needs_mosquitto
from support.service import api, dial, trust
from support.waiting import HANG, wait_until
from tailrace.cli.serve import add_serve_parser, error_text
from tailrace.cli.serve_options import data_settings, read_operation, start_logging
from tailrace.errors import ConfigurationError
from tailrace.service.config import Address, DataSettings, Endpoints, OperationSettings
from tailrace.service.telemetry.log_format import JsonFormatter


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_serve_parser(parser.add_subparsers())
    return parser.parse_args(["serve", *argv])


def test_nothing_is_said() -> None:
    assert read_operation(parse(), {}) == OperationSettings()
    assert data_settings(parse()) == DataSettings()


def test_everything_is_said() -> None:
    args = parse(
        *("--tls-cert", "c.pem", "--tls-key", "k.pem", "--tls-ca", "ca.pem"),
        *("--metrics-listen", "127.0.0.1:9100", "--audit-log", "audit.log"),
        *("--mqtt-url", "mqtt://broker", "--notify-command", "notify --all"),
        *("--proxy-protocol", "10.0.0.0/8", "--proxy-protocol", "::1"),
        *("--forwarded-for", "fd00::/8"),
        *("--allow-origin", "https://console.example", "--allow-origin", "http://[::1]:80"),
    )
    settings = read_operation(args, {"TAILRACE_MQTT_USER": "me"})
    assert settings.mqtt is not None
    assert (settings.mqtt.host, settings.mqtt.user) == ("broker", "me")
    assert settings.tls_cert == Path("c.pem")
    assert settings.tls_key == Path("k.pem")
    assert settings.tls_ca == Path("ca.pem")
    assert settings.metrics_listen == Address("127.0.0.1", 9100)
    assert settings.audit_log == Path("audit.log")
    assert settings.notify_command == ("notify", "--all")
    assert data_settings(args) == DataSettings(
        proxies=(ip_network("10.0.0.0/8"), ip_network("::1")),
        forwarders=(ip_network("fd00::/8"),),
        origins=frozenset({"https://console.example", "http://[::1]"}),
    )


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--tls-key", "k.pem"], "--tls-key needs --tls-cert"),
        (["--tls-ca", "k.pem"], "--tls-ca needs --tls-cert"),
        (["--mqtt-ca", "k.pem"], "--mqtt-ca needs --mqtt-url"),
        (["--mqtt-cert", "k.pem"], "--mqtt-cert needs --mqtt-url"),
        (["--mqtt-key", "k.pem"], "--mqtt-key needs --mqtt-url"),
        (["--metrics-listen", "here"], "--metrics-listen 'here' is not HOST:PORT"),
        (["--notify-command", ""], "--notify-command is empty"),
    ],
)
def test_what_does_not_fit(argv: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_operation(parse(*argv), {})
    assert said in error_text(caught.value)


def test_what_is_no_network() -> None:
    with pytest.raises(ConfigurationError, match="--proxy-protocol"):
        data_settings(parse("--proxy-protocol", "haproxy"))
    with pytest.raises(ConfigurationError, match="--forwarded-for"):
        data_settings(parse("--forwarded-for", "10.0.0.1/8"))
    with pytest.raises(ConfigurationError, match="--allow-origin 'console"):
        data_settings(parse("--allow-origin", "console.example"))


def test_the_formats_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        for options in ([], ["--log-format", "json"]):
            root.handlers.clear()
            start_logging(parse(*options))
            (handler,) = root.handlers
            assert isinstance(handler.formatter, JsonFormatter) is bool(options)
            logging.getLogger("tailrace.test").warning("a\nb\x1b\x9b\u202e%s", "\r")
            (line,) = capsys.readouterr().err.split("\n")[:-1]
            assert line.isprintable()
            for number in range(21):
                logging.getLogger("library").info("request %d", number)
            assert len(capsys.readouterr().err.splitlines()) == 20
            logging.getLogger("tailrace.test").warning("x" * 1_000_000)
            assert len(capsys.readouterr().err) < 2100
    finally:
        root.handlers[:] = before
        root.setLevel(level)


def test_records_in_the_journal_have_priorities(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root, stderr = logging.getLogger(), (tmp_path / "err").open("w+")
    before, level = list(root.handlers), root.level
    found = os.fstat(stderr.fileno())
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    try:
        root.handlers.clear()
        start_logging(parse())
        logging.getLogger("tailrace.test").warning("careful")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    stderr.seek(0)
    assert stderr.read().startswith("<4>")
    stderr.close()


MAIN = """
import argparse, sys
from tailrace.cli.serve import add_serve_parser, error_text, run_serve
parser = argparse.ArgumentParser("tailrace")
add_serve_parser(parser.add_subparsers())
sys.exit(run_serve(parser.parse_args()))
"""


class Served:
    """A ``serve`` process with its log."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.log = directory / "serve.log"
        ready = directory / "ready"
        command = [sys.executable, "-c", MAIN, "serve", "--state-dir", str(directory / "state")]
        command += ["--api-listen", "127.0.0.1:0", "--data-listen", "127.0.0.1:0"]
        command += ["--ready-file", str(ready), *options]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        ended = self.process.poll
        wait_until(lambda: ready.exists() or ended() is not None, "readiness")
        assert ended() is None, self.log.read_text()
        self.endpoints = Endpoints.read(ready)

    def wait_logged(self, text: str) -> None:
        """Wait until the log holds ``text``."""
        wait_until(lambda: text in self.log.read_text(), text)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(HANG)


@pytest.fixture
def processes() -> Iterator[list[Served]]:
    started: list[Served] = []
    yield started
    for served in started:
        served.process.kill()
        served.process.wait()


def certificate(directory: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")


async def test_json_logs_audit_and_reload(tmp_path: Path, processes: list[Served]) -> None:
    certificate(tmp_path)
    served = await asyncio.to_thread(
        Served,
        tmp_path,
        *("--log-format", "json", "--audit-log", str(tmp_path / "audit")),
        *("--tls-cert", str(tmp_path / "server.pem"), "--tls-ca", str(tmp_path / "ca.pem")),
    )
    processes.append(served)
    client = api(served.endpoints)
    opened = await asyncio.to_thread(client.open_tunnel)
    client.close()
    async with dial(served.endpoints, "source", opened["sourceAccessToken"]):
        old = trust(served.endpoints)
        certificate(tmp_path)
        served.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(served.wait_logged, "were loaded again")
        url = f"{served.endpoints.api_endpoint}/healthz"
        async with httpx.AsyncClient(verify=trust(served.endpoints), trust_env=False) as http:
            assert (await http.get(url)).status_code == 200
        async with httpx.AsyncClient(verify=old, trust_env=False) as http:
            with pytest.raises(httpx.ConnectError):
                await http.get(url)
        (tmp_path / "server.pem").write_text("junk")
        served.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(served.wait_logged, "nothing has changed")
    assert await asyncio.to_thread(served.stop) == 0
    lines = [json.loads(line) for line in served.log.read_text().splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    assert any("request" in line for line in lines)
    assert any("channel" in line for line in lines)
    audited = (tmp_path / "audit").read_text()
    assert '"connected"' in audited
    for text in (served.log.read_text(), audited):
        assert opened["sourceAccessToken"] not in text


@needs_mosquitto
async def test_a_thing_learns_of_its_tokens_once_each(
    tmp_path: Path, processes: list[Served]
) -> None:
    """Of the first one, and of those that rotations of its side bring."""
    import aiomqtt

    lamp = {"thingName": "lamp", "services": ["SSH"]}
    with broker(tmp_path) as running:
        served = await asyncio.to_thread(
            Served, tmp_path, "--mqtt-url", f"mqtt://127.0.0.1:{running.port}"
        )
        processes.append(served)
        async with aiomqtt.Client("127.0.0.1", running.port) as thing:
            await thing.subscribe("$aws/things/+/tunnels/notify", qos=1)
            client = api(served.endpoints)
            messages = aiter(thing.messages)
            issued = []

            async def heard() -> str:
                async with asyncio.timeout(HANG):
                    message = await anext(messages)
                assert (str(message.topic), message.qos) == ("$aws/things/lamp/tunnels/notify", 1)
                assert isinstance(message.payload, bytes)
                document = json.loads(message.payload)
                text: str = document.pop("clientAccessToken")
                assert document.pop("tokenId") not in text
                assert document.pop("expiresAt") > time.time()
                assert document.pop("tunnelId")
                assert document == {
                    "clientMode": "destination",
                    "region": served.endpoints.region,
                    "services": ["SSH"],
                }
                return text

            opened = await asyncio.to_thread(client.open_tunnel, destinationConfig=lamp)
            issued.append(opened["destinationAccessToken"])
            assert await heard() == issued[-1]
            for mode in ("SOURCE", "DESTINATION", "ALL"):
                rotated = await asyncio.to_thread(
                    client.rotate_tunnel_access_token, tunnelId=opened["tunnelId"], clientMode=mode
                )
                if mode != "SOURCE":
                    issued.append(rotated["destinationAccessToken"])
                    assert await heard() == issued[-1]
            # Would anything be said twice, it would come before this one.
            last = await asyncio.to_thread(client.open_tunnel, destinationConfig=lamp)
            assert await heard() == last["destinationAccessToken"]
            client.close()
        assert await asyncio.to_thread(served.stop) == 0
    for token in issued:
        assert token not in served.log.read_text()


def test_as_many_open_files_as_allowed(tmp_path: Path, processes: list[Served]) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        served = Served(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    processes.append(served)
    limits = resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE)
    assert limits == (hard, hard)
    assert served.stop() == 0
