"""Joining a service, and those who stand in its place."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from support.network.certificates import Certificates
from support.network.https_server import Close, ScriptedHTTPS, answer, scripted_https
from support.network.ports import free_port
from support.service import config, running
from tailrace.aws import enrolment
from tailrace.aws.enrolment import Admission, join
from tailrace.common.enrolment import Role, new_code, new_secret_key
from tailrace.common.secret import Secret
from tailrace.errors import (
    ConfigurationError,
    ControlCertificateRejected,
    ControlError,
    CredentialsRefused,
)
from tailrace.link.tls.pin import certificates_of, pin_of
from tailrace.service.identity.invitations import (
    InvitationFile,
    invitations_file,
    new_invitation,
)
from tailrace.service.identity.policy import EVERYTHING
from tailrace.service.tls.pins import pins_of

CODE = new_code()
SECRET = new_secret_key()


def never(text: str) -> None:
    raise AssertionError(text)


async def ask(url: str, *pins: str, code: Secret = CODE, tell: Any = never) -> Admission:
    return await join(url, pins, code, SECRET, environment={}, timeout=10.0, tell=tell)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolment, "_FIRST_SECONDS", 0.0)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
async def server(certificates: Certificates) -> AsyncIterator[ScriptedHTTPS]:
    """One that has the pinned key, and says what a test tells it."""
    async with scripted_https(certificates) as scripted:
        yield scripted


def pem(text: str | bytes, status: int = 200) -> bytes:
    """Return a response with certificates."""
    body = text.encode() if isinstance(text, str) else text
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


@pytest.fixture
def own(certificates: Certificates) -> tuple[bytes, str]:
    """The response with the certificate of the server's CA, and its pin."""
    text = certificates.ca_file.read_text()
    (der,) = certificates_of(text)
    return pem(text), pin_of(der)


GOOD = {
    "role": "operator",
    "name": "alice",
    "region": "us-east-1",
    "dataEndpoint": "localhost:7444",
    "accessKeyId": "AKIAEXAMPLE",
    "certificateAuthorities": trustme.CA().cert_pem.bytes().decode(),
}


