"""The demonstration from its beginning to its end; what does not work is named.

What the true commands do together is for ``tests/e2e/test_demo.py``.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from support.processes.demo import LISTING, Stage, answers, listening
from tailrace.demo import runner
from tailrace.demo.measurements import DemoFailed
from tailrace.errors import ConfigurationError, ControlError

# -- everything plays along ------------------------------------------------------------------


def test_who_is_told_what(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "AWSIOT_TUNNEL_ACCESS_TOKEN",
        "AWSIOT_TUNNEL_REGION",
        "https_proxy",
        "HTTPS_PROXY",
    ):
        monkeypatch.setenv(name, "of-the-callers-shell")
    stage.run()
    assert [operation for operation, _ in stage.calls] == ["OpenTunnel", "CloseTunnel"]
    assert stage.calls[0][1]["destinationConfig"] == {"services": ["HTTP", "ECHO"]}
    assert stage.calls[1][1] == {"tunnelId": "tunnel-1"}
    for name in ("service", "destination", "source"):
        seen = stage.seen(name)
        assert "token-of" not in " ".join(seen["argv"])
        assert "of-the-callers-shell" not in seen["environ"].values()
        assert Path(seen["cwd"]).name.startswith("tailrace-demo-")
    for name in ("destination", "source"):
        token = stage.seen(name)["environ"]["AWSIOT_TUNNEL_ACCESS_TOKEN"]
        assert token == f"token-of-the-{name}"
    assert "AWSIOT_TUNNEL_ACCESS_TOKEN" not in stage.seen("service")["environ"]
    words = " ".join(stage.seen("source")["argv"][1:])
    assert words.startswith("-m source -b 127.0.0.1 -e 127.0.0.1:4433 -c ")


def test_what_is_said(stage: Stage) -> None:
    stage.run()
    assert stage.said[0].startswith("service      api https://127.0.0.1:")
    assert stage.said[1] == "tunnel       tunnel-1  services HTTP, ECHO"
    assert stage.said[2].startswith("destination  HTTP 127.0.0.1:")
    assert stage.said[3].startswith("source       HTTP 127.0.0.1:")
    assert stage.said[4] == "transfer     64 MiB in each direction, then round trips"
    assert stage.said[6] == "directory listing  64MiB.bin, hello.txt"
    assert stage.said[-1] == "sha256 match: download upload"


def test_ssh_is_shown_where_there_is_one(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sshd:
        monkeypatch.setattr(runner, "_SSH_PORT", sshd.getsockname()[1])
        stage.run()
    assert stage.said[1] == "tunnel       tunnel-1  services HTTP, ECHO, SSH"


def test_a_tunnel_that_is_refused(stage: Stage) -> None:
    stage.refuses = "OpenTunnel"
    with pytest.raises(ControlError, match=r"^LimitExceededException: too many tunnels$"):
        stage.run()


@pytest.mark.parametrize(
    ("method", "number"), [("mkdir", errno.EROFS), ("write_bytes", errno.ENOSPC)]
)
def test_no_place_for_temporary_files(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, method: str, number: int
) -> None:
    def fail(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, method, fail)
    with pytest.raises(ConfigurationError) as caught:
        stage.run()
    assert str(caught.value) == (
        f"cannot write 0 MiB of temporary files: {os.strerror(number)}; "
        "name a directory with room for them in TMPDIR"
    )


# -- staying, and being ended ----------------------------------------------------------------


def press_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Ctrl-C come while the demonstration waits for it."""
    sleep = time.sleep

    def interrupted(seconds: float) -> None:
        if seconds == 0.5:
            signal.raise_signal(signal.SIGINT)
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", interrupted)


@pytest.mark.parametrize("ssh", [False, True])
def test_it_stays_until_ctrl_c(stage: Stage, monkeypatch: pytest.MonkeyPatch, ssh: bool) -> None:
    press_ctrl_c(monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as sshd:
        if ssh:
            monkeypatch.setattr(runner, "_SSH_PORT", sshd.getsockname()[1])
        stage.run(stay=True)
    hints = stage.said[stage.said.index("The tunnel is up. Try, in another terminal:") + 1 :]
    assert [hint.split()[0] for hint in hints if hint] == (
        ["curl", "nc", "ssh", "Ctrl-C"] if ssh else ["curl", "nc", "Ctrl-C"]
    )
    assert stage.calls[-1][0] == "CloseTunnel"


def test_a_process_that_dies_while_it_stays(stage: Stage) -> None:
    def say(line: str) -> None:
        if line.startswith("Ctrl-C"):
            stage.touch("now")

    stage.plan["source"] = {"dies_later": 4}
    with pytest.raises(DemoFailed, match=r"^the source ended with status 4:"):
        stage.run(stay=True, say=say)


def test_sigterm_ends_all(stage: Stage) -> None:
    def say(line: str) -> None:
        if line.startswith("destination"):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as caught:
        stage.run(say=say)
    assert caught.value.code == 128 + signal.SIGTERM


def test_bytes_that_do_not_match(stage: Stage) -> None:
    """The table is shown before the failure."""
    with listening(
        LISTING, answers("200 OK", b"other bytes"), answers("202 OK", b"another hash")
    ) as port:
        stage.plan["source"] = {"ports": {"HTTP": port}}
        assert stage.fails() == ("the bytes that came out of the tunnel are not those that went in")
    assert stage.said[-1] == "sha256 match: none"
