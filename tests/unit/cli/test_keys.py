"""``tailrace keys``, also while a service runs."""

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError

from support.service import api, config, running, trust
from tailrace.cli.exit_codes import ExitCode
from tailrace.cli.tailrace import main
from tailrace.service.identity.key_store import KeyFile, credentials_file


class Keys:
    """The command, for one state directory."""

    def __init__(self, state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.state_dir = state_dir
        self.path = credentials_file(state_dir)
        self._capsys = capsys

    def run(self, *argv: str) -> tuple[int, str, str]:
        status = main(["keys", "--state-dir", str(self.state_dir), *argv])
        return status, *self._capsys.readouterr()

    def add(self, *argv: str) -> dict[str, str]:
        status, out, err = self.run("add", *argv)
        assert status == ExitCode.OK
        assert "not shown again" in err
        return dict(line.split("=", 1) for line in out.splitlines())


@pytest.fixture
def keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Keys:
    return Keys(tmp_path / "state", capsys)


def test_a_key_is_printed_once(keys: Keys) -> None:
    made = keys.add("--name", "ci pipeline")
    assert set(made) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.state_dir.stat().st_mode) == 0o700
    for options in ([], ["--json"]):
        status, out, err = keys.run("list", *options)
        assert (status, err) == (ExitCode.OK, "")
        assert made["AWS_ACCESS_KEY_ID"] in out
        assert "ci pipeline" in out
        assert made["AWS_SECRET_ACCESS_KEY"] not in out


def test_temporary_keys(keys: Keys) -> None:
    made = keys.add("--valid-for", "12h")
    token = made["AWS_SESSION_TOKEN"]
    (key,) = KeyFile(keys.path).read()
    assert key.expires_at == key.created_at + 12 * 3600
    assert key.session_token is not None
    assert key.session_token.reveal() == token
    for options in ([], ["--json"]):
        _, out, _ = keys.run("list", *options)
        assert token not in out
    assert "until 20" in keys.run("list")[1]


def test_policies_are_kept_and_shown(keys: Keys) -> None:
    keys.add("--read-only", "--operation", "ListTunnels", "--thing", "a*", "--thing", "a*")
    keys.add("--operation", "OpenTunnel", "--operation", "CloseTunnel")
    keys.add("--name", "admin")
    _, out, _ = keys.run("list")
    lines = out.splitlines()
    assert "  no expiry  read-only; ListTunnels; things a*" in lines[0]
    assert lines[1].endswith("  OpenTunnel,CloseTunnel")
    assert lines[2].endswith("  everything  admin")
    documents = json.loads(keys.run("list", "--json")[1])["keys"]
    assert documents[0]["things"] == ["a*"]
    assert documents[1]["operations"] == ["OpenTunnel", "CloseTunnel"]
    assert "operations" not in documents[2]


def test_quotas_are_kept_and_shown(keys: Keys) -> None:
    keys.add("--thing", "a", "--max-open-tunnels", "5", "--max-stored-bytes", "10M")
    keys.add("--max-opened-per-hour", "0")
    lines = keys.run("list")[1].splitlines()
    assert lines[0].endswith("  things a; open tunnels 5; stored bytes 10000000")
    assert lines[1].endswith("  opened per hour 0")
    first, second = json.loads(keys.run("list", "--json")[1])["keys"]
    assert (first["max_open_tunnels"], first["max_stored_bytes"]) == (5, 10_000_000)
    assert second["max_opened_per_hour"] == 0
    assert "max_opened_per_hour" not in first


@pytest.mark.parametrize(
    "options",
    [
        ["--max-open-tunnels", "-1"],
        ["--max-opened-per-hour", "many"],
        ["--max-stored-bytes", "1.5"],
        ["--operation", "Fly"],
        ["--thing", "a b"],
        ["--thing", ""],
        ["--valid-for", "0h"],
        ["--valid-for", "12"],
        ["--valid-for", "999999d"],
        ["--valid-for", "-1h"],
        ["--name", "a\nb"],
        ["--name", "x" * 65],
    ],
)
def test_wrong_options_are_one_line_and_make_no_key(keys: Keys, options: list[str]) -> None:
    name, value = options
    status, out, err = keys.run("add", f"{name}={value}")
    assert status == ExitCode.USAGE
    assert out == ""
    assert err.startswith(f"tailrace keys add: {name} {value!r} ")
    assert err.count("\n") == 1
    assert not keys.path.exists()


def test_revoking(keys: Keys) -> None:
    made = keys.add("--name", "n")["AWS_ACCESS_KEY_ID"]
    assert keys.run("revoke", made) == (ExitCode.OK, f"revoked {made} n\n", "")
    assert keys.run("list") == (ExitCode.OK, "", "")
    status, out, err = keys.run("revoke", made)
    assert (status, out) == (ExitCode.USAGE, "")
    assert "no access key" in err


def test_the_default_directory(keys: Keys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert main(["keys", "add"]) == ExitCode.OK
    assert (tmp_path / "xdg" / "tailrace" / "credentials.json").exists()


def client(endpoints: Any, made: dict[str, str]) -> Any:
    return api(
        endpoints,
        aws_access_key_id=made["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=made["AWS_SECRET_ACCESS_KEY"],
        aws_session_token=made.get("AWS_SESSION_TOKEN"),
    )


async def test_a_running_service_notices(keys: Keys) -> None:
    """Made, used and revoked, with boto3, and the service is never restarted."""
    async with running(config(keys.state_dir)) as service:
        made = keys.add("--thing", "pump-*", "--valid-for", "1h")
        boto = client(service.endpoints, made)

        async def outcome(operation: str, **parameters: Any) -> Any:
            try:
                return await asyncio.to_thread(getattr(boto, operation), **parameters)
            except ClientError as error:
                return error.response["Error"]["Code"]

        admin = api(service.endpoints)
        other = await asyncio.to_thread(admin.open_tunnel)
        config_of = {"thingName": "pump-1", "services": ["S"]}
        opened = await outcome("open_tunnel", destinationConfig=config_of)
        assert opened["tunnelId"]
        assert await outcome("open_tunnel") == "AccessDeniedException"
        assert await outcome("close_tunnel", tunnelId=other["tunnelId"]) == "AccessDeniedException"
        # Its quotas are its own.
        few = keys.add("--max-open-tunnels", "1")
        modest = client(service.endpoints, few)
        await asyncio.to_thread(modest.open_tunnel)
        with pytest.raises(modest.exceptions.LimitExceededException, match="at most 1 open"):
            await asyncio.to_thread(modest.open_tunnel)
        async with httpx.AsyncClient(verify=trust(service.endpoints), trust_env=False) as http:
            metrics = await http.get(f"{service.endpoints.api_endpoint}/metrics")
        assert 'tailrace_quota_exceeded_total{cause="open_tunnels"} 1.0' in metrics.text
        modest.close()
        # It sees nothing but its own.
        listed = (await outcome("list_tunnels"))["tunnelSummaries"]
        assert [summary["tunnelId"] for summary in listed] == [opened["tunnelId"]]
        assert len((await asyncio.to_thread(admin.list_tunnels))["tunnelSummaries"]) == 3
        admin.close()
        assert keys.run("revoke", made["AWS_ACCESS_KEY_ID"])[0] == ExitCode.OK
        assert await outcome("list_tunnels") == "UnrecognizedClientException"
        boto.close()
