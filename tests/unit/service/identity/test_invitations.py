"""Invitations: made, used once, listed, revoked."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from tailrace.common.enrolment import Role, new_code, new_secret_key
from tailrace.common.secret import Secret
from tailrace.errors import ConfigurationError
from tailrace.service.identity import invitations as module
from tailrace.service.identity.invitations import (
    Invitation,
    InvitationBook,
    InvitationFile,
    InvitationRefused,
    InvitationState,
    invitations_file,
    new_invitation,
)
from tailrace.service.identity.key_store import KeyFile, credentials_file
from tailrace.service.identity.policy import Policy, device_policy

NOW = 1000.0


@pytest.fixture
def file(tmp_path: Path) -> InvitationFile:
    return InvitationFile(invitations_file(tmp_path))


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(credentials_file(tmp_path))


def invite(name: str = "pump-7", now: float = NOW) -> tuple[Invitation, Secret]:
    return new_invitation(
        Role.DEVICE,
        name,
        device_policy(name),
        host="tunnel.example",
        creator="root",
        now=now,
        seconds=900,
    )


def redeem(
    file: InvitationFile, code: Secret, secret: Secret, keys: KeyFile, now: float = NOW
) -> Invitation:
    return file.redeem(code, secret, keys, now=now, address="192.0.2.1")


def test_the_file_knows_no_code(file: InvitationFile) -> None:
    invitation, code = invite()
    file.add(invitation, NOW)
    assert file.read() == (invitation,)
    assert code.reveal() not in file.path.read_text()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_a_code_is_good_once(file: InvitationFile, keys: KeyFile) -> None:
    invitation, code = invite()
    file.add(invitation, NOW)
    secret = new_secret_key()
    used = redeem(file, code, secret, keys, NOW + 5)
    assert (used.used_at, used.used_from) == (NOW + 5, "192.0.2.1")
    assert file.read() == (used,)
    (key,) = keys.read()
    assert key.access_key_id == invitation.access_key_id
    assert key.secret_access_key == secret
    assert (key.name, key.policy) == ("pump-7", device_policy("pump-7"))
    assert secret.reveal() not in file.path.read_text()
    with pytest.raises(InvitationRefused) as refused:
        redeem(file, code, new_secret_key(), keys)
    assert (refused.value.reason, refused.value.invitation_id) == (
        "used",
        invitation.invitation_id,
    )
    assert keys.read() == (key,)


def test_who_did_not_get_the_answer_gets_it_again(file: InvitationFile, keys: KeyFile) -> None:
    invitation, code = invite()
    file.add(invitation, NOW)
    secret = new_secret_key()
    used = redeem(file, code, secret, keys)
    keys.revoke(invitation.access_key_id)
    assert redeem(file, code, secret, keys, NOW + 899) == used
    # Asking again brings no revoked key back.
    assert keys.read() == ()
    with pytest.raises(InvitationRefused, match="used"):
        redeem(file, code, secret, keys, NOW + 900)


def test_a_crash_between_key_and_mark_costs_nothing(
    file: InvitationFile, keys: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    invitation, code = invite()
    file.add(invitation, NOW)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(InvitationFile, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            redeem(file, code, new_secret_key(), keys)
    secret = new_secret_key()
    redeem(file, code, secret, keys)
    (key,) = keys.read()
    assert key.secret_access_key == secret


def test_codes_that_are_not_good(file: InvitationFile, keys: KeyFile) -> None:
    expired, late = invite()
    revoked, taken_back = invite("pump-8")
    for each in (expired, revoked):
        file.add(each, NOW)
    assert file.revoke(revoked.invitation_id, NOW + 1) == revoked
    assert file.revoke("inv-none", NOW) is None
    for code, now, reason in (
        (late, NOW + 900, "expired"),
        (taken_back, NOW + 2, "revoked"),
        (new_code(), NOW, "unknown"),
    ):
        with pytest.raises(InvitationRefused) as refused:
            redeem(file, code, new_secret_key(), keys, now)
        assert refused.value.reason == reason
    assert keys.read() == ()


def test_what_was_used_cannot_be_revoked(file: InvitationFile, keys: KeyFile) -> None:
    invitation, code = invite()
    file.add(invitation, NOW)
    used = redeem(file, code, new_secret_key(), keys)
    assert file.revoke(invitation.invitation_id, NOW) == used
    assert file.read()[0].state(NOW) is InvitationState.USED


def test_the_number_is_bounded(file: InvitationFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_OPEN", 3)
    monkeypatch.setattr(module, "_MOST_KEPT", 5)
    for _ in range(3):
        file.add(invite()[0], NOW)
    with pytest.raises(ConfigurationError, match="3 invitations are open; revoke some"):
        file.add(invite()[0], NOW)
    later = NOW + 900
    for _ in range(3):
        file.add(invite(now=later)[0], later)
    assert len(file.read()) == 5
    week = later + 900 + 7 * 86400
    file.add(invite(now=week)[0], week)
    assert len(file.read()) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.pop("role"),
        lambda entry: entry.update(role="admin"),
        lambda entry: entry.update(expires_at="soon"),
        lambda entry: entry.update(policy=7),
        lambda entry: entry.update(policy={"things": "x"}),
        lambda entry: entry.update(more=1),
    ],
)
def test_a_file_that_is_none(file: InvitationFile, change: object) -> None:
    file.add(invite()[0], NOW)
    document = json.loads(file.path.read_text())
    assert callable(change)
    change(document["invitations"][0])
    file.replace(json.dumps(document).encode())
    with pytest.raises(ConfigurationError, match="is not a file of invitations"):
        file.read()
    file.replace(b"[")
    with pytest.raises(ConfigurationError, match="is not a file of invitations"):
        file.read()


def test_all_that_there_is_to_an_invitation_is_kept(file: InvitationFile) -> None:
    invitation, _ = new_invitation(
        Role.OPERATOR,
        "alice",
        Policy(("ListTunnels",), ("pump-*",), True),
        host="::1",
        creator="uid 7",
        now=NOW,
        seconds=60,
    )
    full = replace(invitation, used_at=1.0, used_from="x", secret_digest="d", revoked_at=2.0)
    for each in (invitation, full):
        assert Invitation.from_document(each.to_document()) == each


def test_the_book_sees_changes(file: InvitationFile, keys: KeyFile) -> None:
    before, _ = invite()
    file.add(before, NOW)
    book = InvitationBook(file)
    assert book.refresh() == []
    invitation, code = invite("pump-8")
    file.add(invitation, NOW)
    assert book.find(code) == invitation
    assert book.find(new_code()) is None
    used = redeem(file, code, new_secret_key(), keys)
    assert book.refresh() == [used]
    file.path.unlink()
    assert book.refresh() == []
    assert book.find(code) is None
