"""Where other machines reach a service, by what is known of it."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from tailrace.errors import ConfigurationError
from tailrace.service.config import Endpoints
from tailrace.service.reach import find_reach
from tailrace.service.tls.authority import ensure_certificates
from tailrace.service.tls.pins import pins_of

OWN_NAME = socket.gethostname().lower()


@pytest.fixture
def endpoints(tmp_path: Path) -> Endpoints:
    names = ("localhost", OWN_NAME, "tunnel.example", "192.0.2.7", "2001:db8::7")
    made = ensure_certificates(tmp_path / "tls", names, 1_700_000_000.0)
    return Endpoints(
        api_endpoint="https://tunnel.example:7443",
        data_endpoint="tunnel.example:7444",
        ca_file=str(made.ca_file),
        ca_dir=str(made.ca_dir),
        region="eu-west-1",
        access_key_id="AK",
        secret_access_key="SK",
        api_listen="0.0.0.0",
        data_listen="0.0.0.0",
    )


def test_a_service_with_a_name(tmp_path: Path, endpoints: Endpoints) -> None:
    reach = find_reach(tmp_path, endpoints, None)
    assert reach.url == "https://tunnel.example:7443"
    assert (reach.data_endpoint, reach.region) == ("tunnel.example:7444", "eu-west-1")
    assert reach.pins == pins_of(tmp_path / "tls" / "ca.pem")
    assert not reach.is_guess


def test_a_service_without_a_name_has_that_of_its_machine(
    tmp_path: Path, endpoints: Endpoints
) -> None:
    nameless = replace(
        endpoints, api_endpoint="https://localhost:7443", data_endpoint="localhost:7444"
    )
    reach = find_reach(tmp_path, nameless, None)
    assert (reach.url, reach.data_endpoint) == (
        f"https://{OWN_NAME}:7443",
        f"{OWN_NAME}:7444",
    )
    assert reach.is_guess


@pytest.mark.parametrize(
    ("given", "url", "data"),
    [
        ("192.0.2.7", "https://192.0.2.7:7443", "192.0.2.7:7444"),
        ("Tunnel.Example:8443", "https://Tunnel.Example:8443", "Tunnel.Example:7444"),
        ("2001:db8::7", "https://[2001:db8::7]:7443", "[2001:db8::7]:7444"),
        ("[2001:db8::7]", "https://[2001:db8::7]:7443", "[2001:db8::7]:7444"),
        ("[2001:DB8::7]:443", "https://[2001:DB8::7]:443", "[2001:DB8::7]:7444"),
    ],
)
def test_another_host(
    tmp_path: Path, endpoints: Endpoints, given: str, url: str, data: str
) -> None:
    reach = find_reach(tmp_path, endpoints, given)
    assert (reach.url, reach.data_endpoint) == (url, data)


def test_a_data_endpoint_elsewhere_stays_there(tmp_path: Path, endpoints: Endpoints) -> None:
    elsewhere = replace(endpoints, data_endpoint="data.example:443")
    assert find_reach(tmp_path, elsewhere, "192.0.2.7").data_endpoint == "data.example:443"


@pytest.mark.parametrize(
    "given",
    ["", "a b", "-x", "x;y", "$(x)", "x:0", "x:99999", "x:y", "[::1", "fe80::1%eth0", "x\n", "a/b"],
)
def test_what_is_no_host(tmp_path: Path, endpoints: Endpoints, given: str) -> None:
    with pytest.raises(ConfigurationError, match="is not HOST or HOST:PORT"):
        find_reach(tmp_path, endpoints, given)


def test_a_host_that_the_certificate_does_not_have(tmp_path: Path, endpoints: Endpoints) -> None:
    with pytest.raises(ConfigurationError, match=r"not good for other\.example, but for localhost"):
        find_reach(tmp_path, endpoints, "other.example")


@pytest.mark.parametrize("bound", ["127.0.0.1", "localhost", "::1"])
@pytest.mark.parametrize("what", ["api", "data"])
def test_a_service_for_its_own_machine(
    tmp_path: Path, endpoints: Endpoints, what: str, bound: str
) -> None:
    closed = replace(endpoints, **{f"{what}_listen": bound})
    with pytest.raises(ConfigurationError, match=r"listens for this machine only.* --host"):
        find_reach(tmp_path, closed, None)
    assert find_reach(tmp_path, closed, "tunnel.example").url == "https://tunnel.example:7443"


def test_a_service_that_does_not_run(tmp_path: Path, endpoints: Endpoints) -> None:
    with pytest.raises(ConfigurationError, match="no service is running in"):
        find_reach(tmp_path, None, None)
    reach = find_reach(tmp_path, None, "tunnel.example")
    assert (reach.url, reach.data_endpoint, reach.region) == (
        "https://tunnel.example:7443",
        "tunnel.example:7444",
        "",
    )
    with pytest.raises(ConfigurationError, match="start the service once"):
        find_reach(tmp_path / "other", None, "tunnel.example")


def test_a_certificate_of_others_is_not_looked_into(tmp_path: Path, endpoints: Endpoints) -> None:
    file = tmp_path / "public.pem"
    file.write_bytes(trustme.CA().cert_pem.bytes())
    given = replace(endpoints, ca_file=str(file))
    reach = find_reach(tmp_path, given, "any.example")
    assert reach.url == "https://any.example:7443"
    assert reach.pins == pins_of(file)
