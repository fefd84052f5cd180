"""The HTTP side of the control API: what is not an orderly SDK request."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from support_service import api, config, running, trust
from tailrace.service.api.app import MAX_BODY
from tailrace.service.config import OperationSettings
from tailrace.service.server import Service


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


def signed(service: Service, target: str, body: bytes) -> dict[str, str]:
    endpoints = service.endpoints
    request = AWSRequest("POST", f"{endpoints.api_endpoint}/", data=body)
    request.headers["X-Amz-Target"] = target
    credentials = Credentials(endpoints.access_key_id, endpoints.secret_access_key)
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
        for _ in range(MAX_BODY // 65536 + 1):
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
