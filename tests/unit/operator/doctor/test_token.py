"""A token is looked at from all sides, and is as good afterwards as before."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from support.service import ServiceProcess
from support.waiting import HANG
from tailrace.aws import Client, OpenedTunnel
from tailrace.checks.findings import Finding, Verdict
from tailrace.common.secret import Secret
from tailrace.errors import ConfigurationError
from tailrace.library import Side, Tunnel
from tailrace.localproxy.client_token import kept_client_token
from tailrace.operator.doctor.token import TokenChecks
from tailrace.operator.doctor.tunnel import TokenUseless, TunnelChecks

TOKEN = "AQGAAXhnY2xpZW50LXRva2Vu"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "source.token", TOKEN)


def write(path: Path, text: str, age: timedelta = timedelta()) -> Path:
    path.write_text(f"{text}\n")
    path.chmod(0o600)
    moment = (datetime.now(UTC) - age).timestamp()
    os.utime(path, (moment, moment))
    return path


async def of_file(path: Path) -> Finding:
    return await TokenChecks(path, Side.SOURCE, None, None).check_file()


async def test_a_file_with_a_token(file: Path) -> None:
    finding = await of_file(file)
    assert finding.verdict is Verdict.OK
    assert finding.figure.startswith("24 characters, written ")


async def test_a_file_that_fits_no_memory(file: Path) -> None:
    os.truncate(file, 1 << 40)
    finding = await of_file(file)
    assert finding.verdict is Verdict.FAILED
    assert "holds no token" in finding.figure


async def test_a_file_that_others_may_read(file: Path) -> None:
    os.chmod(file, 0o644)
    finding = await of_file(file)
    assert finding.verdict is Verdict.WARNING
    assert finding.fix == f"chmod 600 {file}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no token"),
        ("two words", "holds no token"),
        ("one\ntwo", "holds no token"),
        ("tokén", "holds no token"),
        ("x" * 20_000, "holds no token"),
        ('{"sourceAccessToken": "x"}', "holds JSON"),
    ],
)
async def test_a_file_without_a_token(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path / "token", text)
    finding = await of_file(path)
    assert finding.verdict is Verdict.FAILED
    assert finding.figure.startswith(f"{path}: {said}")
    assert isinstance(finding.cause, ConfigurationError)


async def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is a pipe or a device" in (await of_file(tmp_path / "pipe")).figure
    assert "No such file" in (await of_file(tmp_path / "nothing")).figure
    assert "Is a directory" in (await of_file(tmp_path)).figure


async def test_a_token_alone_tells_little(file: Path, tmp_path: Path) -> None:
    checks = TokenChecks(file, Side.SOURCE, tmp_path, None)
    await checks.check_file()
    finding = await checks.check_token()
    assert finding.verdict is Verdict.SKIPPED
    assert finding.fix == "name the tunnel: --tunnel ID, or the thing"


async def test_a_token_that_localproxy_has_used_here(file: Path, tmp_path: Path) -> None:
    with kept_client_token(tmp_path / "state", Secret(TOKEN)):
        pass
    checks = TokenChecks(file, Side.SOURCE, tmp_path / "state", None)
    await checks.check_file()
    finding = await checks.check_token()
    assert finding.verdict is Verdict.OK
    assert finding.figure.startswith("localproxy has a client token for it here")


async def compared(
    client: Client, opened: OpenedTunnel, path: Path, state: Path | None = None
) -> Finding:
    tunnel = TunnelChecks(client, None, opened.tunnel_id, [])
    await tunnel.check_tunnel()
    checks = TokenChecks(path, Side.SOURCE, state, tunnel)
    await checks.check_file()
    return await checks.check_token()


async def test_a_new_token_is_still_good_afterwards(
    client: Client, service: ServiceProcess, tmp_path: Path
) -> None:
    opened = await client.open(services=["SSH"])
    path = write(tmp_path / "token", opened.source_token.reveal())
    finding = await compared(client, opened, path)
    assert finding.verdict is Verdict.OK
    assert finding.figure == "nothing says that it was used or replaced"
    endpoint = service.endpoints.data_endpoint
    async with Tunnel.source(path.read_text().strip(), endpoint=endpoint, timeout=HANG):
        finding = await compared(client, opened, path)
    assert finding.verdict is Verdict.WARNING
    assert finding.figure == "a source is connected: if with this token, it is used up"


async def test_a_token_that_may_be_used_up(
    client: Client, service: ServiceProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await client.open(services=["SSH"])
    path = write(tmp_path / "token", opened.source_token.reveal())
    async with Tunnel.source(
        opened.source_token, endpoint=service.endpoints.data_endpoint, timeout=HANG
    ):
        pass
    monkeypatch.setattr("tailrace.operator.doctor.token._SLACK", timedelta(0))
    # As the service has it: written between the opening and the connection.
    tunnel = await client.describe(opened.tunnel_id)
    moment = tunnel.opened.timestamp() + 0.0005
    os.utime(path, (moment, moment))
    finding = await compared(client, opened, path)
    assert finding.verdict is Verdict.WARNING
    assert finding.figure.startswith("a source was connected since it was written")
    # With its client token it is good all the same.
    with kept_client_token(tmp_path / "state", opened.source_token):
        pass
    finding = await compared(client, opened, path, tmp_path / "state")
    assert finding.verdict is Verdict.OK


async def test_a_token_that_may_be_rotated(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await client.open(services=["SSH"])
    path = write(tmp_path / "token", opened.source_token.reveal())
    await client.rotate(opened.tunnel_id, Side.SOURCE)
    monkeypatch.setattr("tailrace.operator.doctor.token._SLACK", timedelta(0))
    tunnel = await client.describe(opened.tunnel_id)
    moment = tunnel.opened.timestamp() + 0.0005
    os.utime(path, (moment, moment))
    finding = await compared(client, opened, path)
    assert finding.verdict is Verdict.WARNING
    assert finding.figure.endswith("after a rotation it is refused")
    assert finding.fix.endswith(f"tailrace tunnel rotate {opened.tunnel_id} --mode source")


async def test_a_token_of_an_earlier_tunnel(client: Client, tmp_path: Path) -> None:
    opened = await client.open(services=["SSH"])
    path = write(tmp_path / "token", TOKEN, timedelta(hours=1))
    finding = await compared(client, opened, path)
    assert isinstance(finding.cause, TokenUseless)
    assert finding.figure == "it is refused: it was written before this tunnel was opened"


async def test_a_token_of_a_closed_tunnel(client: Client, tmp_path: Path) -> None:
    opened = await client.open(services=["SSH"])
    path = write(tmp_path / "token", opened.source_token.reveal())
    await client.close(opened.tunnel_id)
    finding = await compared(client, opened, path)
    assert isinstance(finding.cause, TokenUseless)
    assert finding.figure == "it is refused: its tunnel is closed"


async def test_a_state_directory_of_another_user(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> bool:
        raise PermissionError(13, "denied")

    checks = TokenChecks(file, Side.SOURCE, tmp_path, None)
    monkeypatch.setattr(Path, "exists", refuse)
    finding = await checks.check_file()
    assert finding.verdict is Verdict.OK
