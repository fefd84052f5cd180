"""Credentials: where botocore would find them, which is the oracle, and never in sight."""

from __future__ import annotations

import http.server
import importlib.util
import itertools
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import botocore.exceptions
import botocore.session
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.aws import Credentials, read_profile
from tailrace.aws.credentials import BotocoreCredentials, find_credentials
from tailrace.common.secret import Secret
from tailrace.errors import ConfigurationError

FULL = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "hidden/key+1="}


def test_from_the_environment() -> None:
    found = Credentials.from_environment({**FULL, "HOME": "/"})
    assert found == Credentials("AKIDEXAMPLE", Secret("hidden/key+1="))
    assert found.session_token is None


def test_temporary_ones() -> None:
    found = Credentials.from_environment({**FULL, "AWS_SESSION_TOKEN": "a+b/c=="})
    assert found.session_token == Secret("a+b/c==")


def test_an_empty_session_token_is_none() -> None:
    assert Credentials.from_environment({**FULL, "AWS_SESSION_TOKEN": ""}).session_token is None


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("how", ["missing", "empty"])
def test_what_is_missing_is_named(name: str, how: str) -> None:
    environment = {key: value for key, value in FULL.items() if key != name}
    if how == "empty":
        environment[name] = ""
    with pytest.raises(ConfigurationError) as caught:
        Credentials.from_environment(environment)
    assert str(caught.value) == (f"no credentials: set {name}, or use the output of tailrace env")


NAMES = {
    "AWS_ACCESS_KEY_ID": "access key id",
    "AWS_SECRET_ACCESS_KEY": "secret access key",
    "AWS_SESSION_TOKEN": "session token",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "text", ["line\n", "a b", "\u00fcber", "tab\t", "\udcff", "\x7f", "x\r\ny: z"]
)
def test_what_cannot_be_sent_is_refused_and_not_shown(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Credentials.from_environment({**FULL, name: text})
    assert str(caught.value).startswith(f"the {NAMES[name]} is empty or holds a blank")
    assert text.strip() not in str(caught.value).replace("a blank", "")


@pytest.mark.parametrize("name", ["secret_access_key", "session_token"])
def test_a_secret_as_plain_text_is_refused_and_not_shown(name: str) -> None:
    parts: dict[str, Any] = {"access_key_id": "AKIA", "secret_access_key": Secret("s")}
    with pytest.raises(ConfigurationError) as caught:
        Credentials(**parts | {name: "pl4in"})
    assert str(caught.value) == f"{name} is not a tailrace.Secret: give tailrace.Secret(text)"


def test_no_part_may_be_empty() -> None:
    with pytest.raises(ConfigurationError, match="secret access key"):
        Credentials("AKID", Secret(""))


@given(secret=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=8))
def test_secrets_are_not_shown(secret: str) -> None:
    found = Credentials("AKIDEXAMPLE", Secret(secret), Secret(secret))
    assert repr(found) == (
        "Credentials(access_key_id='AKIDEXAMPLE', secret_access_key=<redacted>,"
        " session_token=<redacted>)"
    )


# -- where they are found, with botocore as the oracle ---------------------------------------

PROCESS = (
    "credential_process = echo "
    '\'{"Version":1,"AccessKeyId":"PROCESS","SecretAccessKey":"process"}\''
)
CONFIG = f"""
[default]
aws_access_key_id = CONFIG
aws_secret_access_key = config
aws_session_token = config-token
[profile only-config]
aws_access_key_id = ONLYCONFIG
aws_secret_access_key = only-config
aws_security_token = first
aws_session_token = second
[profile both]
aws_access_key_id = BOTHCONFIG
aws_secret_access_key = both-config
aws_session_token = of-another-key
[profile half]
aws_access_key_id = HALF
[profile process]
{PROCESS}
[profile process-and-config]
aws_access_key_id = HIDDEN
aws_secret_access_key = hidden
{PROCESS}
[profile process-and-credentials]
{PROCESS}
[profile nothing]
region = us-east-1
"""
CREDENTIALS = """
[default]
aws_access_key_id = CREDENTIALS
aws_secret_access_key = credentials
[only-credentials]
aws_access_key_id = ONLYCREDENTIALS
aws_secret_access_key = only-credentials
aws_session_token = token
[both]
aws_access_key_id = BOTH
aws_secret_access_key = both
[process-and-credentials]
aws_access_key_id = FILE
aws_secret_access_key = file
[half-credentials]
aws_secret_access_key = secret
"""
PROFILES = [
    None,
    "default",
    "only-config",
    "only-credentials",
    "both",
    "half",
    "half-credentials",
    "process",
    "process-and-config",
    "process-and-credentials",
    "nothing",
]
KEY = {"AWS_ACCESS_KEY_ID": "ENV", "AWS_SECRET_ACCESS_KEY": "env"}
VARIABLES: list[dict[str, str]] = [
    {},
    KEY,
    KEY | {"AWS_SESSION_TOKEN": "session", "AWS_SECURITY_TOKEN": "security"},
    KEY | {"AWS_PROFILE": "only-config"},
    {"AWS_PROFILE": "both"},
    {"AWS_DEFAULT_PROFILE": "process", "AWS_PROFILE": "only-credentials"},
    {"AWS_ACCESS_KEY_ID": "ENV"},
    {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "env"},
]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    (tmp_path / "config").write_text(CONFIG)
    (tmp_path / "credentials").write_text(CREDENTIALS)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("BOTO_CONFIG", "/dev/null")


