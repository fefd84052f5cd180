"""The HTTP side of the control API: what is not an orderly SDK request."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from support.service import api, config, running, trust
from support.waiting import HANG
from tailrace.common.log_floods import FloodFilter
from tailrace.service.api.model import OPERATIONS
from tailrace.service.config import DataSettings, OperationSettings
from tailrace.service.errors import StoreFailed
from tailrace.service.identity.key_store import KeyFile, credentials_file, new_key
from tailrace.service.identity.policy import AccessKey, Policy
from tailrace.service.limits import DEFAULT, Limits
from tailrace.service.tunneling_service import TunnelingService


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[TunnelingService]:
    async with running(config(tmp_path / "state")) as service:
        yield service


@pytest.fixture
async def http(service: TunnelingService) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=service.endpoints.api_endpoint, verify=trust(service.endpoints), trust_env=False
    ) as client:
        yield client


def signed(
    service: TunnelingService,
    target: str,
    body: bytes,
    key: AccessKey | None = None,
    host: str | None = None,
    **more: str,
) -> dict[str, str]:
    endpoints = service.endpoints
    request = AWSRequest("POST", f"{host or endpoints.api_endpoint}/", data=body)
    request.headers["X-Amz-Target"] = target
    for name, value in more.items():
        request.headers[name] = value
    credentials = Credentials(endpoints.access_key_id, endpoints.secret_access_key)
    if key is not None:
        credentials = Credentials(key.access_key_id, key.secret_access_key.reveal())
    SigV4Auth(credentials, "IoTSecuredTunneling", endpoints.region).add_auth(request)
    return dict(request.headers.items())


def host_signed(*args: Any, **more: str) -> dict[str, str]:
    """The same for the host that a :class:`Connection` names."""
    return signed(*args, host="https://localhost", **more)


def check_error(answer: httpx.Response, status: int, type_: str) -> None:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/x-amz-json-1.1"
    assert answer.headers["x-amzn-errortype"] == type_
    assert answer.headers["x-amzn-requestid"]
    assert answer.json()["__type"] == type_
    assert answer.json()["message"]


async def test_a_signed_request(service: TunnelingService, http: httpx.AsyncClient) -> None:
    headers = signed(service, "IoTSecuredTunneling.ListTunnels", b"{}")
    answer = await http.post("/", content=b"{}", headers=headers)
    assert answer.status_code == 200
    assert answer.json() == {"tunnelSummaries": []}
    assert answer.headers["content-type"] == "application/x-amz-json-1.1"
    assert answer.headers["x-amzn-requestid"]


async def test_a_flipped_byte_of_the_signature(
    service: TunnelingService, http: httpx.AsyncClient
) -> None:
    headers = signed(service, "IoTSecuredTunneling.ListTunnels", b"{}")
    last = headers["Authorization"][-1]
    headers["Authorization"] = headers["Authorization"][:-1] + ("0" if last != "0" else "1")
    check_error(
        await http.post("/", content=b"{}", headers=headers), 403, "InvalidSignatureException"
    )


async def test_a_changed_body(service: TunnelingService, http: httpx.AsyncClient) -> None:
    headers = signed(service, OPEN, b"{}")
    answer = await http.post("/", content=b"{ }", headers=headers)
    check_error(answer, 403, "InvalidSignatureException")


async def test_no_signature(http: httpx.AsyncClient) -> None:
    answer = await http.post("/", content=b"{}")
    check_error(answer, 403, "MissingAuthenticationTokenException")


@pytest.mark.parametrize("target", ["IoTSecuredTunneling.Fly", "Other.ListTunnels", ""])
async def test_unknown_operations(
    service: TunnelingService, http: httpx.AsyncClient, target: str
) -> None:
    headers = signed(service, target, b"{}")
    answer = await http.post("/", content=b"{}", headers=headers)
    check_error(answer, 404, "UnknownOperationException")


async def test_not_json(service: TunnelingService, http: httpx.AsyncClient) -> None:
    headers = signed(service, "IoTSecuredTunneling.ListTunnels", b"{")
    answer = await http.post("/", content=b"{", headers=headers)
    check_error(answer, 400, "SerializationException")


async def test_other_paths_and_methods(http: httpx.AsyncClient) -> None:
    check_error(await http.get("/"), 404, "UnknownOperationException")
    check_error(await http.post("/x"), 404, "UnknownOperationException")


async def test_a_body_without_end(http: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(DEFAULT.request_bytes // 65536 + 1):
            yield bytes(65536)

    answer = await http.post("/", content=endless())
    check_error(answer, 411, "MissingContentLength")


@asynccontextmanager
async def connected(service: TunnelingService) -> AsyncIterator[Connection]:
    host, _, port = service.endpoints.api_endpoint.removeprefix("https://").rpartition(":")
    reader, writer = await asyncio.open_connection(
        host, int(port), ssl=trust(service.endpoints), server_hostname=host
    )
    try:
        yield Connection(reader, writer)
    finally:
        writer.transport.abort()


@dataclass
class Connection:
    """A connection on which heads and bodies are sent one by one."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    is_last: bool = False
    """Whether an answer said that the connection will be closed."""

    def send_head(self, headers: dict[str, str], size: int) -> None:
        fields = {"Host": "localhost", **headers, "Content-Length": str(size)}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.writer.write(f"POST / HTTP/1.1\r\n{lines}\r\n".encode())

    async def answer(self) -> tuple[int, str]:
        """Return status and type of error."""
        async with asyncio.timeout(HANG):
            head = await self.reader.readuntil(b"\r\n\r\n")
            fields = dict(line.split(b": ") for line in head.splitlines()[1:-1])
            body = await self.reader.readexactly(int(fields[b"content-length"]))
        self.is_last = fields.get(b"connection") == b"close"
        return int(head.split()[1]), json.loads(body)["__type"]

    async def final_answer(self) -> tuple[int, str]:
        """Return the same, and see the connection closed."""
        answer = await self.answer()
        assert self.is_last
        async with asyncio.timeout(HANG):
            assert await self.reader.read() == b""
        return answer


