"""The client of the control API: against the real service, and against servers that err."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.service import config, running
from tailrace.aws import ControlClient, Credentials
from tailrace.cli.exit_codes import ExitCode, exit_code_of
from tailrace.common.secret import Secret
from tailrace.errors import CallRefused, ConfigurationError, ControlError
from tailrace.service.config import Address, Endpoints

CREDENTIALS = Credentials("AKIDEXAMPLE", Secret("hidden-key"))
REGION = "us-east-1"
HANG = 20.0


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    authority = trustme.CA()
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    return authority, file


@pytest.fixture(autouse=True)
def _few_authorities(ca: tuple[trustme.CA, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust few authorities: to load those of the system takes longer than most tests."""
    authority = trustme.CA(organization_name="Somebody else")
    file = ca[1].with_name("system.pem")
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))


# -- the real service ------------------------------------------------------------------------


@pytest.fixture
async def endpoints(tmp_path: Path) -> AsyncIterator[Endpoints]:
    async with running(config(tmp_path)) as service:
        yield service.endpoints


def client_of(endpoints: Endpoints, **changes: Any) -> ControlClient:
    values: dict[str, Any] = {
        "endpoint": endpoints.api_endpoint,
        "region": endpoints.region,
        "credentials": Credentials(endpoints.access_key_id, Secret(endpoints.secret_access_key)),
        "ca_file": Path(endpoints.ca_file),
        "timeout": HANG,
    }
    return ControlClient(**(values | changes))


async def call(client: ControlClient, operation: str, **parameters: Any) -> dict[str, Any]:
    """Call without stopping the service, which lives in this loop."""
    return await asyncio.to_thread(client.call, operation, parameters)


async def test_a_tunnel_from_open_to_close(endpoints: Endpoints) -> None:
    client = client_of(endpoints)
    opened = await call(
        client,
        "OpenTunnel",
        description="caf\u00e9 \u2615",
        destinationConfig={"services": ["SSH", "HTTP"]},
        tags=[{"key": "a", "value": "b"}],
    )
    assert opened["sourceAccessToken"] != opened["destinationAccessToken"]
    found = await call(client, "DescribeTunnel", tunnelId=opened["tunnelId"])
    assert found["tunnel"]["description"] == "caf\u00e9 \u2615"
    assert found["tunnel"]["status"] == "OPEN"
    assert await call(client, "CloseTunnel", tunnelId=opened["tunnelId"]) == {}
    found = await call(client, "DescribeTunnel", tunnelId=opened["tunnelId"])
    assert found["tunnel"]["status"] == "CLOSED"


async def test_an_ipv6_endpoint(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no ::1")
    async with running(config(tmp_path, api_listen=Address("::1", 0))) as service:
        assert "[::1]" in service.endpoints.api_endpoint
        assert "tunnelSummaries" in await call(client_of(service.endpoints), "ListTunnels")


@pytest.mark.parametrize(
    ("operation", "parameters", "code"),
    [
        ("DescribeTunnel", {"tunnelId": "none"}, "ResourceNotFoundException"),
        ("OpenTunnel", {"description": ""}, "ValidationException"),
        ("MakeCoffee", {}, "UnknownOperationException"),
    ],
)
async def test_refusals(
    endpoints: Endpoints, operation: str, parameters: dict[str, Any], code: str
) -> None:
    with pytest.raises(CallRefused) as caught:
        await call(client_of(endpoints), operation, **parameters)
    assert caught.value.code == code
    assert str(caught.value).startswith(f"{code}: ")
    assert exit_code_of(caught.value) is ExitCode.USAGE


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"credentials": CREDENTIALS}, "UnrecognizedClientException"),
        ({"region": "eu-west-1"}, "InvalidSignatureException"),
    ],
)
async def test_who_may_not(endpoints: Endpoints, changes: dict[str, Any], code: str) -> None:
    with pytest.raises(ControlError) as caught:
        await call(client_of(endpoints, **changes), "ListTunnels")
    assert caught.value.code == code


