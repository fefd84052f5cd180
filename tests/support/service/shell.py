"""``tailrace`` in the process of a test, and the environment that leads it to a service."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tailrace.cli.exit_codes import ExitCode
from tailrace.cli.tailrace import main
from tailrace.service.config import Endpoints

__all__ = ["Shell", "clear_environment", "use_service"]

VARIABLES = (
    "AWSIOT_TUNNEL_ENDPOINT",
    "AWSIOT_TUNNEL_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_CA_BUNDLE",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_IOTSECURETUNNELING",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "SSL_CERT_FILE",
    "https_proxy",
    "HTTPS_PROXY",
    "no_proxy",
    "NO_PROXY",
)


def clear_environment(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Let no setting of this machine reach the commands."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(directory / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(directory / "aws-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def use_service(monkeypatch: pytest.MonkeyPatch, endpoints: Endpoints) -> None:
    """Lead the commands of the control API to a service."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_IOTSECURETUNNELING", endpoints.api_endpoint)
    monkeypatch.setenv("AWS_CA_BUNDLE", endpoints.ca_file)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", endpoints.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", endpoints.secret_access_key)
    monkeypatch.setenv("AWS_REGION", endpoints.region)


class Shell:
    """Runs ``tailrace tunnel`` in a thread, as the service is in this process too."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    async def __call__(self, *argv: str, status: ExitCode = ExitCode.OK, note: str = "") -> str:
        """Run a command; return what it prints, or its one line of error.

        ``note`` is a pattern of what it says on standard error although it succeeds.
        """
        self._capsys.readouterr()
        try:
            ended = await asyncio.to_thread(main, ["tunnel", *argv])
        except SystemExit as end:
            ended = int(end.code or 0)
        captured = self._capsys.readouterr()
        assert ended == status, captured.err
        if status is ExitCode.OK:
            expected = f"tailrace tunnel {argv[0]}: {note}\n" if note else ""
            assert re.fullmatch(expected, captured.err), captured.err
            return captured.out
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        assert line.startswith(f"tailrace tunnel {argv[0]}: ")
        return line

    async def json(self, *argv: str) -> dict[str, Any]:
        """Run a command; return the document that it prints."""
        document: dict[str, Any] = json.loads(await self(*argv))
        return document
