"""The door for invited machines, as strangers find it."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.service import config, running, trust
from support.waiting import HANG, until
from tailrace.common.enrolment import Role, new_code, new_secret_key
from tailrace.common.secret import Secret
from tailrace.service import tunneling_service
from tailrace.service.config import OperationSettings
from tailrace.service.identity.invitations import (
    Invitation,
    InvitationFile,
    invitations_file,
    new_invitation,
)
from tailrace.service.identity.key_store import KeyFile, credentials_file
from tailrace.service.identity.policy import device_policy
from tailrace.service.tunneling_service import TunnelingService

NOW = time.time()
"""Certificates are judged by the clock of the machine."""


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


class Door:
    """A service, and a stranger before it."""

    def __init__(self, state_dir: Path, clock: Clock, http: httpx.AsyncClient) -> None:
        self.state_dir = state_dir
        self.clock = clock
        self.http = http
        self.file = InvitationFile(invitations_file(state_dir))
        self.keys = KeyFile(credentials_file(state_dir))

    def invite(self, host: str = "tunnel.example") -> tuple[Invitation, Secret]:
        invitation, code = new_invitation(
            Role.DEVICE,
            "pump-7",
            device_policy("pump-7"),
            host=host,
            creator="root",
            now=self.clock.now,
            seconds=900,
        )
        self.file.add(invitation, self.clock.now)
        return invitation, code

    async def knock(self, code: Secret | str, secret: Secret | None = None) -> httpx.Response:
        text = code if isinstance(code, str) else code.reveal()
        key = secret or new_secret_key()
        return await self.http.post("/join", json={"code": text, "secretKey": key.reveal()})

    def audit(self) -> list[dict[str, Any]]:
        lines = (self.state_dir / "audit").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[TunnelingService]:
    state_dir = tmp_path / "state"
    operation = OperationSettings(audit_log=state_dir / "audit")
    state_dir.mkdir(mode=0o700)
    async with running(config(state_dir, operation=operation), clock=Clock()) as service:
        yield service


@pytest.fixture
async def door(service: TunnelingService, tmp_path: Path) -> AsyncIterator[Door]:
    clock = service._clock
    assert isinstance(clock, Clock)
    async with httpx.AsyncClient(
        base_url=service.endpoints.api_endpoint,
        verify=trust(service.endpoints),
        trust_env=False,
        timeout=HANG,
    ) as http:
        yield Door(tmp_path / "state", clock, http)


def check_refused(answer: httpx.Response) -> None:
    assert answer.status_code == 403
    assert answer.json() == {
        "__type": "AccessDeniedException",
        "message": "The code is not good: it is unknown, was used, or has expired",
    }


async def test_what_a_machine_gets(service: TunnelingService, door: Door) -> None:
    invitation, code = door.invite()
    secret = new_secret_key()
    answer = await door.knock(code, secret)
    assert answer.status_code == 200
    port = service.endpoints.data_endpoint.rpartition(":")[2]
    assert answer.json() == {
        "role": "device",
        "name": "pump-7",
        "region": "us-east-1",
        "dataEndpoint": f"tunnel.example:{port}",
        "accessKeyId": invitation.access_key_id,
        "certificateAuthorities": service._running.state.tls.authorities.decode(),
    }
    assert secret.reveal() not in answer.text
    (key,) = (key for key in door.keys.read() if key.name == "pump-7")
    assert key.secret_access_key == secret
    # The same machine again, and another one.
    assert (await door.knock(code, secret)).json() == answer.json()
    check_refused(await door.knock(code))
    assert len(door.keys.read()) == 2


async def test_to_ask_again_takes_no_lock_and_no_line(door: Door) -> None:
    _, code = door.invite()
    secret = new_secret_key()
    first = await door.knock(code, secret)
    with door.file.locked():
        for _ in range(3):
            assert (await door.knock(code, secret)).json() == first.json()
    assert [each["event"] for each in door.audit()] == ["invited", "joined"]


async def test_all_that_is_not_good_gets_one_answer(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    used, first = door.invite()
    await door.knock(first)
    revoked, second = door.invite()
    door.file.revoke(revoked.invitation_id, NOW)
    expired, third = door.invite()
    door.clock.now += 899
    check_refused(await door.knock(first))
    check_refused(await door.knock(second))
    door.clock.now += 1
    check_refused(await door.knock(third))
    check_refused(await door.knock(new_code()))
    check_refused(await door.knock("short"))
    events = [each for each in door.audit() if each["event"] == "join_refused"]
    assert [(each["reason"], each.get("invitation")) for each in events] == [
        ("used", used.invitation_id),
        ("revoked", revoked.invitation_id),
        ("expired", expired.invitation_id),
        ("unknown", None),
        ("unknown", None),
    ]
    assert all(each["address"] == "127.0.0.1" for each in events)
    for text in (caplog.text, (door.state_dir / "audit").read_text()):
        for code in (first, second, third):
            assert code.reveal() not in text
    assert f"its code is used (invitation {used.invitation_id})" in caplog.text


async def test_the_audit_log_has_the_life_of_an_invitation(door: Door) -> None:
    invitation, code = door.invite()
    await door.knock(code)
    about = {"invitation": invitation.invitation_id, "role": "device", "name": "pump-7"}
    invited, joined = door.audit()
    assert {name: invited[name] for name in (*about, "event", "creator")} == about | {
        "event": "invited",
        "creator": "root",
    }
    assert joined["event"] == "joined"
    assert joined["key"] == invitation.access_key_id
    assert joined["address"] == "127.0.0.1"


async def test_invitations_are_noticed_without_a_visit(
    door: Door, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tunneling_service, "_LOOK_SECONDS", 0.01)
    state_dir = tmp_path / "other"
    operation = OperationSettings(audit_log=tmp_path / "audit")
    async with running(config(state_dir, operation=operation), clock=door.clock):
        other = Door(state_dir, door.clock, door.http)
        invitation, _ = other.invite()
        await until(lambda: "invited" in (tmp_path / "audit").read_text(), "the event")
        other.file.revoke(invitation.invitation_id, NOW)
    # The last look is that of the end.
    events = [json.loads(line)["event"] for line in (tmp_path / "audit").read_text().splitlines()]
    assert events == ["invited", "invitation_revoked"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[" * 1000, 400),
        (b'{"code": 7, "secretKey": "x"}', 400),
        (json.dumps({"code": "A" * 26, "secretKey": "sekret"}).encode(), 400),
        (json.dumps({"code": "A" * 26, "secretKey": "x" * 1000}).encode(), 413),
    ],
)
async def test_requests_that_make_no_sense(
    door: Door, caplog: pytest.LogCaptureFixture, body: bytes, status: int
) -> None:
    answer = await door.http.post("/join", content=body)
    assert answer.status_code == status
    assert "sekret" not in answer.text + caplog.text


async def test_a_body_without_length(door: Door) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"{}"

    assert (await door.http.post("/join", content=pieces())).status_code == 411
    assert (await door.http.get("/join")).status_code == 404


async def test_guesses_are_few(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    _, code = door.invite()
    answers = [await door.knock(new_code()) for _ in range(12)]
    assert [each.status_code for each in answers[:10]] == [403] * 10
    assert answers[-1].status_code == 429
    # Not even a good code is looked at, until the address may ask again.
    assert (await door.knock(code)).status_code == 429


async def test_guesses_of_all_addresses_together_are_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailrace.service.api import enrolment

    monkeypatch.setattr(enrolment, "_ALL_AT_ONCE", 2.0)
    monkeypatch.setattr(enrolment, "_ALL_PER_SECOND", 0.001)
    async with running(config(tmp_path / "state")) as service:
        async with httpx.AsyncClient(
            base_url=service.endpoints.api_endpoint, verify=trust(service.endpoints)
        ) as http:
            door = Door(tmp_path / "state", Clock(), http)
            statuses = [(await door.knock(new_code())).status_code for _ in range(3)]
    assert statuses == [403, 403, 429]


async def test_a_good_code_does_not_count(door: Door) -> None:
    for _ in range(15):
        _, code = door.invite()
        assert (await door.knock(code)).status_code == 200


async def test_two_machines_with_one_code(door: Door) -> None:
    _, code = door.invite()
    answers = await asyncio.gather(*(door.knock(code) for _ in range(4)))
    assert sorted(each.status_code for each in answers) == [200, 403, 403, 403]
    assert len(door.keys.read()) == 2


async def test_the_service_goes_on_while_a_lock_is_held(door: Door) -> None:
    _, code = door.invite()
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with door.file.locked():
            entered.set()
            leave.wait(HANG)

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait(HANG)
    knocking = asyncio.get_running_loop().create_task(door.knock(code))
    assert (await door.http.get("/healthz")).status_code == 200
    assert not knocking.done()
    leave.set()
    assert (await knocking).status_code == 200
    holder.join()


async def test_files_that_cannot_be_used(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    _, code = door.invite()
    await door.knock("look")
    door.keys.path.chmod(0o644)
    answer = await door.knock(code)
    assert (answer.status_code, answer.json()["__type"]) == (500, "InternalFailure")
    assert str(door.keys.path) not in answer.text
    assert "cannot join: cannot read" in caplog.text
    door.keys.path.chmod(0o600)
    for _ in range(2):
        door.file.replace(b"no")
        assert (await door.knock(code)).status_code == 500
    assert caplog.text.count("the invitations stay as they were") == 1


async def test_the_certificates_are_for_everybody(service: TunnelingService, door: Door) -> None:
    answer = await door.http.get("/join/ca.pem")
    assert answer.status_code == 200
    assert answer.content == service._running.state.tls.authorities