async def test_a_wrong_key(endpoints: Endpoints) -> None:
    wrong = Credentials(endpoints.access_key_id, Secret("wrong"))
    with pytest.raises(ControlError) as caught:
        await call(client_of(endpoints, credentials=wrong), "ListTunnels")
    assert caught.value.code == "InvalidSignatureException"


async def test_a_session_token_is_sent(endpoints: Endpoints) -> None:
    """The service knows none, and says so."""
    temporary = Credentials(
        endpoints.access_key_id, Secret(endpoints.secret_access_key), Secret("session-token")
    )
    with pytest.raises(ControlError) as caught:
        await call(client_of(endpoints, credentials=temporary), "ListTunnels")
    assert caught.value.code == "UnrecognizedClientException"
    assert "session-token" not in str(caught.value)


@pytest.mark.parametrize("ca_file", [None, "other"])
async def test_an_unknown_authority(
    endpoints: Endpoints, ca: tuple[trustme.CA, Path], ca_file: str | None
) -> None:
    client = client_of(endpoints, ca_file=ca[1] if ca_file else None)
    with pytest.raises(ControlError, match="the certificate does not verify: ") as caught:
        await call(client, "ListTunnels")
    assert str(caught.value).startswith(f"ListTunnels at {endpoints.api_endpoint}: ")
    assert caught.value.code == ""
    assert exit_code_of(caught.value) is ExitCode.TLS


# -- servers that err ------------------------------------------------------------------------


@dataclass
class Server:
    """A small HTTPS server that answers everything alike."""

    port: int
    requests: list[dict[str, str]] = field(default_factory=list)
    """The header fields of each request, names in lower case."""


