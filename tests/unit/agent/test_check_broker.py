"""Checks of the broker, against one that is told what to do, and against mosquitto."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import tailrace
from support.network.certificates import Certificates
from support.network.scripted_broker import BrokerPeer, message, scripted_broker
from support.processes.mosquitto import broker as mosquitto
from support.processes.mosquitto import needs_mosquitto
from tailrace.agent import check_broker as module
from tailrace.agent.check_broker import BrokerCheckSettings, broker_checks
from tailrace.agent.check_service import sender_of_tests
from tailrace.agent.sources.mqtt import MqttSourceSettings
from tailrace.aws import Credentials, JoinedService
from tailrace.checks.findings import Finding, Verdict
from tailrace.checks.runner import run_checks
from tailrace.common.enrolment import Role
from tailrace.common.secret import Secret
from tailrace.errors import CredentialsRefused
from tailrace.link.endpoint import TLSOptions
from tailrace.mqtt.settings import BrokerSettings
from tailrace.mqtt.topics import AWS_TEMPLATE

TOPIC = "$aws/things/pump-7/tunnels/notify"


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody comes back after so short a time."""
    monkeypatch.setattr(module, "_STAYS", 0.05)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


async def checked(
    broker: BrokerSettings,
    busy: str = "",
    account: str | None = None,
    send_test: Callable[[], Awaitable[None]] | None = None,
) -> dict[str, Finding]:
    settings = BrokerCheckSettings(MqttSourceSettings(broker, "pump-7"), account, send_test, busy)
    return {each.name: each.finding async for each in run_checks(broker_checks(settings))}


def serving(
    script: Callable[[BrokerPeer], Awaitable[None]],
) -> Callable[[BrokerPeer], Awaitable[None]]:
    """Return the script of a broker whose first connection is that of the step ``TCP``."""

    async def serve(peer: BrokerPeer) -> None:
        if peer.number:
            await script(peer)

    return serve


async def scripted(
    script: Callable[[BrokerPeer], Awaitable[None]], *, is_aws: bool = False, busy: str = ""
) -> dict[str, Finding]:
    """Check a broker."""
    async with scripted_broker(serving(script)) as running:
        at = BrokerSettings("127.0.0.1", running.port, is_aws=is_aws)
        return await checked(at, busy, "123456789012" if is_aws else None)


async def stays(peer: BrokerPeer) -> None:
    client = await peer.begin()
    assert client.client_id == "pump-7"
    assert not client.clean_session
    assert await peer.to_end() == b"\xe0\0"  # DISCONNECT, and nothing is acknowledged


async def test_all_is_well_as_far_as_it_can_be_told() -> None:
    found = await scripted(stays)
    assert [(name, each.verdict.value) for name, each in found.items()] == [
        ("topic", "ok"),
        ("broker web proxy", "skipped"),
        ("broker name", "ok"),
        ("broker TCP", "ok"),
        ("client id", "ok"),
        ("subscription", "warning"),
    ]
    assert found["topic"].figure == f"{TOPIC} (thing pump-7)"
    assert found["client id"].figure == "pump-7 is accepted, a new session"
    assert found["subscription"].figure.startswith("granted, which proves nothing")


async def test_aws_would_have_ended_the_connection() -> None:
    found = await scripted(stays, is_aws=True)
    assert found["subscription"].verdict is Verdict.OK


async def test_a_kept_notification_proves_the_subscription() -> None:
    async def script(peer: BrokerPeer) -> None:
        await peer.connect(session_present=True)
        peer.send(message(TOPIC, b"{}", qos=1))
        assert await peer.to_end() != b""

    found = await scripted(script)
    assert found["client id"].figure == "pump-7 is accepted, there was a session"
    assert found["subscription"].verdict is Verdict.OK


async def test_a_notification_after_the_subscription_proves_it() -> None:
    async def script(peer: BrokerPeer) -> None:
        await peer.begin()
        peer.send(message(TOPIC, b"{}", qos=1))
        assert await peer.to_end() == b"\xe0\0"

    assert (await scripted(script))["subscription"].verdict is Verdict.OK


async def test_qos_0_is_not_enough() -> None:
    async def script(peer: BrokerPeer) -> None:
        await peer.connect()
        await peer.subscribe(0)
        await peer.to_end()

    finding = (await scripted(script))["subscription"]
    assert finding.verdict is Verdict.WARNING
    assert finding.fix == "let the broker grant QoS 1"


@pytest.mark.parametrize("is_aws", [False, True])
async def test_closed_before_connack(is_aws: bool) -> None:
    async def script(peer: BrokerPeer) -> None:
        await peer.read()

    found = await scripted(script, is_aws=is_aws)
    finding = found["client id"]
    assert finding.verdict is Verdict.FAILED
    assert finding.figure == "the connection was closed before the broker answered CONNECT"
    assert found["subscription"].figure == "not without: client id"
    if is_aws:
        assert "iot:Connect for the client id pump-7" in finding.fix
        (connect, *_) = json.loads(finding.example)["Statement"]
        assert connect["Resource"] == "arn:aws:iot:REGION:123456789012:client/pump-7"
    else:
        assert finding.example == ""


async def test_refused_by_connack() -> None:
    async def script(peer: BrokerPeer) -> None:
        await peer.connect(5)

    finding = (await scripted(script))["client id"]
    assert finding.figure == "the broker refused the connection: not authorized"


@pytest.mark.parametrize("is_aws", [False, True])
async def test_the_subscription_is_refused(is_aws: bool) -> None:
    async def script(peer: BrokerPeer) -> None:
        await peer.connect()
        await peer.subscribe(0x80)

    finding = (await scripted(script, is_aws=is_aws))["subscription"]
    assert finding.verdict is Verdict.FAILED
    if is_aws:
        assert len(json.loads(finding.example)["Statement"]) == 3
    else:
        assert finding.example == f"user pump-7\ntopic read {TOPIC}"


