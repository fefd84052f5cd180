"""Profiles, with botocore as the oracle."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import botocore.exceptions
import botocore.session
import pytest

from tailrace.aws import Profile, aws_endpoint, read_profile
from tailrace.errors import ConfigurationError

CONFIG = """
[default]
region = eu-south-1
[profile global]
endpoint_url = https://global
ca_bundle = /global.pem
[profile own]
services = mine
endpoint_url = https://global
[profile 'in quotes']
services = in quotes
ignore_configured_endpoint_urls = false
[profile other]
services = others
endpoint_url = https://global
[profile ignoring]
services = mine
ignore_configured_endpoint_urls = True
[profile ignored]
ignore_configured_endpoint_urls = yes
endpoint_url = https://global
[services mine]
s3 =
  endpoint_url = https://s3
iotsecuretunneling =
  endpoint_url = https://own
[services "in quotes"]
iotsecuretunneling =

  endpoint_url=https://quoted?a=b
[services others]
s3 =
  endpoint_url = https://s3
[stray]
endpoint_url = https://stray
[profile too many words]
endpoint_url = https://stray
[profile "no end]
endpoint_url = https://stray
"""

CREDENTIALS = """
[default]
aws_access_key_id = AKID
[only-here]
endpoint_url = https://credentials
region = eu-north-1
[global]
endpoint_url = https://credentials-first
"""

PROFILES = [
    "",
    "global",
    "own",
    "in quotes",
    "other",
    "ignoring",
    "ignored",
    "only-here",
    "default",
]
VARIABLES = [
    {},
    {"AWS_ENDPOINT_URL": "https://all"},
    {"AWS_ENDPOINT_URL": "https://all", "AWS_ENDPOINT_URL_IOTSECURETUNNELING": "https://one"},
    {"AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_IOTSECURETUNNELING": ""},
    {"AWS_ENDPOINT_URL": "https://all", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
    {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "TRUE"},
    {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false"},
    {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": ""},
    {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "1"},
    {"AWS_CA_BUNDLE": "/environment.pem", "AWS_DEFAULT_REGION": "us-west-2"},
]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Variables that lead to the files, and nothing else of AWS in this process."""
    (tmp_path / "config").write_text(CONFIG)
    (tmp_path / "credentials").write_text(CREDENTIALS)
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WHERE", str(tmp_path))
    return {
        "AWS_CONFIG_FILE": "$WHERE/config",
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
    }


def oracle(profile: str) -> tuple[str, str | None, str | None]:
    """Endpoint, CA bundle and region that botocore finds."""
    session = botocore.session.Session(profile=profile or None)
    region = session.get_config_variable("region")
    client = session.create_client(
        "iotsecuretunneling",
        region_name=region or "us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
        verify=False,
    )
    try:
        return client.meta.endpoint_url, session.get_config_variable("ca_bundle"), region
    finally:
        client.close()


@pytest.mark.parametrize(("profile", "variables"), [*itertools.product(PROFILES, VARIABLES)])
def test_what_botocore_finds(
    files: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    profile: str,
    variables: dict[str, str],
) -> None:
    environment = files | variables
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = read_profile(environment, profile or None)
    endpoint, bundle, region = oracle(profile)
    assert (found.endpoint or aws_endpoint(region or "us-east-1")) == endpoint
    assert found.ca_bundle == (Path(bundle) if bundle else None)
    assert found.region == region


@pytest.mark.parametrize(
    "variables",
    [
        {"AWS_PROFILE": "global"},
        {"AWS_DEFAULT_PROFILE": "own"},
        {"AWS_DEFAULT_PROFILE": "own", "AWS_PROFILE": "global"},
    ],
)
def test_the_profile_of_the_environment(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in (files | variables).items():
        monkeypatch.setenv(name, value)
    assert read_profile(files | variables).endpoint == oracle("")[0]


@pytest.mark.parametrize("text", ["[profile default]\nendpoint_url = https://a\n", "[default]\n"])
def test_the_default_profile_may_be_called_so(
    files: dict[str, str], tmp_path: Path, text: str
) -> None:
    (tmp_path / "config").write_text(text)
    expected = "https://a" if "https" in text else None
    assert read_profile(files).endpoint == expected


def test_no_files(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    none = {"AWS_CONFIG_FILE": gone, "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
    assert read_profile(none) == Profile(none)
    found = read_profile(none | {"AWS_REGION": "a", "AWS_DEFAULT_REGION": "b"})
    assert (found.region, found.endpoint, found.ca_bundle) == ("a", None, None)


def test_a_profile_that_is_missing(files: dict[str, str]) -> None:
    for environment, name in ((files, "nobody"), (files | {"AWS_PROFILE": "nobody"}, None)):
        with pytest.raises(ConfigurationError, match=r"^profile 'nobody' is not in "):
            read_profile(environment, name)
    with pytest.raises(botocore.exceptions.ProfileNotFound):
        botocore.session.Session(profile="nobody").get_scoped_config()


def test_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text("[default]\nca_bundle = ~/ca.pem\n")
    (tmp_path / ".aws" / "credentials").write_text("[default]\nregion = r\n")
    found = read_profile({})
    assert (found.region, found.ca_bundle) == ("r", tmp_path / "ca.pem")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("region = x\n", "is not valid: line 1 stands before the first [section]"),
        ("[default]\npl4in\n", "is not valid: line 2 is neither a [section] nor NAME = VALUE"),
        ("[default]\n=pl4in\n", "is not valid: line 2 is neither a [section] nor NAME = VALUE"),
        ("[default]\nregion = x\n[default]\n", "is not valid: While reading"),
        ("[default]\na =\n  pl4in\n", "is not valid: an indented line has no '='"),
        ("[default]\nregion = \xe9\n", "is not UTF-8"),
    ],
)
def test_files_that_are_not_valid(
    files: dict[str, str], tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "config").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError) as caught:
        read_profile(files)
    assert said in str(caught.value)
    assert "pl4in" not in str(caught.value)
    assert str(tmp_path / "config") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_no_missing_one(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigurationError, match=r"^cannot read .*/config: Permission denied$"):
        read_profile(files)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[default]\nservices = none\n", "services section 'none' is not in"),
        (
            "[default]\nservices = s\n[services s]\niotsecuretunneling = https://x\n",
            "has no indented lines below it, such as: endpoint_url = ",
        ),
        ("[default]\nendpoint_url =\n  a = b\n", "endpoint_url in the AWS configuration files is"),
    ],
)
def test_an_endpoint_that_is_not_given_right(
    files: dict[str, str], tmp_path: Path, text: str, said: str
) -> None:
    """It is never that of AWS then."""
    (tmp_path / "config").write_text(text)
    profile = read_profile(files)
    with pytest.raises(ConfigurationError) as caught:
        _ = profile.endpoint
    assert said in str(caught.value)


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1", "cn-northwest-1"])
def test_endpoints_of_aws(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch, region: str
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    assert oracle("")[0] == aws_endpoint(region)
