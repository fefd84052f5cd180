"""Notifications through a real command."""

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from support.waiting import HANG
from tailrace.common.secret import Secret
from tailrace.errors import ConfigurationError
from tailrace.service.notify.base import Notification, NotifierDown, NotifyFailed
from tailrace.service.notify.command import CommandNotifier, parse_command

TOKEN = "trt_the-text-of-a-token"
TOPIC = "$aws/things/lamp/tunnels/notify"
NOTIFICATION = Notification("t1", "AK", "lamp", TOPIC, Secret(TOKEN), "us-east-1", ("SSH",), 9e9)

SAVE = """
import json, os, sys
document = sys.stdin.read()
seen = [sys.argv, dict(os.environ)]
open(sys.argv[1], "w").write(json.dumps([json.loads(document), repr(seen)]))
"""


def is_running(pid: int) -> bool:
    """Process 1 may not have waited for it yet: then it is there, but does not run."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


async def test_the_command_reads_it_from_standard_input(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    notifier = CommandNotifier([sys.executable, "-c", SAVE, str(saved)])
    await notifier.deliver(NOTIFICATION)
    await notifier.close()
    document, seen = json.loads(saved.read_text())
    assert document == {
        "thingName": "lamp",
        "tunnelId": "t1",
        "topic": "$aws/things/lamp/tunnels/notify",
        "notification": json.loads(NOTIFICATION.payload()),
    }
    assert TOKEN not in seen


async def test_the_command_gets_a_clean_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = ("TAILRACE_SECRET_ACCESS_KEY", "TAILRACE_MQTT_PASSWORD", "AWS_SECRET_ACCESS_KEY", "X")
    for name in (*secrets, "LC_TIME", "TZ"):
        monkeypatch.setenv(name, f"value of {name}")
    saved = tmp_path / "saved"
    await CommandNotifier([sys.executable, "-c", SAVE, str(saved)]).deliver(NOTIFICATION)
    _, seen = json.loads(saved.read_text())
    for name in secrets:
        assert f"value of {name}" not in seen
    for name in ("LC_TIME", "TZ"):
        assert f"value of {name}" in seen
    assert "'PATH'" in seen


async def test_a_failing_command() -> None:
    with pytest.raises(NotifyFailed, match="status 3") as caught:
        await CommandNotifier(["/bin/sh", "-c", "exit 3"]).deliver(NOTIFICATION)
    assert TOKEN not in str(caught.value)


async def test_a_command_that_does_not_read() -> None:
    await CommandNotifier(["/bin/true"]).deliver(NOTIFICATION)


async def test_a_command_that_does_not_exist() -> None:
    with pytest.raises(NotifierDown, match="No such file"):
        await CommandNotifier(["/no/such/program"]).deliver(NOTIFICATION)


async def test_a_command_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 1000 & echo $! $$ > {pids}; wait"
    with pytest.raises(NotifyFailed, match="did not end within"):
        await CommandNotifier(["/bin/sh", "-c", script], timeout=1.0).deliver(NOTIFICATION)
    started = [int(pid) for pid in pids.read_text().split()]
    async with asyncio.timeout(HANG):
        while any(map(is_running, started)):
            await asyncio.sleep(0.01)


def test_the_name_has_no_arguments() -> None:
    notifier = CommandNotifier(parse_command("/usr/bin/curl --user 'a:b c'"))
    assert notifier.name == "command curl"


@pytest.mark.parametrize(("text", "said"), [("", "is empty"), ("a 'b", "No closing quotation")])
def test_wrong_commands(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        parse_command(text)
    assert "notify_command" in str(caught.value)


def test_quotes_are_those_of_a_shell() -> None:
    assert parse_command("a 'b c' d") == ("a", "b c", "d")


async def test_a_test_runs_no_command() -> None:
    await CommandNotifier(("/nonexistent",)).deliver(replace(NOTIFICATION, is_test=True))