FULL = DEFAULT.request_bytes


class TestHeads:
    """What a head says against a request is answered before the body comes."""

    async def test_no_signature(self, service: TunnelingService) -> None:
        async with connected(service) as connection:
            connection.send_head({}, FULL)
            assert await connection.final_answer() == (403, "MissingAuthenticationTokenException")

    async def test_too_long(self, service: TunnelingService) -> None:
        async with connected(service) as connection:
            connection.send_head(host_signed(service, LIST, b"{}"), FULL + 1)
            assert await connection.final_answer() == (413, "RequestEntityTooLargeException")

    async def test_unknown_key(self, service: TunnelingService) -> None:
        async with connected(service) as connection:
            connection.send_head(host_signed(service, LIST, b"{}", new_key("other", 1.0)), FULL)
            assert await connection.final_answer() == (403, "UnrecognizedClientException")

    async def test_unknown_operation(self, service: TunnelingService) -> None:
        async with connected(service) as connection:
            connection.send_head(host_signed(service, "IoTSecuredTunneling.Fly", b"{}"), FULL)
            assert await connection.final_answer() == (404, "UnknownOperationException")

    async def test_a_signature_with_the_hash_of_the_body(self, service: TunnelingService) -> None:
        """As the SDK for JavaScript sends it: right or wrong without the body."""
        body = b"{}"
        hashed = {"X-Amz-Content-Sha256": hashlib.sha256(body).hexdigest()}
        headers = host_signed(service, LIST, body, **hashed)
        async with connected(service) as connection:
            wrong = headers["Authorization"][:-4] + "beef"
            connection.send_head(headers | {"Authorization": wrong}, 2)
            assert await connection.final_answer() == (403, "InvalidSignatureException")
        for sent, status in ((body, b"200"), (b"[]", b"403")):
            async with connected(service) as connection:
                connection.send_head(headers, 2)
                connection.writer.write(sent)
                async with asyncio.timeout(HANG):
                    assert (await connection.reader.readline()).split()[1] == status

    async def test_expect(self, service: TunnelingService) -> None:
        """A client that waits for leave to send a body gets it, or the refusal."""
        expect = {"Expect": "100-continue"}
        async with connected(service) as connection:
            connection.send_head(expect, FULL)
            assert await connection.final_answer() == (403, "MissingAuthenticationTokenException")
        async with connected(service) as connection:
            connection.send_head(host_signed(service, LIST, b"{}") | expect, 2)
            async with asyncio.timeout(HANG):
                assert (await connection.reader.readuntil(b"\r\n\r\n")).split()[1] == b"100"
                connection.writer.write(b"{}")
                assert (await connection.reader.readline()).split()[1] == b"200"

    async def test_a_body_that_comes_all_the_same(
        self, service: TunnelingService, http: httpx.AsyncClient
    ) -> None:
        """As most clients send it, and then read: they get the answer, not a reset."""
        answer = await http.post("/", content=bytes(FULL))
        check_error(answer, 403, "MissingAuthenticationTokenException")


