from __future__ import annotations

from pathlib import Path

import pytest

from tailrace.cli.client_options import add_client_options, client_of, client_words
from tailrace.cli.parser import CommandParser
from tailrace.errors import ConfigurationError


def parse(*words: str):
    parser = CommandParser()
    add_client_options(parser)
    return parser.parse(words)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")


async def test_a_client_as_the_options_say() -> None:
    async with client_of(parse("--region", "eu-west-1", "--endpoint-url", "https://h")) as client:
        assert (client.region, client.endpoint) == ("eu-west-1", "https://h")


def test_what_is_missing_or_wrong() -> None:
    with pytest.raises(ConfigurationError, match="no region: give --region or set AWS_REGION"):
        client_of(parse())
    with pytest.raises(ConfigurationError, match="profile 'x' is not in"):
        client_of(parse("--profile", "x"))


def test_the_same_options_anywhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    words = client_words(parse("--ca-bundle", "ca.pem", "--profile", "p"))
    assert words == ["--profile", "p", "--ca-bundle", str(tmp_path / "ca.pem")]
    assert client_words(parse()) == []
