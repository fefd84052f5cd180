"""What ``tailrace agent run`` takes from the service that the machine has joined."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from support.network.certificates import Certificates
from support.service import config, running
from tailrace.agent.sources.service import ServiceSource
from tailrace.aws import Credentials, JoinedService
from tailrace.aws import joined as joined_module
from tailrace.aws.joined import write_joined
from tailrace.cli.agent_service import add_service_option, adopt_service
from tailrace.common.enrolment import Role
from tailrace.common.secret import Secret
from tailrace.errors import ConfigurationError

MINE = "https://mine.example:7443"
OTHER = "https://other.example:7443"
KEY = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK", "AWS_REGION": "us-east-1"}


def options(**given: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_service_option(parser)
    values: dict[str, object] = {"thing_name": None, "proxy_endpoint": None, "capath": None}
    return argparse.Namespace(**(vars(parser.parse_args([])) | values | given))


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """That of a device that has joined."""
    monkeypatch.setattr(joined_module, "_SYSTEM", tmp_path / "none")
    key = Credentials("AKJOINED", Secret("SK"))
    place = (MINE, "mine.example:7444", "us-east-1", Path(), key)
    pem = Certificates(tmp_path).ca_file.read_bytes()
    service = JoinedService(Role.DEVICE, "pump-7", *place)
    write_joined(tmp_path / "device", service, pem)
    write_joined(tmp_path / "operator", replace(service, role=Role.OPERATOR), pem)
    return {
        "TAILRACE_SERVICE_DIR": str(tmp_path / "device"),
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }


async def test_the_joined_service_takes_the_place_of_options(
    environment: dict[str, str], tmp_path: Path
) -> None:
    for url in (None, MINE):
        args = options(service_url=url)
        source = adopt_service(args, environment, has_other=url is not None)
        assert isinstance(source, ServiceSource)
        assert source.name == MINE
        assert (args.thing_name, args.proxy_endpoint) == ("pump-7", "mine.example:7444")
        assert args.capath.parent == tmp_path / "device"


async def test_what_is_given_stays(environment: dict[str, str]) -> None:
    given = {"thing_name": "pump-8", "proxy_endpoint": "x:1", "capath": Path("ca")}
    args = options(**given)
    assert adopt_service(args, environment, has_other=False) is not None
    assert {name: getattr(args, name) for name in given} == given
    args = options()
    elsewhere = environment | {"AWSIOT_TUNNEL_ENDPOINT": "y:1"}
    assert adopt_service(args, elsewhere, has_other=False) is not None
    assert (args.proxy_endpoint, args.capath) == (None, None)


def test_another_way_in_is_enough(environment: dict[str, str], tmp_path: Path) -> None:
    assert adopt_service(options(), environment, has_other=True) is None
    environment["TAILRACE_SERVICE_DIR"] = str(tmp_path / "operator")
    assert adopt_service(options(), environment, has_other=False) is None
    del environment["TAILRACE_SERVICE_DIR"]
    environment["XDG_CONFIG_HOME"] = str(tmp_path / "none")
    assert adopt_service(options(), environment, has_other=False) is None


async def test_another_service_needs_its_data_endpoint(environment: dict[str, str]) -> None:
    args = options(service_url=OTHER)
    with pytest.raises(ConfigurationError, match=f"no key for {OTHER}"):
        adopt_service(args, environment, has_other=False)
    with pytest.raises(ConfigurationError, match="Give --proxy-endpoint HOST:PORT"):
        adopt_service(args, environment | KEY, has_other=False)
    args = options(service_url=OTHER, proxy_endpoint="other.example:7444")
    source = adopt_service(args, environment | KEY, has_other=False)
    assert source is not None
    assert source.name == OTHER


async def test_the_service_that_runs_here_needs_the_name_of_the_thing(
    environment: dict[str, str], tmp_path: Path
) -> None:
    state_dir = tmp_path / "home" / "tailrace"
    state_dir.parent.mkdir()
    del environment["TAILRACE_SERVICE_DIR"]
    environment["XDG_CONFIG_HOME"] = str(tmp_path / "none")
    environment["XDG_STATE_HOME"] = str(tmp_path / "home")
    async with running(config(state_dir)) as service:
        endpoints = service.endpoints
        assert adopt_service(options(), environment, has_other=False) is None
        assert adopt_service(options(thing_name="pump-7"), environment, has_other=True) is None
        for url in (None, endpoints.api_endpoint):
            args = options(thing_name="pump-7", service_url=url)
            source = adopt_service(args, environment, has_other=False)
            assert source is not None
            assert source.name == endpoints.api_endpoint
            assert args.proxy_endpoint == endpoints.data_endpoint
            assert args.capath == Path(endpoints.ca_file)