async def test_bodies_of_strangers_are_bounded(tmp_path: Path) -> None:
    """Strangers who know a key's id may send large bodies, but few, and shut nobody out."""
    async with served(tmp_path, request_bytes=10_000) as (service, http):
        headers = host_signed(service, LIST, b"{}")
        async with AsyncExitStack() as stack:
            loop = asyncio.get_running_loop()
            answers = {}
            for _ in range(8):
                connection = await stack.enter_async_context(connected(service))
                connection.send_head(headers, 10_000)
                connection.writer.write(bytes(9_999))
                answers[loop.create_task(connection.answer())] = connection
            async with asyncio.timeout(HANG):
                done, waiting = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
                assert {task.result() for task in done} == {(429, "ThrottlingException")}
                # A request of the usual size is answered all the while.
                answer = await http.post("/", content=b"{}", headers=signed(service, LIST, b"{}"))
                assert answer.status_code == 200
                while len(waiting) > 6:
                    _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in waiting:
                    answers[task].writer.write(b"x")
                await asyncio.wait(waiting)
        # Six fit into the share of an address; each of those ends with its last byte.
        assert Counter(task.result() for task in answers) == {
            (429, "ThrottlingException"): 2,
            (403, "InvalidSignatureException"): 6,
        }


async def test_rights_come_before_parameters(tmp_path: Path) -> None:
    async with served(tmp_path) as (service, http):
        key = replace(new_key("reader", 1.0), policy=Policy(read_only=True))
        KeyFile(credentials_file(tmp_path / "state")).add(key, 1.0)
        for body in (b"{", b"[" * 1000):
            headers = signed(service, OPEN, body, key)
            answer = await http.post("/", content=body, headers=headers)
            check_error(answer, 403, "AccessDeniedException")


async def test_boto3_names_the_fault(service: TunnelingService) -> None:
    client = api(service.endpoints, aws_secret_access_key="wrong")
    with pytest.raises(ClientError) as caught:
        await asyncio.to_thread(client.list_tunnels)
    client.close()
    assert caught.value.response["Error"]["Code"] == "InvalidSignatureException"


