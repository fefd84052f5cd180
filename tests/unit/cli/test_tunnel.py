"""``tailrace tunnel`` against a running service, and as AWS would see it."""

import asyncio
import http.server
import json
import ssl
import stat
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from support.service import config, dial, running
from tailrace.cli.exit_codes import ExitCode
from tailrace.cli.tailrace import main
from tailrace.cli.tunnel import api_endpoint
from tailrace.service.service import Service

VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_PROFILE",
    "AWS_CA_BUNDLE",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_IOTSECURETUNNELING",
)


def tunnel(*argv: str) -> int:
    return main(["tunnel", *argv])


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
async def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    async with running(config(tmp_path / "state")) as service:
        endpoints = service.endpoints
        monkeypatch.setenv("AWS_ENDPOINT_URL_IOTSECURETUNNELING", endpoints.api_endpoint)
        monkeypatch.setenv("AWS_CA_BUNDLE", endpoints.ca_file)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", endpoints.access_key_id)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", endpoints.secret_access_key)
        monkeypatch.setenv("AWS_REGION", endpoints.region)
        yield service


class Shell:
    """Runs the command in a thread, as the service is in this process too."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    async def __call__(self, *argv: str, status: ExitCode = ExitCode.OK) -> str:
        self._capsys.readouterr()
        ended = await asyncio.to_thread(tunnel, *argv)
        captured = self._capsys.readouterr()
        assert ended == status, captured.err
        if status is ExitCode.OK:
            assert captured.err == ""
            return captured.out
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        assert line.startswith(f"tailrace tunnel {argv[0]}: ")
        return line

    async def json(self, *argv: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(await self(*argv))
        return document


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


class TestService:
    async def test_from_opening_to_closing(self, service: Service, shell: Shell) -> None:
        opened = await shell.json(
            *("open", "--thing", "lamp", "--service", "SSH", "--service", "VNC"),
            *("--description", "a lamp", "--lifetime", "5", "--tag", "a=b=c", "--tag", "d="),
        )
        assert set(opened) == {
            "tunnelId",
            "tunnelArn",
            "sourceAccessToken",
            "destinationAccessToken",
        }
        tunnel_id = opened["tunnelId"]
        async with dial(
            service.endpoints, "source", opened["sourceAccessToken"], expect_ids=["SSH", "VNC"]
        ):
            described = (await shell.json("describe", tunnel_id))["tunnel"]
        assert described["sourceConnectionState"]["status"] == "CONNECTED"
        assert described["destinationConfig"] == {"thingName": "lamp", "services": ["SSH", "VNC"]}
        assert described["timeoutConfig"] == {"maxLifetimeTimeoutMinutes": 5}
        assert described["tags"] == [{"key": "a", "value": "b=c"}, {"key": "d", "value": ""}]
        other = await shell.json("open")
        listed = (await shell.json("list"))["tunnelSummaries"]
        assert [summary["tunnelId"] for summary in listed] == [other["tunnelId"], tunnel_id]
        assert len((await shell.json("list", "--max", "1"))["tunnelSummaries"]) == 1
        of_lamp = (await shell.json("list", "--thing", "lamp"))["tunnelSummaries"]
        assert [summary["tunnelId"] for summary in of_lamp] == [tunnel_id]
        assert await shell.json("close", tunnel_id) == {}
        await shell("close", other["tunnelId"], "--delete")
        listed = (await shell.json("list"))["tunnelSummaries"]
        assert [summary["status"] for summary in listed] == ["CLOSED"]

    async def test_all_pages(self, service: Service, shell: Shell) -> None:
        from tailrace.service.tunnels.rules import TunnelSpec

        for _ in range(230):
            service._running.control.open_tunnel(TunnelSpec())
        listed = (await shell.json("list"))["tunnelSummaries"]
        assert len({summary["tunnelId"] for summary in listed}) == 230
        assert len((await shell.json("list", "--max", "150"))["tunnelSummaries"]) == 150

    async def test_tokens_to_a_file(self, service: Service, shell: Shell, tmp_path: Path) -> None:
        kept = tmp_path / "tokens"
        opened = await shell.json("open", "--tokens-to", str(kept))
        assert set(opened) == {"tunnelId", "tunnelArn"}
        tokens = json.loads(kept.read_text())
        assert tokens["tunnelId"] == opened["tunnelId"]
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        async with dial(service.endpoints, "source", tokens["sourceAccessToken"]):
            pass
        line = await shell(
            "open", "--tokens-to", str(tmp_path / "no" / "file"), status=ExitCode.USAGE
        )
        assert "--tokens-to: cannot write" in line
        # Nothing was opened whose tokens would be lost.
        assert len((await shell.json("list"))["tunnelSummaries"]) == 1

    @pytest.mark.usefixtures("service")
    async def test_on_a_terminal(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shell: Shell
    ) -> None:
        # Not in a fixture: standard output is another object while the test runs.
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        kept = tmp_path / "tokens"
        out = await shell("open", "--service", "SSH", "--tokens-to", str(kept), "--tag", "k=v")
        tunnel_id = json.loads(kept.read_text())["tunnelId"]
        assert f"tunnel     {tunnel_id}" in out
        assert f"tokens in  {kept}" in out
        out = await shell("open", "--description", "the lamp")
        assert "source token       trt_" in out
        assert "destination token  trt_" in out
        out = await shell("list")
        heads, first, second = out.splitlines()
        assert heads.split() == ["TUNNEL", "STATUS", "OPENED", "DESCRIPTION"]
        assert first.endswith("  the lamp")
        assert second.startswith(f"{tunnel_id}  OPEN    20")
        out = await shell("describe", tunnel_id)
        assert "services     SSH" in out
        assert "tag          k=v" in out
        assert "source       DISCONNECTED, since 20" in out
        assert "thing" not in out
        assert await shell("close", tunnel_id) == ""
        assert json.loads(await shell("list", "--json"))["tunnelSummaries"]

    async def test_what_the_service_refuses(self, service: Service, shell: Shell) -> None:
        line = await shell("describe", "unknown", status=ExitCode.USAGE)
        assert "ResourceNotFoundException: Tunnel unknown does not exist" in line
        line = await shell("open", "--lifetime", "721", status=ExitCode.USAGE)
        assert "ValidationException" in line

    @pytest.mark.parametrize(
        ("argv", "said"),
        [
            (["open", "--tag", "novalue"], "--tag 'novalue' is not KEY=VALUE"),
            (["open", "--tag", "=x"], "is not KEY=VALUE"),
            (["open", "--thing", "lamp"], "--thing needs --service"),
            (["list", "--max", "0"], "--max must be at least 1"),
            (["list", "--ca-bundle", "/no/such/file"], "CA file /no/such/file"),
            (["list", "--endpoint-url", "http://x"], "is not https://HOST"),
        ],
    )
    async def test_wrong_arguments(
        self, service: Service, shell: Shell, argv: list[str], said: str
    ) -> None:
        assert said in await shell(*argv, status=ExitCode.USAGE)

    async def test_an_authority_that_is_not_trusted(
        self, service: Service, shell: Shell, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AWS_CA_BUNDLE")
        line = await shell("list", status=ExitCode.TLS)
        assert "the certificate does not verify: " in line

    async def test_nobody_answers(self, service: Service, shell: Shell) -> None:
        await service.stop()
        await shell("list", status=ExitCode.NETWORK)


class Cloud:
    """A control API that notes what it is asked and answers as told."""

    def __init__(self, directory: Path) -> None:
        self.requests: list[tuple[str, str, dict[str, Any]]] = []
        self.answer: tuple[int, dict[str, Any]] = (200, {})
        self.ca_file = directory / "cloud-ca.pem"
        self.url = ""

    @contextmanager
    def serving(self) -> Iterator["Cloud"]:
        cloud = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                target = self.headers["x-amz-target"].partition(".")[2]
                signer = self.headers["authorization"].partition("Credential=")[2]
                if self.headers["x-amz-security-token"]:
                    signer += " " + self.headers["x-amz-security-token"]
                cloud.requests.append((target, signer, body))
                status, document = cloud.answer
                content = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca_file)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
            server.socket = context.wrap_socket(server.socket, server_side=True)
            self.url = f"https://localhost:{server.server_address[1]}"
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    with Cloud(tmp_path).serving() as cloud:
        monkeypatch.setenv("AWS_ENDPOINT_URL", cloud.url)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(cloud.ca_file))
        yield cloud


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


PROFILES = "[default]\naws_access_key_id = AKFILE\naws_secret_access_key = s\n[other]\n" + (
    "aws_access_key_id = AKOTHER\naws_secret_access_key = s\naws_session_token = session\n"
)


class TestCloud:
    @pytest.mark.usefixtures("keys")
    async def test_rotating(self, cloud: Cloud, shell: Shell, tmp_path: Path) -> None:
        tokens = {"sourceAccessToken": "s-token", "destinationAccessToken": "d-token"}
        cloud.answer = (200, {"tunnelArn": "arn:x"} | tokens)
        rotated = await shell.json("rotate", "t1", "--region", "eu-west-1")
        assert rotated == {"tunnelId": "t1", "tunnelArn": "arn:x"} | tokens
        kept = tmp_path / "tokens"
        await shell(
            *("rotate", "t1", "--region", "eu-west-1", "--mode", "destination"),
            *("--thing", "lamp", "--tokens-to", str(kept)),
        )
        assert json.loads(kept.read_text()) == {"tunnelId": "t1"} | tokens
        first, second = cloud.requests
        assert first[0] == "RotateTunnelAccessToken"
        assert "/eu-west-1/IoTSecuredTunneling/aws4_request" in first[1]
        assert first[2] == {"tunnelId": "t1", "clientMode": "ALL"}
        assert second[2] == {
            "tunnelId": "t1",
            "clientMode": "DESTINATION",
            "destinationConfig": {"thingName": "lamp"},
        }

    @pytest.mark.usefixtures("keys")
    async def test_faults_of_the_service(self, cloud: Cloud, shell: Shell) -> None:
        cloud.answer = (500, {"__type": "InternalFailure", "message": "sorry"})
        await shell("list", "--region", "x", status=ExitCode.NETWORK)
        cloud.answer = (400, {"__type": "com.amazon#AccessDeniedException", "Message": "no"})
        line = await shell("list", "--region", "x", status=ExitCode.USAGE)
        assert line.endswith("AccessDeniedException: no")

    async def test_credentials_of_the_files(
        self, cloud: Cloud, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "aws-credentials").write_text(PROFILES)
        (tmp_path / "aws-config").write_text("[default]\nregion = eu-south-1\n")
        await shell("list")
        await shell("list", "--profile", "other", "--region", "eu-west-3")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKENV")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
        await shell("list")
        await shell("list", "--profile", "other")
        signers = [signer for _, signer, _ in cloud.requests]
        assert signers[0].startswith("AKFILE/")
        assert "/eu-south-1/" in signers[0]
        assert signers[1].startswith("AKOTHER/")
        assert signers[1].endswith(" session")
        assert "/eu-west-3/" in signers[1]
        assert signers[2].startswith("AKENV/")
        assert "/eu-north-1/" in signers[2]
        assert signers[3].startswith("AKOTHER/")

    async def test_missing_configuration(
        self, cloud: Cloud, shell: Shell, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert "no region" in await shell("list", status=ExitCode.USAGE)
        line = await shell("list", "--region", "x", status=ExitCode.USAGE)
        assert "tailrace env" in line
        line = await shell("list", "--profile", "nobody", status=ExitCode.USAGE)
        assert "nobody" in line
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        line = await shell("list", "--region", "x", status=ExitCode.USAGE)
        assert "nobody" in line

    async def test_without_boto3(
        self, cloud: Cloud, shell: Shell, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import importlib.util

        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        line = await shell("list", "--region", "x", status=ExitCode.USAGE)
        assert "set AWS_ACCESS_KEY_ID" in line
        line = await shell("list", "--profile", "p", status=ExitCode.USAGE)
        assert "--profile needs boto3" in line

    async def test_credentials_that_cannot_be_had(
        self, cloud: Cloud, shell: Shell, tmp_path: Path
    ) -> None:
        (tmp_path / "aws-credentials").write_text(
            "[default]\ncredential_process = /no/such/program\n"
        )
        line = await shell("list", "--region", "x", status=ExitCode.USAGE)
        assert "no credentials" in line


@pytest.mark.parametrize(
    ("region", "environment", "expected"),
    [
        ("eu-west-1", {}, "https://api.tunneling.iot.eu-west-1.amazonaws.com"),
        ("cn-north-1", {}, "https://api.tunneling.iot.cn-north-1.amazonaws.com.cn"),
        ("x", {"AWS_ENDPOINT_URL": "https://all"}, "https://all"),
        (
            "x",
            {"AWS_ENDPOINT_URL": "https://all", "AWS_ENDPOINT_URL_IOTSECURETUNNELING": "https://o"},
            "https://o",
        ),
    ],
)
def test_endpoints(region: str, environment: dict[str, str], expected: str) -> None:
    assert api_endpoint(region, environment) == expected


def test_endpoints_are_those_of_the_sdk() -> None:
    import boto3

    for region in ("us-east-1", "eu-central-1", "cn-northwest-1"):
        client = boto3.session.Session().client(
            "iotsecuretunneling",
            region_name=region,
            aws_access_key_id="a",
            aws_secret_access_key="b",
        )
        assert client.meta.endpoint_url == api_endpoint(region, {})
        client.close()


def test_nothing_heavy_is_imported() -> None:
    import subprocess

    code = (
        "import sys, tailrace.cli.tunnel; "
        "print({'boto3', 'starlette', 'picows', 'asyncio'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert result.stdout == "set()\n"
