"""``tailrace tunnel`` against a running service, and as AWS would see it."""

import asyncio
import http.server
import json
import os
import re
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

from support.network.ports import free_port
from support.network.web_proxies import proxy_server, socks_greeting
from support.processes.child import installed
from support.service import config, dial, running
from support.service.shell import Shell, clear_environment, use_service
from tailrace.cli.exit_codes import ExitCode
from tailrace.service.tunneling_service import TunnelingService


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clear_environment(monkeypatch, tmp_path)


@pytest.fixture
async def service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[TunnelingService]:
    async with running(config(tmp_path / "state")) as service:
        use_service(monkeypatch, service.endpoints)
        yield service


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


class TestService:
    async def test_from_opening_to_closing(self, service: TunnelingService, shell: Shell) -> None:
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

    async def test_all_pages(self, service: TunnelingService, shell: Shell) -> None:
        from tailrace.service.tunnels.rules import TunnelSpec

        for _ in range(230):
            service._running.control.open_tunnel(TunnelSpec())
        listed = (await shell.json("list"))["tunnelSummaries"]
        assert len({summary["tunnelId"] for summary in listed}) == 230
        assert len((await shell.json("list", "--max", "150"))["tunnelSummaries"]) == 150

    async def test_tokens_to_files(
        self, service: TunnelingService, shell: Shell, tmp_path: Path
    ) -> None:
        kept = tmp_path / "new" / "tokens"
        opened = await shell.json("open", "--tokens-to", str(kept))
        assert set(opened) == {"tunnelId", "tunnelArn"}
        assert stat.S_IMODE(kept.stat().st_mode) == 0o700
        files = {path.name: path for path in kept.iterdir()}
        assert set(files) == {"source.token", "destination.token"}
        assert {stat.S_IMODE(path.stat().st_mode) for path in files.values()} == {0o600}
        for side in ("source", "destination"):
            token = files[f"{side}.token"].read_text()
            assert token.endswith("\n")
            async with dial(service.endpoints, side, token.strip()):
                pass
        before = files["destination.token"].read_text()
        await shell("rotate", opened["tunnelId"], "--mode", "source", "--tokens-to", str(kept))
        assert files["source.token"].read_text() != token
        assert files["destination.token"].read_text() == before

    @pytest.mark.parametrize("kind", ["file", "below"])
    async def test_tokens_that_cannot_be_saved(
        self, service: TunnelingService, shell: Shell, tmp_path: Path, kind: str
    ) -> None:
        """Nothing is opened whose tokens would be lost."""
        (tmp_path / "file").write_text("")
        where = tmp_path / "file" if kind == "file" else tmp_path / "file" / "directory"
        line = await shell("open", "--tokens-to", str(where), status=ExitCode.USAGE)
        if kind == "file":
            assert f"--tokens-to: {where} is a file; name a directory" in line
        else:
            assert f"--tokens-to: cannot write to {where}: Not a directory" in line
        assert (await shell.json("list"))["tunnelSummaries"] == []

    async def test_tokens_that_are_lost_all_the_same(
        self, service: TunnelingService, shell: Shell, tmp_path: Path
    ) -> None:
        for name in ("source.token", "destination.token"):
            (tmp_path / name).mkdir()
        line = await shell("open", "--tokens-to", str(tmp_path), status=ExitCode.USAGE)
        (summary,) = (await shell.json("list"))["tunnelSummaries"]
        assert line.endswith(f"get another one: tailrace tunnel rotate {summary['tunnelId']}")
        assert "trt_" not in line

    @pytest.mark.usefixtures("service")
    async def test_on_a_terminal(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shell: Shell
    ) -> None:
        # Not in a fixture: standard output is another object while the test runs.
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        kept = tmp_path / "tokens"
        out = await shell("open", "--service", "SSH", "--tokens-to", str(kept), "--tag", "k=v")
        tunnel_id = re.search(r"^tunnel +(\S+)$", out, re.MULTILINE)[1]
        assert f"source token       {kept}/source.token" in out
        assert f"destination token  {kept}/destination.token" in out
        out = await shell("open", "--description", "the lamp")
        assert "source token       trt_" in out
        assert "destination token  trt_" in out
        out = await shell("list")
        heads, first, second = out.splitlines()
        assert heads.split()[:3] == ["TUNNEL", "STATUS", "THING"]
        assert first.endswith("  the lamp")
        assert second.startswith(f"{tunnel_id[:8]}  OPEN    -      SSH")
        out = await shell("describe", tunnel_id)
        assert "services     SSH" in out
        assert "tag          k=v" in out
        assert "source       DISCONNECTED, since 20" in out
        assert "left         11 h 59 min" in out
        assert "thing" not in out
        assert await shell("close", tunnel_id) == ""
        assert json.loads(await shell("list", "--json"))["tunnelSummaries"]

    async def test_the_beginning_of_an_id(
        self, service: TunnelingService, monkeypatch: pytest.MonkeyPatch, shell: Shell
    ) -> None:
        ids = [(await shell.json("open", "--service", "SSH"))["tunnelId"] for _ in range(2)]
        short = [each[:8] for each in ids]
        described = await shell.json("describe", short[0])
        assert described["tunnel"]["tunnelId"] == ids[0]
        rotated = await shell.json("rotate", short[0], "--mode", "source")
        assert rotated["tunnelId"] == ids[0]
        assert "sourceAccessToken" in rotated
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        first, *_ = (await shell("describe", short[0])).splitlines()
        assert first.split() == ["tunnel", ids[0]]
        assert await shell("close", *short) == f"closed {ids[0]}\nclosed {ids[1]}\n"
        line = await shell("describe", "xyz", status=ExitCode.USAGE)
        assert line.endswith("Tunnel xyz does not exist; none begins so, no tunnel is open")

    async def test_what_to_do_next(
        self, service: TunnelingService, monkeypatch: pytest.MonkeyPatch, shell: Shell
    ) -> None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        out = await shell("open", "--service", "SSH", "--thing", "pump-7")
        token = re.search(r"^source token +(\S+)$", out, re.MULTILINE)[1]
        blank, here, source, there, destination, hint = out.splitlines()[-6:]
        assert (blank, here) == ("", "Next, on this machine:")
        assert source == (
            f"  AWSIOT_TUNNEL_ACCESS_TOKEN={token} localproxy -e HOST:PORT -s SSH=5555"
        )
        assert there.startswith("and on pump-7, unless its agent")
        assert destination.endswith(" localproxy -e HOST:PORT -d SSH=localhost:22")
        assert hint == "HOST:PORT is the data endpoint of the service."
        monkeypatch.setenv("AWSIOT_TUNNEL_ENDPOINT", "tunnel.example:7444")
        monkeypatch.setenv("SSL_CERT_FILE", "/my certs.pem")
        out = await shell("open")
        assert out.count("localproxy -e tunnel.example:7444 -c '/my certs.pem' -") == 2

    async def test_what_the_service_refuses(self, service: TunnelingService, shell: Shell) -> None:
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
            (["list", "--max", "two"], "argument --max: 'two' is not a whole number"),
            (["open", "--lifetime", "2h"], "'2h' has a unit; write minutes: --lifetime 120"),
            (["open", "--lifetime", "90M"], "'90M' has a unit; write minutes: --lifetime 90"),
            (["open", "--lifetime", "1s"], "'1s' has a unit; write minutes: --lifetime 1"),
            (["open", "--lifetime", "-1"], "'-1' is not a whole number"),
            (["open", "--lifetime", "h"], "'h' is not a whole number"),
            (
                ["open", "--service", "SSH, HTTP"],
                "'SSH, HTTP' is more than one id; write --service SSH --service HTTP",
            ),
            (["list", "--ca-bundle", "/no/such/file"], "CA file /no/such/file"),
            (["list", "--endpoint-url", "http://x"], "is not https://HOST"),
        ],
    )
    async def test_wrong_arguments(
        self, service: TunnelingService, shell: Shell, argv: list[str], said: str
    ) -> None:
        assert said in await shell(*argv, status=ExitCode.USAGE)

    async def test_an_authority_that_is_not_trusted(
        self, service: TunnelingService, shell: Shell, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AWS_CA_BUNDLE")
        line = await shell("list", status=ExitCode.TLS)
        assert "the certificate does not verify: " in line

    async def test_nobody_answers(self, service: TunnelingService, shell: Shell) -> None:
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
        self.server_context = context
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
        assert (kept / "source.token").read_text() == "s-token\n"
        assert (kept / "destination.token").read_text() == "d-token\n"
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

    @pytest.mark.usefixtures("keys")
    @pytest.mark.parametrize(
        ("argv", "document"),
        [
            (["list"], {"tunnelSummaries": ["t"]}),
            (["list"], {"tunnelSummaries": [{"tunnelId": "t", "status": "OPEN"}]}),
            (["list"], {"tunnelSummaries": {"tunnelId": "t"}}),
            (["describe", "t"], {}),
            (["describe", "t"], {"tunnel": {"tunnelId": "t", "destinationConfig": []}}),
        ],
    )
    async def test_a_response_that_makes_no_sense(
        self,
        cloud: Cloud,
        shell: Shell,
        monkeypatch: pytest.MonkeyPatch,
        argv: list[str],
        document: dict[str, Any],
    ) -> None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        cloud.answer = (200, document)
        line = await shell(*argv, "--region", "x", status=ExitCode.NETWORK)
        assert re.search("the response (makes no sense|has no list)", line)

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
        self, cloud: Cloud, shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        import importlib.util

        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        line = await shell("list", "--region", "x", status=ExitCode.USAGE)
        assert "set AWS_ACCESS_KEY_ID" in line
        (tmp_path / "aws-config").write_text("[profile p]\n")
        line = await shell("list", "--region", "x", "--profile", "p", status=ExitCode.USAGE)
        assert "the profile has no access key, and other sources" in line
        assert "need the package boto3: " in line
        (tmp_path / "aws-credentials").write_text(PROFILES)
        await shell("list", "--region", "x", "--profile", "other")
        assert cloud.requests[-1][1].startswith("AKOTHER/")

    @pytest.mark.usefixtures("keys")
    @pytest.mark.parametrize(
        "config",
        [
            "[default]\nendpoint_url = URL\nca_bundle = CA\n",
            "[default]\nservices = s\nca_bundle = CA\n[services s]\niotsecuretunneling =\n"
            "  endpoint_url = URL\n",
        ],
    )
    async def test_the_endpoint_of_the_profile(
        self,
        cloud: Cloud,
        shell: Shell,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        config: str,
    ) -> None:
        """With the credentials of the environment, too: never to AWS."""
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        monkeypatch.delenv("AWS_CA_BUNDLE")
        config = config.replace("URL", cloud.url).replace("CA", str(cloud.ca_file))
        (tmp_path / "aws-config").write_text(config)
        await shell("list", "--region", "x")
        (tmp_path / "aws-config").write_text(config.replace("[default]", "[profile p]"))
        monkeypatch.setenv("AWS_PROFILE", "p")
        await shell("list", "--region", "x")
        assert len(cloud.requests) == 2
        # Nor where the file cannot be made sense of.
        (tmp_path / "aws-config").write_text(config + "nonsense\n")
        line = await shell("list", "--region", "x", status=ExitCode.USAGE)
        assert "aws-config is not valid" in line

    @pytest.mark.parametrize(
        ("process", "said"),
        [
            ("/no/such/program", "No such file or directory: '/no/such/program'"),
            ("'", "No closing quotation"),
            ("false", "Error when retrieving credentials from custom-process"),
            ("sh -c 'seq 1000 >&2; exit 1'", "1 2 3 4"),
            ("sh -c 'printf \"\\033[31m\" >&2; exit 1'", "\\x1b[31m"),
            ("true", "gives what is none (Expecting value"),
            ("echo []", "gives what is none ("),
            ("printf '\\377'", "gives what is none ("),
            ('echo {\\"Version\\":1}', "Missing required key"),
            (
                'echo {\\"Version\\":1,\\"AccessKeyId\\":1,\\"SecretAccessKey\\":null}',
                "gives what is none (",
            ),
        ],
    )
    async def test_credentials_that_cannot_be_had(
        self, cloud: Cloud, shell: Shell, tmp_path: Path, process: str, said: str
    ) -> None:
        (tmp_path / "aws-config").write_text(f"[default]\ncredential_process = {process}\n")
        line = await shell("list", "--region", "x", status=ExitCode.USAGE)
        assert ": no credentials: " in line
        assert said in line
        assert len(line) < 500


class TestWebProxy:
    """``HTTPS_PROXY`` and ``NO_PROXY``, as for ``localproxy``."""

    @pytest.fixture(autouse=True)
    def _keys(self, keys: None) -> None:
        pass

    @pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY"])
    async def test_an_http_proxy(
        self, cloud: Cloud, shell: Shell, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        async with proxy_server() as proxy:
            monkeypatch.setenv(variable, f"http://user:hidden@127.0.0.1:{proxy.port}")
            await shell("list", "--region", "x")
        (request,) = proxy.requests
        assert request.startswith(f"CONNECT {cloud.url.removeprefix('https://')} HTTP/1.1\r\n")
        assert "Proxy-Authorization: Basic dXNlcjpoaWRkZW4=" in request
        assert len(cloud.requests) == 1

    async def test_a_socks_proxy(
        self, cloud: Cloud, shell: Shell, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("python_socks")
        async with proxy_server(socks_greeting()) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"socks5h://127.0.0.1:{proxy.port}")
            await shell("list", "--region", "x")
        assert proxy.requests == [cloud.url.removeprefix("https://")]

    async def test_a_proxy_with_tls(self, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
        """As a process: it ends without waiting for the proxy to close."""
        async with proxy_server(tls=cloud.server_context) as proxy:
            child = await asyncio.create_subprocess_exec(
                *(installed("tailrace"), "tunnel", "list", "--region", "x"),
                env={**os.environ, "HTTPS_PROXY": f"https://localhost:{proxy.port}"},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, err = await child.communicate()
        assert child.returncode == ExitCode.OK
        assert err.decode() == ""
        assert json.loads(out) == {"tunnelSummaries": []}
        assert len(proxy.requests) == 1

    async def test_no_proxy(
        self, cloud: Cloud, shell: Shell, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("NO_PROXY", "localhost")
        await shell("list", "--region", "x")
        assert len(cloud.requests) == 1

    @pytest.mark.usefixtures("cloud")
    async def test_a_proxy_that_refuses(
        self, shell: Shell, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def refuse(_proxy: object, reader: asyncio.StreamReader, writer: Any) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 407 no\r\nContent-Length: 0\r\n\r\n")
            raise ConnectionAbortedError

        async with proxy_server(refuse) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
            line = await shell("list", "--region", "x", status=ExitCode.NETWORK)
        assert "the proxy wants a user and a password" in line

    @pytest.mark.usefixtures("cloud")
    async def test_a_proxy_that_is_none(
        self, shell: Shell, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
        line = await shell("list", "--region", "x", status=ExitCode.NETWORK)
        assert "web proxy http://127.0.0.1:" in line
        monkeypatch.setenv("HTTPS_PROXY", "http://user:hidden@:1")
        line = await shell("list", "--region", "x", status=ExitCode.USAGE)
        assert "environment variable HTTPS_PROXY: The host is missing" in line
        assert "hidden" not in line


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
