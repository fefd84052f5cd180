"""``tailrace invite``: one line that is safe to paste."""

from __future__ import annotations

import json
import shlex
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.service import config, running
from tailrace.cli import invite as command
from tailrace.cli.exit_codes import ExitCode
from tailrace.cli.tailrace import main
from tailrace.common.enrolment import Role, new_secret_key, read_code
from tailrace.service.config import Address
from tailrace.service.identity.invitations import InvitationFile, invitations_file
from tailrace.service.identity.key_store import KeyFile, credentials_file
from tailrace.service.identity.policy import Policy, device_policy
from tailrace.service.tls.pins import pins_of
from tailrace.service.tunneling_service import TunnelingService


class Inviting:
    """The command, for one state directory."""

    def __init__(self, state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.state_dir = state_dir
        self.file = InvitationFile(invitations_file(state_dir))
        self._capsys = capsys

    def run(self, *argv: str) -> tuple[int, str, str]:
        status = main(["invite", "--state-dir", str(self.state_dir), *argv])
        return status, *self._capsys.readouterr()


@pytest.fixture
def inviting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Inviting:
    return Inviting(tmp_path / "state", capsys)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[TunnelingService]:
    changes = {
        "api_listen": Address("0.0.0.0", 0),
        "data_listen": Address("0.0.0.0", 0),
        "host_names": ("tunnel.example",),
    }
    async with running(config(tmp_path / "state", **changes)) as service:
        yield service


async def test_the_line_for_a_device(service: TunnelingService, inviting: Inviting) -> None:
    status, out, err = inviting.run("device", "pump-7")
    assert status == ExitCode.OK
    (invitation,) = inviting.file.read()
    words = shlex.split(out)
    code = read_code(words.pop())
    assert code is not None
    assert code.digest == invitation.code_digest
    (pin,) = pins_of(inviting.state_dir / "tls" / "ca.pem")
    assert words == ["tailrace", "join", service.endpoints.api_endpoint, "--pin", pin]
    assert out.startswith("tailrace join https://tunnel.example:")
    assert out.count("\n") == 1
    assert err.endswith(f"To take it back: tailrace invite revoke {invitation.invitation_id}\n")
    assert code.reveal() not in err
    assert (invitation.role, invitation.host) == (Role.DEVICE, "tunnel.example")
    assert invitation.policy == device_policy("pump-7")
    assert round(invitation.expires_at - invitation.created_at) == 900


async def test_an_operator_with_a_policy(service: TunnelingService, inviting: Inviting) -> None:
    options = ["--read-only", "--thing", "pump-*", "--valid-for", "2d"]
    assert inviting.run("operator", "alice@example", *options)[0] == ExitCode.OK
    assert inviting.run("operator", "bob", "--host", socket.gethostname())[0] == ExitCode.OK
    alice, bob = inviting.file.read()
    assert alice.policy == Policy(things=("pump-*",), read_only=True)
    assert round(alice.expires_at - alice.created_at) == 2 * 86400
    assert bob.policy.is_unlimited
    assert bob.host == socket.gethostname()


async def test_a_service_without_a_name(tmp_path: Path, inviting: Inviting) -> None:
    listen = {name: Address("0.0.0.0", 0) for name in ("api_listen", "data_listen")}
    async with running(config(tmp_path / "state", **listen)):
        status, out, err = inviting.run("device", "pump-7")
        assert status == ExitCode.OK
        name = socket.gethostname().lower()
        assert out.startswith(f"tailrace join https://{name}:")
        assert err.startswith(f"The other machine has to find {name} by this name")


async def test_a_service_for_its_own_machine(tmp_path: Path, inviting: Inviting) -> None:
    async with running(config(tmp_path / "state")):
        status, out, err = inviting.run("device", "pump-7")
        assert (status, out) == (ExitCode.USAGE, "")
        assert "the control API of the service listens for this machine only" in err
        assert inviting.run("device", "pump-7", "--host", "localhost")[0] == ExitCode.OK
    # And while it does not run.
    status, _, err = inviting.run("device", "pump-7")
    assert (status, "no service is running" in err) == (ExitCode.USAGE, True)
    status, out, _ = inviting.run("device", "pump-7", "--host", "localhost:1234")
    assert (status, out.startswith("tailrace join https://localhost:1234 ")) == (0, True)


async def test_the_list_tells_what_became_of_them(
    service: TunnelingService, inviting: Inviting
) -> None:
    code = read_code(inviting.run("device", "used")[1].split()[-1])
    assert code is not None
    for name in ("open", "revoked"):
        inviting.run("device", name)
    used, _, revoked = inviting.file.read()
    keys = KeyFile(credentials_file(inviting.state_dir))
    inviting.file.redeem(code, new_secret_key(), keys, now=used.created_at, address="192.0.2.1")
    status, out, _ = inviting.run("revoke", revoked.invitation_id)
    assert (status, out) == (0, f"revoked {revoked.invitation_id} device revoked\n")
    status, out, err = inviting.run("list")
    assert (status, err) == (ExitCode.OK, "")
    first, second, third = out.splitlines()
    assert f"used {command.format_date(used.created_at)} from 192.0.2.1, key AKIA" in first
    assert "  open until 20" in second
    assert "  revoked 20" in third
    document = json.loads(inviting.run("list", "--json")[1])["invitations"]
    assert [each["state"] for each in document] == ["used", "open", "revoked"]
    assert not any(name.endswith("digest") for each in document for name in each)
    status, _, err = inviting.run("revoke", used.invitation_id)
    assert (status, err) == (
        ExitCode.USAGE,
        f"tailrace invite revoke: {used.invitation_id} was used; revoke its key: "
        f"tailrace keys revoke {used.access_key_id}\n",
    )
    status, _, err = inviting.run("revoke", "inv-x")
    assert (status, "see: tailrace invite list" in err) == (ExitCode.USAGE, True)


async def test_an_expired_one(
    service: TunnelingService, inviting: Inviting, monkeypatch: pytest.MonkeyPatch
) -> None:
    inviting.run("device", "late", "--valid-for", "1m")
    (late,) = inviting.file.read()
    monkeypatch.setattr(command.time, "time", lambda: late.expires_at)
    assert "  expired 20" in inviting.run("list")[1]


@pytest.mark.parametrize(
    "argv",
    [
        ["device", "pump 7"],
        ["device", "$(reboot)"],
        ["device", "a" * 129],
        ["device", ""],
        ["operator", "-x"],
        ["operator", "a;b"],
        ["operator", "a\nb"],
        ["operator", "alice", "--thing", "a b"],
        ["operator", "alice", "--operation", "Fly"],
        ["device", "a", "--valid-for", "31d"],
        ["device", "a", "--valid-for", "0m"],
        ["device", "a", "--host", "x;y"],
    ],
)
async def test_wrong_arguments_are_one_line(
    service: TunnelingService, inviting: Inviting, argv: list[str]
) -> None:
    if argv[1].startswith("-"):
        argv.insert(1, "--")
    status, out, err = inviting.run(*argv)
    assert (status, out) == (ExitCode.USAGE, "")
    assert err.startswith(f"tailrace invite {argv[0]}: ")
    assert err.count("\n") == 1
    assert inviting.file.read() == ()


def test_who_invites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "carol")
    assert command._user() == "carol"
    monkeypatch.setenv("SUDO_USER", "a\nb")
    assert command._user().startswith("uid ")
    monkeypatch.delenv("SUDO_USER")
    monkeypatch.setattr(command.os, "getuid", lambda: 54321)
    assert command._user() == "uid 54321"
