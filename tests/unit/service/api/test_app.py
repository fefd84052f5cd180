"""The HTTP side of the control API: what is not an orderly SDK request."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
from tailrace.service.api.model import OPERATIONS
from tailrace.service.config import DataSettings, OperationSettings
from tailrace.service.identity.key_store import KeyFile, credentials_file, new_key
from tailrace.service.identity.policy import AccessKey
from tailrace.service.limits import DEFAULT, Limits
from tailrace.service.service import Service


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with running(config(tmp_path / "state")) as service:
        yield service


@pytest.fixture
async def http(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=service.endpoints.api_endpoint, verify=trust(service.endpoints), trust_env=False
    ) as client:
        yield client


def signed(
    service: Service, target: str, body: bytes, key: AccessKey | None = None
) -> dict[str, str]:
    endpoints = service.endpoints
    request = AWSRequest("POST", f"{endpoints.api_endpoint}/", data=body)
    request.headers["X-Amz-Target"] = target
    credentials = Credentials(endpoints.access_key_id, endpoints.secret_access_key)
    if key is not None:
        credentials = Credentials(key.access_key_id, key.secret_access_key.reveal())
    SigV4Auth(credentials, "IoTSecuredTunneling", endpoints.region).add_auth(request)
    return dict(request.headers.items())


def check_error(answer: httpx.Response, status: int, type_: str) -> None:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/x-amz-json-1.1"
    assert answer.headers["x-amzn-errortype"] == type_
    assert answer.headers["x-amzn-requestid"]
    assert answer.json()["__type"] == type_
    assert answer.json()["message"]


async def test_a_signed_request(service: Service, http: httpx.AsyncClient) -> None:
    headers = signed(service, "IoTSecuredTunneling.ListTunnels", b"{}")
    answer = await http.post("/", content=b"{}", headers=headers)
    assert answer.status_code == 200
    assert answer.json() == {"tunnelSummaries": []}
    assert answer.headers["content-type"] == "application/x-amz-json-1.1"
    assert answer.headers["x-amzn-requestid"]


async def test_a_flipped_byte_of_the_signature(service: Service, http: httpx.AsyncClient) -> None:
    headers = signed(service, "IoTSecuredTunneling.ListTunnels", b"{}")
    last = headers["Authorization"][-1]
    headers["Authorization"] = headers["Authorization"][:-1] + ("0" if last != "0" else "1")
    check_error(
        await http.post("/", content=b"{}", headers=headers), 403, "InvalidSignatureException"
    )


async def test_a_changed_body(service: Service, http: httpx.AsyncClient) -> None:
    headers = signed(service, "IoTSecuredTunneling.OpenTunnel", b"{}")
    answer = await http.post("/", content=b"{ }", headers=headers)
    check_error(answer, 403, "InvalidSignatureException")


async def test_no_signature(http: httpx.AsyncClient) -> None:
    answer = await http.post("/", content=b"{}")
    check_error(answer, 403, "MissingAuthenticationTokenException")


@pytest.mark.parametrize("target", ["IoTSecuredTunneling.Fly", "Other.ListTunnels", ""])
async def test_unknown_operations(service: Service, http: httpx.AsyncClient, target: str) -> None:
    headers = signed(service, target, b"{}")
    answer = await http.post("/", content=b"{}", headers=headers)
    check_error(answer, 404, "UnknownOperationException")


async def test_not_json(service: Service, http: httpx.AsyncClient) -> None:
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
    check_error(answer, 413, "RequestEntityTooLargeException")


async def test_boto3_names_the_fault(service: Service) -> None:
    client = api(service.endpoints, aws_secret_access_key="wrong")
    with pytest.raises(ClientError) as caught:
        await asyncio.to_thread(client.list_tunnels)
    client.close()
    assert caught.value.response["Error"]["Code"] == "InvalidSignatureException"


async def test_a_failing_store_is_an_internal_failure(
    service: Service, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailrace.service.errors import StoreFailed

    def fail(*_: object) -> None:
        raise StoreFailed("disk full")

    monkeypatch.setattr(service.queries, "page", fail)
    headers = signed(service, "IoTSecuredTunneling.ListTunnels", b"{}")
    answer = await http.post("/", content=b"{}", headers=headers)
    check_error(answer, 500, "InternalFailure")
    assert "disk" not in json.dumps(answer.json())


class TestLimits:
    async def test_request_size(self, tmp_path: Path) -> None:
        async with served(tmp_path, request_bytes=100) as (service, http):
            body = b'{"maxResults": 1}'.ljust(100)
            headers = signed(service, LIST, body)
            assert (await http.post("/", content=body, headers=headers)).status_code == 200
            answer = await http.post("/", content=body + b" ")
            check_error(answer, 413, "RequestEntityTooLargeException")

    async def test_requests_of_a_key(self, tmp_path: Path) -> None:
        """Each key has its own share, whoever asks and from wherever."""
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
        self, service: Service, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(40):
            await http.post("/")
        lines = [line for line in caplog.messages if "MissingAuthentication" in line]
        assert 20 <= len(lines) < 40


LIST = "IoTSecuredTunneling.ListTunnels"


@asynccontextmanager
async def served(tmp_path: Path, **limits: Any) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    async with running(config(tmp_path / "state", limits=Limits(**limits))) as service:
        endpoint = service.endpoints.api_endpoint
        trusted = trust(service.endpoints)
        async with httpx.AsyncClient(
            base_url=endpoint, verify=trusted, trust_env=False, timeout=HANG
        ) as http:
            yield service, http


async def test_a_presigned_request(service: Service, http: httpx.AsyncClient) -> None:
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
    answer = await http.post(url, headers=headers | {"x-amz-target": LIST.replace("List", "Open")})
    check_error(answer, 403, "InvalidSignatureException")
    answer = await http.post(url, headers=headers, content=b"{ }")
    check_error(answer, 403, "InvalidSignatureException")


async def test_every_operation_is_there(service: Service, http: httpx.AsyncClient) -> None:
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