def oracle(profile: str | None) -> tuple[str, Credentials] | None:
    """Where botocore finds credentials, and which; ``None`` if it finds none."""
    try:
        found = botocore.session.Session(profile=profile).get_credentials()
    except botocore.exceptions.PartialCredentialsError:
        return None
    if found is None:
        return None
    frozen = found.get_frozen_credentials()
    token = Secret(frozen.token) if frozen.token else None
    return found.method, Credentials(frozen.access_key, Secret(frozen.secret_key), token)


def find(profile: str | None) -> Credentials | BotocoreCredentials:
    return find_credentials(read_profile(os.environ, profile), profile)


OURS = {"env", "shared-credentials-file", "config-file"}
"""What is found without botocore."""


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("profile", "variables"), [*itertools.product(PROFILES, VARIABLES)])
def test_what_botocore_finds(
    monkeypatch: pytest.MonkeyPatch, profile: str | None, variables: Mapping[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    expected = oracle(profile)
    if expected is None:
        with pytest.raises(ConfigurationError, match=r"^no credentials: "):
            found = find(profile)
            assert isinstance(found, BotocoreCredentials)
            found()
        return
    method, credentials = expected
    found = find(profile)
    assert isinstance(found, Credentials) is (method in OURS)
    assert (found if isinstance(found, Credentials) else found()) == credentials


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    "lines",
    [
        "role_arn = arn:aws:iam::1:role/r\nsource_profile = both",
        "web_identity_token_file = /token\nrole_arn = arn:aws:iam::1:role/r",
        "sso_role_name = r\nsso_account_id = 1",
    ],
)
def test_what_goes_before_keys_in_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str
) -> None:
    keys = "aws_access_key_id = HIDDEN\naws_secret_access_key = hidden\n"
    (tmp_path / "config").write_text(f"[profile p]\n{lines}\n")
    (tmp_path / "credentials").write_text(f"[p]\n{keys}")
    assert isinstance(find("p"), BotocoreCredentials)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match="need the package boto3: ") as caught:
        find("p")
    assert caught.value.setting == "profile"


@pytest.mark.usefixtures("files")
def test_a_web_identity_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/token")
    assert isinstance(find(None), BotocoreCredentials)
    assert isinstance(find("default"), Credentials)


@pytest.mark.usefixtures("files")
def test_without_botocore(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert find("both") == Credentials("BOTH", Secret("both"))
    with pytest.raises(ConfigurationError, match="need the package boto3: "):
        find("process")
    (tmp_path / "config").write_text("")
    (tmp_path / "credentials").write_text("")
    with pytest.raises(ConfigurationError, match="set AWS_ACCESS_KEY_ID, or use the output of"):
        find(None)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="need the package boto3: "):
        find(None)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("value", ["", " a b"])
def test_keys_of_files_that_are_none(tmp_path: Path, value: str) -> None:
    (tmp_path / "credentials").write_text(
        f"[p]\naws_access_key_id = AKID\naws_secret_access_key = {value}\n"
    )
    with pytest.raises(ConfigurationError, match="the secret access key is empty or holds"):
        find("p")


# -- what botocore asks for ------------------------------------------------------------------


@contextmanager
def answering(content_type: str, bodies: Iterator[str]) -> Iterator[str]:
    """A server in a thread; its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            content = next(bodies).encode()
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.usefixtures("files")
def test_those_of_a_container_are_renewed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("")
    (tmp_path / "credentials").write_text("")
    soon = (datetime.now(UTC) + timedelta(seconds=60)).strftime("%Y-%m-%dT%H:%M:%SZ")
    bodies = (
        json.dumps(
            {
                "AccessKeyId": f"AKID{number}",
                "SecretAccessKey": "secret",
                "Token": f"token{number}",
                "Expiration": soon,
            }
        )
        for number in itertools.count()
    )
    with answering("application/json", bodies) as url:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/get")
        found = find(None)
        assert isinstance(found, BotocoreCredentials)
        first, second = found(), found()
    assert first.access_key_id != second.access_key_id
    assert second.session_token == Secret(f"token{second.access_key_id.removeprefix('AKID')}")


ASSUMED = """<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleResult><Credentials><AccessKeyId>ASSUMED</AccessKeyId><SecretAccessKey>secret
</SecretAccessKey><SessionToken>token</SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration>
</Credentials></AssumeRoleResult></AssumeRoleResponse>""".replace("\n", "")


@pytest.mark.usefixtures("files")
def test_those_of_a_role(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        "[profile role]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = both\n"
        "region = us-east-1\n"
    )
    with answering("text/xml", itertools.repeat(ASSUMED)) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
        found = find("role")
        assert isinstance(found, BotocoreCredentials)
        assert found() == Credentials("ASSUMED", Secret("secret"), Secret("token"))
