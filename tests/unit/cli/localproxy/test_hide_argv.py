"""Arguments that others must not see."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tailrace.cli.localproxy import hide_argv as processargs
from tailrace.cli.localproxy.hide_argv import hide_argument
from tailrace.common.secret import Secret

TOKEN = "AQGAAXlKn0Tqd8Vn3Cn4Zf2bPzAAQABAAdU"
SCRIPT = """
import sys
from tailrace.cli.localproxy.hide_argv import hide_argument
from tailrace.common.secret import Secret
print(hide_argument(Secret(sys.argv[2])))
print(sys.argv[2])
print(open("/proc/self/cmdline").read().split(chr(0))[3:-1])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_hidden_from_the_list_of_processes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "-t", TOKEN, f"--client={TOKEN}", "rest"],
        capture_output=True,
        text=True,
        check=True,
    )
    hidden = "x" * len(TOKEN)
    assert done.stdout.splitlines() == [
        "True",
        TOKEN,
        repr(["-t", hidden, f"--client={hidden}", "rest"]),
    ]


@pytest.mark.parametrize("text", ["", "short", "not an argument of this process at all"])
def test_nothing_to_hide(text: str) -> None:
    assert not hide_argument(Secret(text))


def test_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not hide_argument(Secret(TOKEN))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize(
    ("name", "value"), [("_MAX_ARGUMENTS", 1), ("_ARG_END", 400)], ids=["long", "missing"]
)
def test_arguments_that_cannot_be_told(
    name: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processargs, name, value)
    assert not hide_argument(Secret("pytest --"))
