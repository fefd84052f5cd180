"""``tailrace.Client`` against ``tailrace serve``, with what ``tailrace env`` prints."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tailrace
from support.processes.child import clean_environment, installed
from support.repository import ROOT
from support.service import ServiceProcess, service_process
from support.waiting import HANG

PAGE = (ROOT / "docs" / "reference" / "control-client.md").read_text()
(PROGRAM,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def own_service(tmp_path: Path) -> Iterator[ServiceProcess]:
    with service_process(tmp_path) as running:
        yield running


def run(directory: Path, program: str) -> list[str]:
    """Run a program in a shell where ``tailrace env`` was used; return its lines."""
    state = shlex.quote(str(directory / "state"))
    script = f'eval "$({installed("tailrace")} env --state-dir {state})"; exec "$0" -c "$1"'
    done = subprocess.run(
        ["/bin/sh", "-c", script, sys.executable, program],
        env=clean_environment(AWS_CONFIG_FILE="/dev/null"),
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.usefixtures("own_service")
def test_the_program_of_the_documents(tmp_path: Path) -> None:
    first, second, third = run(tmp_path, PROGRAM)
    assert first == "OPEN pump-7 False"
    assert re.fullmatch(r"\S+ OPEN 20\S+\+00:00", second)
    assert third == "{'ticket': '4711', 'operator': 'me'}"


async def test_a_service_that_is_started_again(
    own_service: ServiceProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kept connection is gone; nobody notices, whatever end it came to."""
    endpoints = own_service.endpoints
    monkeypatch.setenv("SSL_CERT_FILE", endpoints.ca_file)
    async with tailrace.Client(
        region=endpoints.region,
        endpoint=endpoints.api_endpoint,
        credentials=tailrace.Credentials(
            endpoints.access_key_id, tailrace.Secret(endpoints.secret_access_key)
        ),
        ca=endpoints.ca_file,
    ) as client:
        opened = await client.open(services=["SSH"])
        for number in (signal.SIGTERM, signal.SIGKILL):
            own_service.restart(number)
            assert (await client.describe(opened.tunnel_id)).services == ("SSH",)