@contextmanager
def answering(
    ca: tuple[trustme.CA, Path], status: int, body: bytes, *, raw: bool = False, host: str = ""
) -> Iterator[Server]:
    """A server in a thread; ``raw`` sends the body as it is, in place of an answer."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            server.requests.append({name.lower(): value for name, value in self.headers.items()})
            self.rfile.read(int(self.headers["Content-Length"]))
            if not raw:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Quiet(http.server.HTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca[0].issue_cert(host or "localhost").configure_cert(context)
    httpd = Quiet(("127.0.0.1", 0), Handler)
    httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    server = Server(httpd.server_port)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def client_at(port: int, ca: tuple[trustme.CA, Path], **changes: Any) -> ControlClient:
    values: dict[str, Any] = {"ca_file": ca[1], "timeout": HANG}
    return ControlClient(
        f"https://localhost:{port}",
        REGION,
        changes.pop("credentials", CREDENTIALS),
        **(values | changes),
    )


def test_what_is_sent(ca: tuple[trustme.CA, Path]) -> None:
    temporary = Credentials("AKID", Secret("hidden-key"), Secret("session-token"))
    with answering(ca, 200, b'{"a": 1}') as server:
        client = client_at(server.port, ca, credentials=temporary)
        assert client.call("ListTunnels", {"maxResults": 3}) == {"a": 1}
    (headers,) = server.requests
    assert headers["host"] == f"localhost:{server.port}"
    assert headers["x-amz-target"] == "IoTSecuredTunneling.ListTunnels"
    assert headers["content-type"] == "application/x-amz-json-1.1"
    assert headers["x-amz-security-token"] == "session-token"
    assert (
        "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target"
        in (headers["authorization"])
    )
    assert "hidden-key" not in str(headers)


async def test_a_call_where_a_loop_runs(ca: tuple[trustme.CA, Path]) -> None:
    with answering(ca, 200, b'{"a": 1}') as server:
        assert client_at(server.port, ca).call("ListTunnels", {}) == {"a": 1}


def test_an_empty_answer_is_an_empty_object(ca: tuple[trustme.CA, Path]) -> None:
    with answering(ca, 200, b"") as server:
        assert client_at(server.port, ca).call("CloseTunnel", {}) == {}


SHAPES = [
    ({"__type": "LimitExceededException", "message": "too many"}, "LimitExceededException"),
    (
        {"__type": "com.amazonaws.iot#LimitExceededException", "message": "too many"},
        "LimitExceededException",
    ),
    ({"__type": "X#Y#LimitExceededException", "Message": "too many"}, "LimitExceededException"),
]


@pytest.mark.parametrize(("shape", "code"), SHAPES)
def test_shapes_of_errors(ca: tuple[trustme.CA, Path], shape: dict[str, Any], code: str) -> None:
    with (
        answering(ca, 400, json.dumps(shape).encode()) as server,
        pytest.raises(CallRefused) as caught,
    ):
        client_at(server.port, ca).call("OpenTunnel", {})
    assert caught.value.code == code
    assert str(caught.value) == f"{code}: too many"


@pytest.mark.parametrize(
    ("status", "code"),
    [(500, "ResourceNotFoundException"), (400, "ThrottlingException"), (503, "ServiceUnavailable")],
)
def test_faults_of_the_service_are_no_refusals(
    ca: tuple[trustme.CA, Path], status: int, code: str
) -> None:
    body = json.dumps({"__type": code, "message": "sorry"}).encode()
    with answering(ca, status, body) as server, pytest.raises(ControlError) as caught:
        client_at(server.port, ca).call("OpenTunnel", {})
    assert caught.value.code == code
    assert exit_code_of(caught.value) is ExitCode.NETWORK


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ({}, "500: no reason given"),
        ({"message": ""}, "500: no reason given"),
        ({"message": None, "Message": "m"}, "500: m"),
        ({"__type": "T", "message": "two\r\nlines\t"}, "T: two lines"),
        ({"__type": 7, "message": ["x"]}, "7: ['x']"),
    ],
)
def test_odd_errors(ca: tuple[trustme.CA, Path], shape: dict[str, Any], text: str) -> None:
    with (
        answering(ca, 500, json.dumps(shape).encode()) as server,
        pytest.raises(ControlError) as caught,
    ):
        client_at(server.port, ca).call("OpenTunnel", {})
    assert str(caught.value) == text


@pytest.mark.parametrize("status", [200, 403, 502])
@pytest.mark.parametrize(
    "body", [b"<html>Bad Gateway</html>", b"[]", b"null", b'"x"', b"\xff", b"[" * 100_000]
)
def test_an_answer_without_an_object(ca: tuple[trustme.CA, Path], status: int, body: bytes) -> None:
    with answering(ca, status, body) as server, pytest.raises(ControlError) as caught:
        client_at(server.port, ca).call("ListTunnels", {})
    assert str(caught.value) == (
        f"ListTunnels at https://localhost:{server.port}: response {status} without a JSON object"
    )
    assert caught.value.code == ""


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_answer(ca: tuple[trustme.CA, Path], body: bytes) -> None:
    with answering(ca, 0, body, raw=True) as server, pytest.raises(ControlError) as caught:
        client_at(server.port, ca).call("ListTunnels", {})
    assert str(caught.value).startswith(f"ListTunnels at https://localhost:{server.port}: ")
    assert not str(caught.value).endswith(": ")
    assert exit_code_of(caught.value) is ExitCode.NETWORK


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200), head=st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n"]))
def test_any_bytes_give_the_documented_error_or_an_object(
    shared: Callable[[bytes], ControlClient], head: bytes, body: bytes
) -> None:
    with suppress(ControlError):
        assert isinstance(shared(head + body).call("ListTunnels", {}), dict)


@pytest.fixture
def shared(ca: tuple[trustme.CA, Path]) -> Iterator[Callable[[bytes], ControlClient]]:
    """Make a client of a server that answers the given bytes."""
    with ExitStack() as stack:

        def make(body: bytes) -> ControlClient:
            stack.close()
            server = stack.enter_context(answering(ca, 0, body, raw=True))
            return client_at(server.port, ca)

        yield make


def test_a_certificate_of_another_host(ca: tuple[trustme.CA, Path]) -> None:
    with (
        answering(ca, 200, b"{}", host="elsewhere.example") as server,
        pytest.raises(ControlError, match="Hostname mismatch") as caught,
    ):
        client_at(server.port, ca).call("ListTunnels", {})
    assert exit_code_of(caught.value) is ExitCode.TLS


def test_no_tls_at_the_other_end(ca: tuple[trustme.CA, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            accepted, _ = listener.accept()
            with accepted:
                accepted.recv(10_000)
                accepted.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ControlError, match=r"(?i)wrong.version.number") as caught:
            client_at(listener.getsockname()[1], ca).call("ListTunnels", {})
        thread.join()
    assert exit_code_of(caught.value) is ExitCode.NETWORK


def test_nobody_listens(ca: tuple[trustme.CA, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ControlError) as caught:
        client_at(port, ca).call("ListTunnels", {})
    assert str(caught.value) == (
        f"ListTunnels at https://localhost:{port}: cannot connect to localhost:{port}: "
        f"127.0.0.1:{port}: Connection refused"
    )
    assert caught.value.code == ""


def test_silence(ca: tuple[trustme.CA, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = client_at(listener.getsockname()[1], ca, timeout=0.2)
        with pytest.raises(ControlError, match="timed out"):
            client.call("ListTunnels", {})


def test_a_name_that_cannot_be(ca: tuple[trustme.CA, Path]) -> None:
    client = ControlClient(f"https://{'a' * 64}.example", REGION, CREDENTIALS, ca[1])
    with pytest.raises(ControlError, match=r"^ListTunnels at https://a+\.example: "):
        client.call("ListTunnels", {})


# -- configuration ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "localhost:7443",
        "http://localhost:7443",
        "https://",
        "https://:7443",
        "https://localhost:port",
        "https://localhost:99999",
        "https://localhost:0",
        "https://[::1",
        "https://localhost/path",
        "https://localhost?a=b",
        "https://b\u00fccher.example",
        "https://local\nhost",
        "https://local host",
    ],
)
def test_an_endpoint_that_is_none(endpoint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ControlClient(endpoint, REGION, CREDENTIALS)
    assert str(caught.value) == (f"endpoint {endpoint!r} is not https://HOST or https://HOST:PORT")


def test_an_endpoint_with_a_password_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="'localhost'") as caught:
        ControlClient("https://user:hidden@localhost", REGION, CREDENTIALS)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("region", ["", "us east", "us-east-1\r\nx: y", "a" * 65, "r\u00e9gion"])
def test_a_region_that_is_none(region: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ControlClient("https://localhost", region, CREDENTIALS)
    assert str(caught.value) == f"region {region!r} is not the name of a region"


@pytest.mark.parametrize(
    "endpoint", ["https://localhost", "HTTPS://Localhost:443/", "https://[::1]:1"]
)
def test_an_endpoint(endpoint: str) -> None:
    ControlClient(endpoint, REGION, CREDENTIALS)


@pytest.mark.parametrize("kind", ["missing", "junk", "directory"])
def test_a_ca_file_that_is_none(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "ca.pem"
    if kind == "junk":
        file.write_text("junk")
    elif kind == "directory":
        file.mkdir()
    with pytest.raises(ConfigurationError, match=f"^CA file {file}: ") as caught:
        ControlClient("https://localhost", REGION, CREDENTIALS, file)
    said = {"missing": os.strerror(2), "junk": "no certificate in PEM"}.get(kind, "")
    assert str(caught.value).startswith(f"CA file {file}: {said}")
    assert "_ssl" not in str(caught.value)
