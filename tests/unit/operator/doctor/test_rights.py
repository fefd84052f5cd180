"""What credentials may do is found out at a real service, with real keys, and nothing changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.network.certificates import Certificates
from support.network.https_server import answer, scripted_https
from support.service import ServiceProcess
from tailrace.aws import Client, Credentials
from tailrace.checks.findings import Verdict
from tailrace.common.secret import Secret
from tailrace.errors import ControlError, ControlThrottled, CredentialsRefused
from tailrace.operator.doctor.rights import check_rights

ALL = {"ListTunnels", "DescribeTunnel"}


def client_of(service: ServiceProcess, key_id: str = "", secret: str = "") -> Client:
    endpoints = service.endpoints
    return Client(
        region=endpoints.region,
        endpoint=endpoints.api_endpoint,
        credentials=Credentials(
            key_id or endpoints.access_key_id, Secret(secret or endpoints.secret_access_key)
        ),
        ca=Path(endpoints.ca_file),
        attempts=1,
    )


async def test_a_key_that_may_do_everything(client: Client) -> None:
    await client.open(services=["SSH"])
    before = [each async for each in client.list()]
    finding = await check_rights(client, None, ALL)
    assert finding.verdict is Verdict.OK
    assert "may ListTunnels, DescribeTunnel, ListTagsForResource (" in finding.figure
    assert [each async for each in client.list()] == before


async def test_a_thing_without_a_tunnel_denies_nothing(client: Client) -> None:
    assert (await check_rights(client, "no-such-thing", ALL)).verdict is Verdict.OK


async def test_a_key_that_is_not_known(service: ServiceProcess) -> None:
    async with client_of(service, "AKIAUNKNOWN") as client:
        finding = await check_rights(client, None, ())
    assert finding.verdict is Verdict.FAILED
    assert isinstance(finding.cause, CredentialsRefused)
    assert finding.fix.startswith("this key is not known there")


async def test_a_secret_that_is_another_one(service: ServiceProcess) -> None:
    async with client_of(service, secret="x" * 40) as client:
        finding = await check_rights(client, None, ())
    assert finding.verdict is Verdict.FAILED
    assert finding.fix == "check AWS_SECRET_ACCESS_KEY, and the clock of this machine"


def denied() -> bytes:
    return answer({"__type": "AccessDeniedException", "message": "not authorized"}, 403)


@pytest.mark.parametrize(
    ("answers", "verdict", "text"),
    [
        ([denied(), answer(), answer()], Verdict.FAILED, "may not ListTunnels"),
        ([answer(), denied(), answer()], Verdict.FAILED, "may not DescribeTunnel"),
        ([answer(), answer(), denied()], Verdict.WARNING, "may not ListTagsForResource"),
        ([denied()] * 3, Verdict.FAILED, "may do nothing that was tried"),
        ([answer({"tunnelSummaries": ["x"]}), answer(), answer()], Verdict.OK, "may ListTunnels"),
    ],
)
async def test_rights_that_are_missing(
    certificates: Certificates, answers: list[bytes], verdict: Verdict, text: str
) -> None:
    finding, _ = await asked(certificates, *answers)
    assert finding.verdict is verdict
    assert text in finding.figure
    if verdict is Verdict.FAILED:
        assert isinstance(finding.cause, CredentialsRefused)
        allowed = json.loads(finding.example)["Action"]
        assert set(allowed) <= {f"iot:{each}" for each in (*ALL, "ListTagsForResource")}


async def test_calls_only_read(certificates: Certificates) -> None:
    summary = {"tunnelId": "t-1", "tunnelArn": "arn:aws:iot:x:1:tunnel/t-1"}
    _, heads = await asked(certificates, answer({"tunnelSummaries": [summary]}))
    targets = [head.split(b"IoTSecuredTunneling.")[1].split(b"\r")[0] for head in heads]
    assert targets == [b"ListTunnels", b"DescribeTunnel", b"ListTagsForResource"]


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (answer({"__type": "ThrottlingException"}, 400), ControlThrottled),
        (answer({}, 500), ControlError),
    ],
)
async def test_a_service_that_does_not_say(
    certificates: Certificates, response: bytes, kind: type[ControlError]
) -> None:
    finding, _ = await asked(certificates, response)
    assert finding.verdict is Verdict.FAILED
    assert type(finding.cause) is kind
    assert finding.fix == finding.cause.advice


async def asked(certificates: Certificates, *answers: bytes) -> Any:
    """Return what is found with these answers, and the requests."""
    async with scripted_https(certificates) as server:
        server.answers += answers
        client = Client(
            region="eu-west-1",
            endpoint=server.url,
            credentials=Credentials("AKIA", Secret("s")),
            ca=certificates.ca_file,
            attempts=1,
        )
        async with client:
            return await check_rights(client, None, ALL), server.heads
