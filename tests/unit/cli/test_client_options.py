"""Which control API is called, and as whom."""

import argparse
from pathlib import Path

import pytest

from support.service.shell import clear_environment
from tailrace.cli.client_options import add_client_options, client_of, client_words
from tailrace.errors import ConfigurationError


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_client_options(parser)
    return parser.parse_args(words)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clear_environment(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


def test_a_client() -> None:
    client = client_of(parse("--region", "eu-west-1", "--endpoint-url", "https://here.example"))
    assert (client.region, client.endpoint) == ("eu-west-1", "https://here.example")


def test_no_region() -> None:
    with pytest.raises(ConfigurationError, match="no region: give --region or set AWS_REGION"):
        client_of(parse())


def test_other_mistakes() -> None:
    with pytest.raises(ConfigurationError, match="nobody"):
        client_of(parse("--profile", "nobody"))


def test_the_words_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = ("--endpoint-url", "https://x", "--region", "r", "--ca-bundle", "ca.pem")
    words = client_words(parse(*given))
    assert words == [*given[:-1], str(tmp_path / "ca.pem")]
    assert client_words(parse()) == []