async def test_a_real_service(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    async with running(config(state_dir)) as service:
        invitation, code = new_invitation(
            Role.OPERATOR,
            "alice",
            EVERYTHING,
            host="127.0.0.1",
            creator="root",
            now=time.time(),
            seconds=60,
        )
        InvitationFile(invitations_file(state_dir)).add(invitation, time.time())
        endpoints = service.endpoints
        pins = pins_of(state_dir / "tls" / "ca.pem")
        # A slash at the end is no part of it.
        admission = await ask(endpoints.api_endpoint + "/", "sha256:" + "0" * 64, *pins, code=code)
        found = admission.service
        assert (found.role, found.name) == (Role.OPERATOR, "alice")
        assert (found.api_endpoint, found.data_endpoint) == (
            endpoints.api_endpoint,
            endpoints.data_endpoint,
        )
        assert found.credentials.access_key_id == invitation.access_key_id
        assert found.credentials.secret_access_key == SECRET
        assert admission.authorities == (state_dir / "tls" / "ca.pem").read_bytes()
        with pytest.raises(CredentialsRefused, match="ask for another: tailrace invite"):
            await ask(endpoints.api_endpoint, *pins)


async def test_nobody_is_told_the_code_without_the_pinned_key(
    server: ScriptedHTTPS, own: tuple[bytes, str]
) -> None:
    response, _ = own
    for shown, text in (
        (response, "has sha256:.*, and not the pinned key"),
        (pem("nothing"), "shows no certificate, and not the pinned key"),
        (pem(b"\xff"), "shows no certificate"),
        (pem("-----BEGIN CERTIFICATE-----\nM\n-----END CERTIFICATE-----"), "shows no certificate"),
        (pem("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----"), "shows no"),
        (pem(b"x" * 300_000), "answers 200 and no certificate"),
        (answer(None, 404), "answers 404 and no certificate: it is no tailrace serve"),
    ):
        server.answers = [shown]
        with pytest.raises(ControlCertificateRejected, match=text):
            await ask(server.url, "sha256:" + "0" * 64)
    assert not any(CODE.reveal().encode() in each for each in server.bodies + server.heads)
    assert all(each.startswith(b"GET /join/ca.pem ") for each in server.heads)


async def test_showing_the_pinned_certificate_is_not_enough(
    server: ScriptedHTTPS, tmp_path: Path
) -> None:
    # Anybody can show it: it is public.
    (tmp_path / "other").mkdir()
    text = Certificates(tmp_path / "other").ca_file.read_text()
    (der,) = certificates_of(text)
    server.answers = [pem(text)]
    with pytest.raises(ControlCertificateRejected, match=r"does not verify: .*not sent"):
        await ask(server.url, pin_of(der))
    assert len(server.bodies) == 1


def element(tag: int, *content: bytes) -> bytes:
    """Return a short element in DER."""
    joined = b"".join(content)
    return bytes([tag, len(joined)]) + joined


def around(key: bytes) -> str:
    """Return what has a public key where a certificate has it, and is none, in PEM."""
    empty, number = element(0x30), element(0x02, b"\1")
    signed = element(0x30, number, *[empty] * 4, key)
    return ssl.DER_cert_to_PEM_cert(element(0x30, signed, empty, element(0x03, b"\0")))


async def test_the_pinned_key_in_what_is_no_certificate(server: ScriptedHTTPS) -> None:
    key = element(0x30, b"key")
    server.answers = [pem(around(key))]
    with pytest.raises(ControlCertificateRejected, match=r"no certificate: .*not sent"):
        await ask(server.url, f"sha256:{hashlib.sha256(key).hexdigest()}")
    assert len(server.bodies) == 1


async def test_many_other_keys_are_not_all_shown(server: ScriptedHTTPS) -> None:
    server.answers = [pem("".join(around(element(0x30, bytes([at]))) for at in range(100)))]
    with pytest.raises(ControlCertificateRejected, match=r"has sha256:.*\.\.\., and not") as raised:
        await ask(server.url, "sha256:" + "0" * 64)
    assert len(str(raised.value)) < 2500


@asynccontextmanager
async def presenting(
    scripted: ScriptedHTTPS, leaf: trustme.LeafCert
) -> AsyncIterator[ScriptedHTTPS]:
    """The same server with another certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0, ssl=context)
    async with server:
        scripted.port = server.sockets[0].getsockname()[1]
        yield scripted


async def test_names_and_dates_count(
    certificates: Certificates, server: ScriptedHTTPS, own: tuple[bytes, str]
) -> None:
    response, pin = own
    past = datetime.now(UTC) - timedelta(days=1)
    expired = certificates.ca.issue_cert("localhost", not_after=past)
    future = certificates.ca.issue_cert("localhost", not_before=past + timedelta(days=2))
    for leaf, text in (
        (certificates.wrong_host, "the service needs --host-name localhost. The code was not"),
        (expired, "expired; is the clock of this machine right.* It says 20.* UTC. The code was"),
        (future, "not yet valid; is the clock of this machine right"),
    ):
        async with presenting(server, leaf):
            server.answers = [response]
            with pytest.raises(ControlCertificateRejected, match=text):
                await ask(server.url, pin)
    assert len(server.bodies) == 3


async def test_a_certificate_that_is_no_root_may_be_pinned(
    certificates: Certificates, server: ScriptedHTTPS
) -> None:
    text = certificates.cert.cert_chain_pems[0].bytes().decode()
    (der,) = certificates_of(text)
    server.answers = [pem(text), answer(GOOD)]
    assert (await ask(server.url, pin_of(der))).service.name == "alice"


async def test_an_answer_that_was_lost_is_asked_for_again(
    server: ScriptedHTTPS, own: tuple[bytes, str]
) -> None:
    response, pin = own
    told: list[str] = []
    busy = answer({"__type": "ThrottlingException", "message": "slower"}, 429)
    failed = answer({"__type": "InternalFailure", "message": "no"}, 500)
    unready = answer({}, 503)
    server.answers = [
        *(response, Close()),
        *(response, busy),
        *(response, failed),
        unready,
        *(response, answer(GOOD)),
    ]
    admission = await ask(server.url, pin, tell=told.append)
    assert admission.service.credentials.secret_access_key == SECRET
    assert len(told) == 4
    assert all(each.endswith("; trying again") for each in told)
    sent = {each for each in server.bodies if each}
    assert len(sent) == 1
    assert not any(CODE.reveal() in each for each in told)


async def test_it_is_not_asked_for_ever() -> None:
    told: list[str] = []
    url = f"https://localhost:{free_port()}"
    with pytest.raises(ControlError, match=f"{url}: cannot connect"):
        await ask(url, "sha256:" + "0" * 64, tell=told.append)
    assert len(told) == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"role": "king"},
        {"name": 7},
        {"name": "a b"},
        {"dataEndpoint": "evil.example/x"},
        {"accessKeyId": ["A"]},
        {"accessKeyId": "A\r\nB"},
        {"certificateAuthorities": "no"},
        {"certificateAuthorities": None},
    ],
)
async def test_answers_that_make_no_sense(
    server: ScriptedHTTPS, own: tuple[bytes, str], changes: dict[str, object]
) -> None:
    response, pin = own
    server.answers = [response, answer(GOOD | changes)] * 5
    with pytest.raises(ControlError, match="the answer makes no sense"):
        await ask(server.url, pin, tell=lambda _: None)


async def test_other_answers(server: ScriptedHTTPS, own: tuple[bytes, str]) -> None:
    response, pin = own
    server.answers = [response, pem("[]")] * 5
    with pytest.raises(ControlError, match="answers 200 without a JSON object"):
        await ask(server.url, pin, tell=lambda _: None)
    told = {"__type": "ValidationException", "message": "no\x1b[31m" + "x" * 9000}
    server.answers = [response, answer(told, 400)]
    with pytest.raises(CredentialsRefused) as refused:
        await ask(server.url, pin)
    assert "\x1b" not in str(refused.value)
    assert len(str(refused.value)) < 3000


@pytest.mark.parametrize("url", ["http://localhost", "https://", "https://a/b", "https://a@b"])
async def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ConfigurationError, match="is not https://HOST"):
        await ask(url, "sha256:" + "0" * 64)
