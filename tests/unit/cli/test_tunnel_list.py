"""``tailrace tunnel list`` on a terminal."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.service import config, dial, running
from support.service.shell import Shell, clear_environment, use_service
from tailrace.cli.exit_codes import ExitCode
from tailrace.cli.tailrace import main
from tailrace.operator import tunnels
from tailrace.service.tunneling_service import TunnelingService
from tailrace.service.tunnels.rules import TunnelSpec


@pytest.fixture
async def service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[TunnelingService]:
    clear_environment(monkeypatch, tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    async with running(config(tmp_path / "state")) as service:
        use_service(monkeypatch, service.endpoints)
        yield service


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def words(table: str) -> list[list[str]]:
    return [line.split() for line in table.splitlines()]


async def test_what_tells_tunnels_apart(
    service: TunnelingService, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    control = service._running.control
    first = control.open_tunnel(TunnelSpec(thing_name="pump-7", services=("SSH", "HTTP")))
    second = control.open_tunnel(TunnelSpec(lifetime_minutes=30, description="the lamp"))
    closed = control.open_tunnel(TunnelSpec(services=("VNC",))).tunnel.tunnel_id
    control.close_tunnel(closed, delete=False)
    token = first.destination_token.reveal()
    ids = ["SSH", "HTTP"]
    async with dial(service.endpoints, "destination", token, expect_ids=ids):
        head, lamp, pump, hint = (await shell("list")).splitlines()
        assert head.split()[2:8] == [
            *("THING", "SERVICES", "SOURCE", "DESTINATION", "LEFT", "OPENED")
        ]
        assert lamp.split()[:6] == [second.tunnel.tunnel_id[:8], "OPEN", *"----"]
        assert lamp.split()[6:8] == ["29", "min"]
        assert lamp.endswith("  the lamp")
        assert pump.split()[2:6] == ["pump-7", "SSH,HTTP", "-", "since"]
        assert "  11 h 59 min  " in pump
        assert hint == "1 closed: --all lists it, too"
    by_thing = words(await shell("list", "--all", "--sort", "thing"))
    assert [line[2] for line in by_thing[1:]] == ["-", "pump-7", "-"]
    assert by_thing[3][:4] == [closed[:8], "CLOSED", "-", "VNC"]
    by_time = words(await shell("list", "--sort", "left", "--open", "--max", "2"))
    assert [line[0] for line in by_time[1:]] == [
        second.tunnel.tunnel_id[:8],
        first.tunnel.tunnel_id[:8],
    ]
    (_, only) = words(await shell("list", "--max", "1"))
    assert only[0] == second.tunnel.tunnel_id[:8]
    few = words(await shell("list", "--no-details", "--thing", "pump-7"))
    assert few[0] == ["TUNNEL", "STATUS", "OPENED", "DESCRIPTION"]
    assert [line[0] for line in few[1:]] == [first.tunnel.tunnel_id[:8]]


async def test_nothing_to_list(
    service: TunnelingService, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert await shell("list") == "no open tunnel\n"
    assert await shell("list", "--all", "--thing", "x") == "no tunnel of x\n"
    control = service._running.control
    for _ in range(2):
        control.close_tunnel(control.open_tunnel(TunnelSpec()).tunnel.tunnel_id, delete=False)
    assert await shell("list") == "no open tunnel\n2 closed: --all lists them, too\n"


async def test_json_has_all_unless_told_otherwise(service: TunnelingService, shell: Shell) -> None:
    control = service._running.control
    ids = [control.open_tunnel(TunnelSpec()).tunnel.tunnel_id for _ in range(3)]
    control.close_tunnel(ids[2], delete=False)

    async def listed(*argv: str) -> list[str]:
        found = (await shell.json("list", *argv))["tunnelSummaries"]
        return [each["tunnelId"] for each in found]

    assert await listed() == await listed("--all") == ids[::-1]
    assert await listed("--open") == ids[1::-1]
    assert await listed("--open", "--max", "1") == [ids[1]]


async def test_many_are_asked_about_over_several_connections(
    service: TunnelingService, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    control = service._running.control
    for number in range(40):
        control.open_tunnel(TunnelSpec(thing_name=f"t{number}", services=("SSH",)))
    rows = words(await shell("list"))
    assert {row[2] for row in rows[1:]} == {f"t{number}" for number in range(40)}
    monkeypatch.setattr(tunnels, "MOST_DESCRIBED", 3)
    rows = words(
        await shell(
            "list",
            note="only 3 tunnels have their details here; --thing or --max lists fewer",
        )
    )
    assert [row[2] for row in rows[1:6]] == ["t39", "t38", "t37", "?", "?"]


async def test_a_key_that_may_only_list(
    service: TunnelingService,
    shell: Shell,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    service._running.control.open_tunnel(TunnelSpec())
    state = ["--state-dir", str(tmp_path / "state")]
    assert main(["keys", *state, "add", "--operation", "ListTunnels"]) == ExitCode.OK
    for line in capsys.readouterr().out.splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        if name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert await shell("list", "--no-details")
    note = "1 of 1 tunnels have no details here: AccessDeniedException: .*"
    assert words(await shell("list", note=note))[1][2:7] == ["?"] * 5


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--open", "--all"], "not allowed with argument --open"),
        (["--sort", "size"], "invalid choice"),
        (["--sort", "thing", "--no-details"], "--sort thing needs the details"),
    ],
)
async def test_options_that_contradict(shell: Shell, argv: list[str], said: str) -> None:
    assert said in await shell("list", *argv, status=ExitCode.USAGE)
