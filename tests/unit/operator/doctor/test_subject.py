"""Which service is meant, by options, environment and files, and whether its halves fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tailrace.aws import Credentials
from tailrace.aws.joined import DIRECTORY_VARIABLE, JoinedService, write_joined
from tailrace.checks.findings import Verdict
from tailrace.common.enrolment import Role
from tailrace.common.secret import Secret
from tailrace.errors import ConfigurationError
from tailrace.operator.doctor.subject import DoctorSettings, Subject, find_subject

KEYS = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "s"}
OWN = KEYS | {
    "AWS_REGION": "us-east-1",
    "AWS_ENDPOINT_URL_IOTSECURETUNNELING": "https://tunnel.example:7443",
    "AWSIOT_TUNNEL_ENDPOINT": "tunnel.example:7444",
}
AWS_DATA = "data.tunneling.iot.eu-west-1.amazonaws.com"


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A function that looks with settings and an environment and nothing else."""

    def find(environment: Mapping[str, str], **settings: Any) -> Subject:
        files = {name: str(tmp_path / "nothing") for name in ("AWS_CONFIG_FILE", "HOME")}
        complete = {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "nothing")} | files | environment
        monkeypatch.setattr("os.environ", complete)
        return find_subject(DoctorSettings(**settings), complete)

    return find


def places(subject: Subject) -> tuple[str, str]:
    assert subject.data is not None
    assert subject.control is not None
    return subject.data.endpoint.authority, subject.control.endpoint.authority


def test_a_service_of_ones_own(found: Any) -> None:
    subject = found(OWN)
    assert places(subject) == ("tunnel.example:7444", "tunnel.example:7443")
    assert subject.finding.verdict is Verdict.OK
    assert subject.finding.figure == (
        "data endpoint tunnel.example:7444, control API tunnel.example:7443"
    )


@pytest.mark.parametrize(
    ("environment", "settings"),
    [
        (KEYS, {"region": "eu-west-1"}),
        (KEYS | {"AWS_REGION": "eu-west-1"}, {}),
        (KEYS | {"AWS_REGION": "us-east-1"}, {"region": "eu-west-1"}),
        (KEYS, {"endpoint": AWS_DATA}),
    ],
)
def test_aws_in_a_region(found: Any, environment: Any, settings: Any) -> None:
    subject = found(environment, **settings)
    assert places(subject) == (
        f"{AWS_DATA}:443",
        "api.tunneling.iot.eu-west-1.amazonaws.com:443",
    )
    assert subject.finding.verdict is Verdict.OK


def test_two_regions_are_a_failure(found: Any) -> None:
    """The first cause of refused tokens."""
    environment = KEYS | {"AWS_REGION": "us-east-1", "AWSIOT_TUNNEL_REGION": "eu-west-1"}
    finding = found(environment).finding
    assert finding.verdict is Verdict.FAILED
    assert finding.figure.endswith(": of two regions, eu-west-1 and us-east-1")
    assert isinstance(finding.cause, ConfigurationError)


def test_half_aws_and_half_not_is_odd(found: Any) -> None:
    finding = found(OWN, region="us-east-1").finding
    assert finding.verdict is Verdict.WARNING
    assert finding.figure.endswith(": one is of AWS, the other is not")


def test_keys_of_aws_are_not_shown_to_a_service_of_ones_own(found: Any) -> None:
    subject = found(KEYS | {"AWS_REGION": "us-east-1"}, endpoint="tunnel.example:7444")
    assert subject.client is None
    assert subject.no_control == "no control API is known that belongs to tunnel.example:7444"
    assert subject.finding.figure == "data endpoint tunnel.example:7444"
    named = found(
        KEYS | {"AWS_REGION": "us-east-1"},
        endpoint="tunnel.example:7444",
        control="https://tunnel.example",
    )
    assert places(named) == ("tunnel.example:7444", "tunnel.example:443")


def test_no_service_is_known(found: Any) -> None:
    subject = found({})
    assert subject.data is None
    assert subject.finding.verdict is Verdict.FAILED
    assert "give -r or -e, or set AWSIOT_TUNNEL_ENDPOINT" in subject.finding.figure
    assert subject.finding.fix.startswith("name the service: -r REGION")
    assert subject.no_control.startswith("no region")


def test_no_credentials(found: Any) -> None:
    subject = found({}, region="eu-west-1", profile=None)
    assert subject.data is not None
    # What boto3 finds it is asked for when it is needed.
    assert (subject.client is None) is bool(subject.no_control)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"region": "eu west"}, "Region must contain"),
        ({"endpoint": "https://x"}, "x"),
        ({"region": "eu-west-1", "ca": Path("/no/such/file")}, "/no/such/file"),
    ],
)
def test_settings_that_cannot_be(found: Any, settings: Any, said: str) -> None:
    finding = found(KEYS, **settings).finding
    assert finding.verdict is Verdict.FAILED
    assert said in finding.figure


def test_a_web_proxy_that_cannot_be(found: Any) -> None:
    finding = found(OWN | {"https_proxy": "gopher://proxy"}).finding
    assert finding.verdict is Verdict.FAILED
    assert isinstance(finding.cause, ConfigurationError)


def test_a_service_that_was_joined(found: Any, tmp_path: Path) -> None:
    key = Credentials("AKIAEXAMPLE", Secret("s" * 43))
    joined = JoinedService(
        *(Role.OPERATOR, "me", "https://joined.example:7443", "joined.example:7444"),
        *("us-east-1", Path(), key),
    )
    written = write_joined(tmp_path / "joined", joined, b"PEM")
    environment = {DIRECTORY_VARIABLE: str(tmp_path / "joined")}
    (tmp_path / "joined").chmod(0o700)
    subject = found(environment)
    assert subject.data is not None, subject.finding
    assert subject.data.endpoint.authority == "joined.example:7444"
    assert subject.data.endpoint.tls.capath == written.ca_file


@pytest.mark.parametrize(
    ("settings", "needs"), [({}, False), ({"thing": "t"}, True), ({"tunnel_id": "t"}, True)]
)
def test_who_needs_the_control_api(settings: Any, needs: bool) -> None:
    assert DoctorSettings(**settings).needs_control is needs