async def test_a_failing_store_is_an_internal_failure(
    service: TunnelingService, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StoreFailed("disk full")

    monkeypatch.setattr(service.queries, "page", fail)
    headers = signed(service, "IoTSecuredTunneling.ListTunnels", b"{}")
    answer = await http.post("/", content=b"{}", headers=headers)
    check_error(answer, 500, "InternalFailure")
    assert "disk" not in json.dumps(answer.json())


async def test_a_tunnel_that_cannot_be_looked_up_is_named_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StoreFailed("disk full")

    operation = OperationSettings(audit_log=tmp_path / "audit")
    async with running(config(tmp_path / "state", operation=operation)) as service:
        monkeypatch.setattr(service.queries, "describe", fail)
        monkeypatch.setattr("tailrace.service.tunnels.rules.Tunnels.close", fail)
        client = api(service.endpoints)
        with pytest.raises(ClientError, match="InternalFailure"):
            await asyncio.to_thread(client.close_tunnel, tunnelId="t1")
        client.close()
    event = json.loads(await asyncio.to_thread((tmp_path / "audit").read_text))
    assert (event["tunnelId"], event["outcome"]) == ("t1", "InternalFailure")
    line = f"disk full; CloseTunnel by {event['key']} from 127.0.0.1, tunnel t1"
    assert line in caplog.text


class TestLimits:
    async def test_request_size(self, tmp_path: Path) -> None:
        async with served(tmp_path, request_bytes=100) as (service, http):
            body = b'{"maxResults": 1}'.ljust(100)
            headers = signed(service, LIST, body)
            assert (await http.post("/", content=body, headers=headers)).status_code == 200
            answer = await http.post("/", content=body + b" ")
            check_error(answer, 413, "RequestEntityTooLargeException")

    async def test_requests_of_a_key(self, tmp_path: Path) -> None:
        """Each key has its own share, from whichever address it is used."""
        async with served(tmp_path, request_rate=0.01) as (service, http):
            other = new_key("other", 1.0)
            file = KeyFile(credentials_file(tmp_path / "state"))
            file.add(other, 1.0)
            headers = signed(service, LIST, b"{}")
            assert (await http.post("/", content=b"{}", headers=headers)).status_code == 200
            check_error(
                await http.post("/", content=b"{}", headers=headers), 429, "ThrottlingException"
            )
            headers = signed(service, LIST, b"{}", other)
            assert (await http.post("/", content=b"{}", headers=headers)).status_code == 200

    async def test_boto3_knows_throttling_when_it_sees_it(self, tmp_path: Path) -> None:
        async with served(tmp_path, request_rate=0.01) as (service, _):
            patient = Config(retries={"total_max_attempts": 2, "mode": "standard"})
            client = api(service.endpoints, config=patient)
            await asyncio.to_thread(client.list_tunnels)
            with pytest.raises(ClientError) as caught:
                await asyncio.to_thread(client.list_tunnels)
            client.close()
            assert caught.value.response["Error"]["Code"] == "ThrottlingException"
            assert caught.value.response["ResponseMetadata"]["RetryAttempts"] == 1

    async def test_strangers_use_up_their_own_share(self, tmp_path: Path) -> None:
        async with served(tmp_path, request_rate=0.01) as (service, http):
            check_error(await http.post("/"), 403, "MissingAuthenticationTokenException")
            check_error(await http.post("/"), 429, "ThrottlingException")
        async with served(tmp_path, request_rate=2) as (service, http):
            check_error(await http.post("/"), 403, "MissingAuthenticationTokenException")
            headers = signed(service, LIST, b"{}")
            assert (await http.post("/", content=b"{}", headers=headers)).status_code == 200

    async def test_refusals_do_not_fill_the_disk(
        self, service: TunnelingService, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.filtering(FloodFilter(logging.INFO)):
            for _ in range(40):
                await http.post("/")
        lines = [line for line in caplog.messages if "MissingAuthentication" in line]
        assert len(lines) == 20


async def test_the_log_names_tunnel_thing_and_address(
    service: TunnelingService, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    key = service.endpoints.access_key_id

    async def call(operation: str, parameters: dict[str, Any], **more: str) -> dict[str, Any]:
        """Call an operation; add the line of the log to its answer."""
        caplog.clear()
        body = json.dumps(parameters).encode()
        headers = signed(service, f"IoTSecuredTunneling.{operation}", body) | more
        answer = await http.post("/", content=body, headers=headers)
        request = answer.headers["x-amzn-requestid"]
        (line,) = (line for line in caplog.messages if line.startswith(f"request {request}: "))
        document: dict[str, Any] = answer.json()
        return document | {"line": line.removeprefix(f"request {request}: ")}

    destination = {"destinationConfig": {"thingName": "pump-7", "services": ["SSH"]}}
    opened = await call("OpenTunnel", destination)
    tunnel = f"tunnel {opened['tunnelId']}"
    by = f"by {key} from 127.0.0.1"
    assert opened["line"] == f"OpenTunnel {by}, {tunnel}, thing pump-7"
    arn = {"resourceArn": opened["tunnelArn"]}
    tagged = await call("ListTagsForResource", arn)
    assert tagged["line"] == f"ListTagsForResource {by}, {tunnel}, thing pump-7"
    listed = await call("ListTunnels", {"thingName": "pump-8"})
    assert listed["line"] == f"ListTunnels {by}, thing pump-8"
    closing = {"tunnelId": opened["tunnelId"], "delete": True}
    assert (await call("CloseTunnel", closing))["line"] == (
        f"CloseTunnel {by}, {tunnel}, thing pump-7"
    )
    missing = await call("CloseTunnel", closing)
    assert missing["line"].endswith(f"does not exist; CloseTunnel {by}, {tunnel}")
    invalid = await call("CloseTunnel", {})
    assert invalid["line"].endswith(f"; CloseTunnel {by}")
    unsigned = await call("CloseTunnel", {}, Authorization="")
    assert unsigned["line"].endswith("; from 127.0.0.1")
    long = await call(
        "TagResource", {"resourceArn": "x" * 1011, "tags": [{"key": "a", "value": ""}]}
    )
    assert long["line"].count("x") < 400
    assert len(long["line"]) < 600


LIST = "IoTSecuredTunneling.ListTunnels"
OPEN = "IoTSecuredTunneling.OpenTunnel"


@asynccontextmanager
async def served(
    tmp_path: Path, **limits: Any
) -> AsyncIterator[tuple[TunnelingService, httpx.AsyncClient]]:
    async with running(config(tmp_path / "state", limits=Limits(**limits))) as service:
        endpoint = service.endpoints.api_endpoint
        trusted = trust(service.endpoints)
        async with httpx.AsyncClient(
            base_url=endpoint, verify=trusted, trust_env=False, timeout=HANG
        ) as http:
            yield service, http


async def test_a_presigned_request(service: TunnelingService, http: httpx.AsyncClient) -> None:
    """As ``generate_presigned_url`` makes it: without a body, which is as good as {}."""
    endpoints = service.endpoints
    client = api(endpoints)
    url = client.generate_presigned_url("list_tunnels", ExpiresIn=3600, HttpMethod="POST")
    client.close()
    headers = {
        "x-amz-target": LIST,
        "content-type": "application/x-amz-json-1.1",
        "host": url.split("/")[2],
    }
    answer = await http.post(url, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"tunnelSummaries": []}
    answer = await http.post(url, headers=headers | {"x-amz-target": OPEN})
    check_error(answer, 403, "InvalidSignatureException")
    answer = await http.post(url, headers=headers, content=b"{ }")
    check_error(answer, 403, "InvalidSignatureException")


async def test_every_operation_is_there(service: TunnelingService, http: httpx.AsyncClient) -> None:
    body = b'{"thingName": 5, "tunnelId": 5, "resourceArn": 5, "tags": 5}'
    for name in OPERATIONS:
        headers = signed(service, f"IoTSecuredTunneling.{name}", body)
        answer = await http.post("/", content=body, headers=headers)
        check_error(answer, 400, "SerializationException")


@pytest.mark.parametrize(
    ("trusted", "address"), [("127.0.0.0/8", "192.0.2.7"), ("10.0.0.0/8", "127.0.0.1")]
)
async def test_the_client_behind_a_reverse_proxy(
    tmp_path: Path, trusted: str, address: str
) -> None:
    settings = config(
        tmp_path / "state",
        data=DataSettings(forwarders=(ip_network(trusted),)),
        limits=Limits(request_rate=2),
        operation=OperationSettings(audit_log=tmp_path / "audit"),
    )
    async with (
        running(settings) as service,
        httpx.AsyncClient(
            base_url=service.endpoints.api_endpoint,
            verify=trust(service.endpoints),
            trust_env=False,
        ) as http,
    ):
        headers = signed(service, "IoTSecuredTunneling.OpenTunnel", b"{}")
        forwarded = {"X-Forwarded-For": "203.0.113.9, 192.0.2.7"}
        assert (await http.post("/", content=b"{}", headers=headers | forwarded)).is_success
        # What is refused is charged to the client, and not to the proxy that all share.
        unsigned = {"X-Forwarded-For": "192.0.2.8"}
        for _ in range(3):
            refused = await http.post("/", content=b"{}", headers=unsigned)
        assert refused.json()["__type"] == "ThrottlingException"
        other = await http.post("/", content=b"{}", headers={"X-Forwarded-For": "192.0.2.9"})
        shared = address == "127.0.0.1"
        assert (other.json()["__type"] == "ThrottlingException") is shared
    text = await asyncio.to_thread((tmp_path / "audit").read_text)
    assert [json.loads(line)["address"] for line in text.splitlines()] == [address]


async def test_requests_are_counted_and_audited(tmp_path: Path) -> None:
    operation = OperationSettings(audit_log=tmp_path / "audit")
    async with (
        running(config(tmp_path / "state", operation=operation)) as service,
        httpx.AsyncClient(
            base_url=service.endpoints.api_endpoint,
            verify=trust(service.endpoints),
            trust_env=False,
        ) as http,
    ):
        client = api(service.endpoints)
        opened = await asyncio.to_thread(client.open_tunnel)
        with pytest.raises(ClientError):
            await asyncio.to_thread(client.close_tunnel, tunnelId="unknown")
        client.close()
        await http.post("/", content=b"{}", headers={"x-amz-target": "no such thing"})
        metrics = (await http.get("/metrics")).text
        key = service.endpoints.access_key_id
    assert 'requests_total{operation="OpenTunnel",outcome="ok"} 1.0' in metrics
    outcome = 'operation="CloseTunnel",outcome="ResourceNotFoundException"'
    assert f"requests_total{{{outcome}}} 1.0" in metrics
    outcome = 'operation="unknown",outcome="MissingAuthenticationTokenException"'
    assert f"requests_total{{{outcome}}} 1.0" in metrics
    text = await asyncio.to_thread((tmp_path / "audit").read_text)
    first, second = map(json.loads, text.splitlines())
    assert (first["event"], first["key"], first["address"]) == ("OpenTunnel", key, "127.0.0.1")
    assert (first["tunnelId"], first["outcome"]) == (opened["tunnelId"], "ok")
    assert (second["event"], second["tunnelId"]) == ("CloseTunnel", "unknown")
    assert second["outcome"] == "ResourceNotFoundException"
    for token in (opened["sourceAccessToken"], opened["destinationAccessToken"]):
        assert token not in text
