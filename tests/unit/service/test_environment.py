"""The environment that points clients to a service; ``tailrace env`` is tested with the command."""

from pathlib import Path

import pytest

from tailrace.errors import ConfigurationError
from tailrace.service.config import Endpoints
from tailrace.service.environment import client_environment
from tailrace.service.identity.key_store import ACCESS_KEY_VARIABLE, SECRET_KEY_VARIABLE


def endpoints(ca_file: Path, secret: str) -> Endpoints:
    return Endpoints("https://h:1", "h:2", str(ca_file), "", "eu-west-1", "AKID", secret)


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    (tmp_path / "tls").mkdir()
    (tmp_path / "ca.pem").write_text("ours\n")
    return tmp_path


def test_all_that_clients_need(state_dir: Path) -> None:
    bundle = state_dir / "tls" / "bundle.pem"
    assert client_environment(endpoints(state_dir / "ca.pem", "secret"), state_dir, {}) == {
        "AWS_ACCESS_KEY_ID": "AKID",
        "AWS_CA_BUNDLE": str(bundle),
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL_IOTSECURETUNNELING": "https://h:1",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false",
        "AWS_REGION": "eu-west-1",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWSIOT_TUNNEL_ENDPOINT": "h:2",
        "SSL_CERT_FILE": str(bundle),
    }
    assert bundle.read_text().endswith("\nours\n")


@pytest.mark.parametrize(("key", "known"), [("AKID", True), ("OTHER", False)])
def test_a_key_that_the_service_was_given(state_dir: Path, key: str, known: bool) -> None:
    given = {ACCESS_KEY_VARIABLE: key, SECRET_KEY_VARIABLE: "theirs"}
    variables = client_environment(endpoints(state_dir / "ca.pem", ""), state_dir, given)
    assert variables.get("AWS_SECRET_ACCESS_KEY") == ("theirs" if known else None)
    assert ("AWS_ACCESS_KEY_ID" in variables) is known


def test_certificates_that_are_gone(state_dir: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read .*gone\.pem"):
        client_environment(endpoints(state_dir / "gone.pem", "s"), state_dir, {})