async def test_the_connection_ends_in_place_of_suback() -> None:
    async def script(peer: BrokerPeer) -> None:
        await peer.connect()
        await peer.read()

    finding = (await scripted(script, is_aws=True))["subscription"]
    assert finding.figure == "the connection was closed before it answered SUBSCRIBE"
    assert "iot:Subscribe on topicfilter/" in finding.fix


async def test_another_client_has_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STAYS", 60)

    async def script(peer: BrokerPeer) -> None:
        await peer.begin()

    finding = (await scripted(script))["subscription"]
    assert finding.verdict is Verdict.FAILED
    assert finding.fix.startswith("another client uses the client id pump-7")


async def test_an_agent_that_runs_is_left_alone() -> None:
    async def script(peer: BrokerPeer) -> None:
        raise AssertionError("a connection")

    found = await scripted(script, busy="an agent runs")
    assert found["client id"].verdict is Verdict.SKIPPED
    assert found["client id"].fix == "stop it first, or add --take-over"
    assert found["subscription"].verdict is Verdict.SKIPPED


async def test_the_certificate_is_checked_before_tls(
    tmp_path: Path, certificates: Certificates
) -> None:
    tls = TLSOptions(authorities=certificates.ca_file, certificate=tmp_path / "gone.pem")
    async with scripted_broker(stays, certificates.server_context()) as running:
        found = await checked(BrokerSettings("localhost", running.port, tls))
    assert found["certificate"].verdict is Verdict.FAILED
    assert found["broker TCP"].verdict is Verdict.OK
    assert found["broker TLS"].figure == "not without: certificate"
    assert found["client id"].figure == "not without: broker TLS"


@needs_mosquitto
async def test_mosquitto_with_client_certificates(
    tmp_path: Path, certificates: Certificates
) -> None:
    cert, key = tmp_path / "pump-7.pem", tmp_path / "pump-7.key"
    made = certificates.ca.issue_cert("pump-7", common_name="pump-7")
    made.cert_chain_pems[0].write_to_path(str(cert))
    made.private_key_pem.write_to_path(str(key))
    key.chmod(0o600)
    certificates.cert.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    options = [
        "require_certificate true",
        "use_identity_as_username true",
        f"cafile {certificates.ca_file}",
        f"certfile {tmp_path}/server.pem",
        f"keyfile {tmp_path}/server.pem",
    ]
    with mosquitto(tmp_path, options) as running:
        tls = TLSOptions(authorities=certificates.ca_file, certificate=cert, key=key)
        found = await checked(BrokerSettings("localhost", running.port, tls))
        assert {each.verdict for each in found.values()} <= {
            Verdict.OK,
            Verdict.SKIPPED,
            Verdict.WARNING,
        }, found
        assert found["certificate"].verdict is Verdict.OK
        assert found["subscription"].verdict is Verdict.WARNING
        # Without a certificate; TLS 1.3 is done before the broker says so.
        tls = TLSOptions(authorities=certificates.ca_file)
        found = await checked(BrokerSettings("localhost", running.port, tls))
        assert found["broker TLS"].verdict is Verdict.OK
        assert found["client id"].verdict is Verdict.FAILED
        assert found["client id"].fix.startswith("it wants another certificate")


@needs_mosquitto
async def test_mosquitto_with_a_wrong_password(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("")
    options = ["allow_anonymous false", f"password_file {passwords}"]
    with mosquitto(tmp_path, options) as running:
        at = BrokerSettings("127.0.0.1", running.port, None, "pump-7", Secret("guess"))
        finding = (await checked(at))["client id"]
    assert finding.verdict is Verdict.FAILED
    assert "guess" not in repr(finding)


async def test_the_service_cannot_be_asked() -> None:
    async def send() -> None:
        raise CredentialsRefused("AccessDeniedException", "not this key")

    async with scripted_broker(serving(stays)) as running:
        at = BrokerSettings("127.0.0.1", running.port)
        finding = (await checked(at, send_test=send))["subscription"]
    assert finding.verdict is Verdict.WARNING
    assert finding.figure.endswith("asked for a test: AccessDeniedException: not this key")
    assert finding.fix.startswith("check access key")


@needs_mosquitto
@pytest.mark.parametrize("topic", [AWS_TEMPLATE, "other/{thing}"])
async def test_a_service_proves_the_subscription(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, topic: str
) -> None:
    with mosquitto(tmp_path) as broker:
        url = f"mqtt://127.0.0.1:{broker.port}"
        async with tailrace.Service(mqtt_url=url, notify_topic=topic) as service:
            endpoints = service.endpoints
            key = (endpoints.access_key_id, Secret(endpoints.secret_access_key))
            place = (endpoints.api_endpoint, endpoints.data_endpoint, endpoints.region)
            ca = Path(endpoints.ca_file)
            joined = JoinedService(Role.OPERATOR, "me", *place, ca, Credentials(*key))
            send = sender_of_tests(joined, "pump-7", {})
            if topic != AWS_TEMPLATE:
                monkeypatch.setattr(module, "_ARRIVES", 0.5)
            at = BrokerSettings("127.0.0.1", broker.port)
            finding = (await checked(at, send_test=send))["subscription"]
    if topic == AWS_TEMPLATE:
        assert finding.verdict is Verdict.OK
        assert finding.figure.startswith("proven")
    else:
        assert finding.verdict is Verdict.FAILED
        assert "--notify-topic" in finding.fix
