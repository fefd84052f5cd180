from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tailrace.aws import Credentials, JoinedService, joined
from tailrace.aws.joined import write_joined
from tailrace.common.addresses import TCPAddress, UnixAddress
from tailrace.common.enrolment import Role
from tailrace.common.secret import Secret
from tailrace.errors import ConfigurationError
from tailrace.library.service_map import ServiceMap
from tailrace.library.settings import RESUME_TIMEOUT, proxy_settings
from tailrace.localproxy.settings import PeerVersion, ProxySettings
from tailrace.wire import Side

CLIENT_TOKEN = "0123456789abcdef-0123456789abcdef"


def settings(environ: dict[str, str] | None = None, **changes: Any) -> ProxySettings:
    return proxy_settings(Side.SOURCE, "t0ken", environ or {}, **changes)


async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve nothing."""


@pytest.mark.parametrize(
    ("environ", "changes", "place"),
    [
        ({}, {"region": "eu-west-1"}, ("data.tunneling.iot.eu-west-1.amazonaws.com", 443)),
        ({}, {"endpoint": "Tunnel.Example:7444"}, ("tunnel.example", 7444)),
        ({"AWSIOT_TUNNEL_ENDPOINT": "[::1]:1"}, {}, ("::1", 1)),
        (
            {"AWSIOT_TUNNEL_REGION": "cn-north-1", "AWSIOT_TUNNEL_ENDPOINT": ""},
            {},
            ("data.tunneling.iot.cn-north-1.amazonaws.com.cn", 443),
        ),
        ({"AWSIOT_TUNNEL_REGION": "eu-west-1"}, {"endpoint": "mine"}, ("mine", 443)),
        (
            {"AWSIOT_TUNNEL_ENDPOINT": "mine"},
            {"region": "us-east-1"},
            ("data.tunneling.iot.us-east-1.amazonaws.com", 443),
        ),
    ],
)
def test_the_endpoint_is_that_of_arguments_or_else_of_the_environment(
    environ: dict[str, str], changes: dict[str, str], place: tuple[str, int]
):
    found = settings(environ, **changes)
    assert (found.host, found.port) == place


@pytest.mark.parametrize("dialect", ["V1", "V2", "V3"])
def test_the_dialect_is_found_out_unless_given(dialect: Any):
    assert settings(endpoint="h").peer_version is PeerVersion.AUTO
    assert settings(endpoint="h", dialect=dialect).peer_version is PeerVersion(dialect)
    with pytest.raises(ConfigurationError, match="dialect='v1' is none of 'V1', 'V2' and 'V3'"):
        settings(endpoint="h", dialect="v1")


def test_connections_wait_for_a_lost_link_as_long_as_was_said():
    usual = settings(endpoint="h")
    engine = ProxySettings(side=Side.SOURCE, host="h", access_token=Secret("t0ken"))
    assert usual.resume_timeout == RESUME_TIMEOUT == engine.resume_timeout
    assert settings(endpoint="h", resume_timeout=0).resume_timeout == 0
    assert settings(endpoint="h", resume_timeout=86_400).resume_timeout == 86_400


def test_the_rest_is_what_was_given(tmp_path: Path):
    found = settings(
        {"https_proxy": "http://proxy:3128"},
        endpoint="h",
        ca=str(tmp_path),
        client_token=CLIENT_TOKEN,
    )
    assert (found.side, found.access_token) == (Side.SOURCE, Secret("t0ken"))
    assert (found.capath, found.client_token) == (tmp_path, Secret(CLIENT_TOKEN))
    assert str(found.web_proxy) == "http://proxy:3128"
    assert (found.services, found.listen) == (None, False)
    assert settings({"https_proxy": "http://p:1", "no_proxy": "h"}, endpoint="h").web_proxy is None


def test_an_application_is_an_address_a_port_or_a_handler():
    services = {"A": "localhost:22", "B": 80, "C": "unix:/run/x", "D": handler, "E": "[::1]:1"}
    assert settings(endpoint="h", services=services).services == {
        "A": TCPAddress("localhost", 22),
        "B": TCPAddress("", 80),
        "C": UnixAddress("/run/x"),
        "D": handler,
        "E": TCPAddress("::1", 1),
    }


@pytest.mark.parametrize(
    ("environ", "changes", "sentence"),
    [
        ({}, {}, "give region= or endpoint=, or set AWSIOT_TUNNEL_ENDPOINT"),
        ({}, {"region": "r", "endpoint": "h"}, "region= and endpoint= exclude each other"),
        (
            {"AWSIOT_TUNNEL_REGION": "r", "AWSIOT_TUNNEL_ENDPOINT": "h"},
            {},
            "AWSIOT_TUNNEL_REGION and AWSIOT_TUNNEL_ENDPOINT exclude each other",
        ),
        ({}, {"region": "EU"}, "Region must contain only lowercase"),
        ({}, {"endpoint": "https://h"}, "give HOST or HOST:PORT"),
        ({}, {"endpoint": "h", "client_token": "short"}, "client_token= is not 32 to 128"),
        ({}, {"endpoint": "h", "ca": "/nowhere/ca.pem"}, "ca='/nowhere/ca.pem': there is no such"),
        ({"https_proxy": "ftp://h"}, {"endpoint": "h"}, "https_proxy"),
        ({}, {"endpoint": "h", "services": {}}, "at least one service"),
        ({}, {"endpoint": "h", "services": {"A B": 1}}, "Service ID must contain only"),
        ({}, {"endpoint": "h", "services": {"A": 0}}, "port 0 is not in 1..65535"),
        ({}, {"endpoint": "h", "services": {"A": "http://h:1"}}, "is a URL; write h:1"),
        ({}, {"endpoint": "h", "services": {"A": "h"}}, "has no port; write HOST:PORT"),
        ({}, {"endpoint": "h", "services": ["A"]}, "services are a dictionary"),
        ({}, {"endpoint": "h", "ca": 1}, "ca=1 is not a path"),
        ({}, {"endpoint": 7444}, "endpoint=7444 is not a string"),
        ({}, {"region": b"eu-west-1"}, "region=b'eu-west-1' is not a string"),
        ({}, {"endpoint": "h", "renewal_timeout": "5"}, "renewal_timeout='5' is not a number"),
        ({}, {"endpoint": "h", "resume_timeout": "5"}, "resume_timeout='5' is not a number"),
        ({}, {"endpoint": "h", "resume_timeout": None}, "resume_timeout=None is not 0 to 86400 s"),
        (
            {},
            {"endpoint": "h", "resume_timeout": -1},
            "resume_timeout=-1 is not 0 to 86400",
        ),
        ({}, {"endpoint": "h", "resume_timeout": 86_401}, "resume_timeout=86401 is not 0 to"),
        ({}, {"endpoint": "h", "client_token": b"t0p"}, "client_token is of type bytes: give a"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    environ: dict[str, str], changes: dict[str, Any], sentence: str
):
    with pytest.raises(ConfigurationError) as caught:
        settings(environ, **changes)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("token", "given"), [(None, "None"), (b"t0ken", "of type bytes")])
def test_a_token_that_is_no_text_is_not_shown(token: Any, given: str):
    with pytest.raises(ConfigurationError) as caught:
        proxy_settings(Side.SOURCE, token, {}, endpoint="h")
    assert str(caught.value) == f"token is {given}: give a string or a tailrace.Secret"


def test_secrets_are_taken_as_they_are():
    found = proxy_settings(
        Side.SOURCE, Secret("t0ken"), {}, endpoint="h", client_token=Secret(CLIENT_TOKEN)
    )
    assert (found.access_token, found.client_token) == (Secret("t0ken"), Secret(CLIENT_TOKEN))


def test_the_joined_service_is_meant_where_nothing_else_is_said(tmp_path: Path):
    service = JoinedService(
        Role.OPERATOR,
        "alice",
        "https://mine.example:7443",
        "mine.example:7444",
        "us-east-1",
        Path(),
        Credentials("AK", Secret("SK")),
    )
    joined = write_joined(tmp_path, service, b"PEM")
    environ = {"TAILRACE_SERVICE_DIR": str(tmp_path)}
    found = settings(environ)
    assert (found.host, found.port, found.capath) == ("mine.example", 7444, joined.ca_file)
    other = tmp_path / "ca.pem"
    other.write_bytes(b"")
    assert settings(environ, ca=other).capath == other
    told = settings(environ | {"AWSIOT_TUNNEL_ENDPOINT": "other.example"})
    assert (told.host, told.capath) == ("other.example", None)
    # A token goes to no other service than that of the API that made it.
    assert settings(environ, control="https://mine.example:7443").host == "mine.example"
    with pytest.raises(ConfigurationError, match="which service has the tunnel"):
        settings(environ, control="https://other.example")


def test_the_service_that_runs_here_is_meant_where_none_was_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(joined, "_SYSTEM", tmp_path / "none")
    ready = {
        "api_endpoint": "https://localhost:7443",
        "data_endpoint": "localhost:7444",
        "ca_file": "/ca.pem",
        "region": "us-east-1",
        "access_key_id": "AK",
        "secret_access_key": "SK",
        "pid": os.getpid(),
    }
    (tmp_path / "tailrace").mkdir()
    path = tmp_path / "tailrace" / "ready.json"
    path.write_text(json.dumps(ready))
    path.chmod(0o600)
    environ = {"XDG_STATE_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "none")}
    found = settings(environ)
    assert (found.host, found.port, found.capath) == ("localhost", 7444, Path("/ca.pem"))
    with pytest.raises(ConfigurationError, match="which service has the tunnel"):
        settings(environ, control="https://other.example")


def test_a_map_that_changes_is_asked_and_not_read():
    services = ServiceMap({"SSH": 22})
    found = proxy_settings(Side.DESTINATION, "t0ken", {}, endpoint="h", services=services)
    assert found.routes is services
    assert found.services is None
    assert settings(endpoint="h", services={"SSH": 22}).routes is None
