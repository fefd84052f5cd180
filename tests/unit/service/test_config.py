"""Settings and the ready file."""

import pwd
from pathlib import Path
from typing import NoReturn

import pytest

from tailrace.errors import ConfigurationError
from tailrace.service.config import (
    Address,
    Endpoints,
    ServiceConfig,
    default_state_dir,
    parse_address,
)
from tailrace.service.errors import SettingUnusable


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:7443", "127.0.0.1", 7443),
        ("localhost:0", "localhost", 0),
        ("[::1]:80", "::1", 80),
        ("[::]:65535", "::", 65535),
        ("8443", "127.0.0.1", 8443),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert parse_address(text, "--x") == Address(host, port)


@pytest.mark.parametrize(
    "text",
    ["", ":", ":80", "host:", "host:x", "host:65536", "host:-1", "::1:80", "[]:80", "a:\u0661"],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--x"):
        parse_address(text, "--x")


def test_addresses_print_as_they_are_written() -> None:
    assert str(Address("::1", 5)) == "[::1]:5"
    assert str(Address("h", 5)) == "h:5"


def test_default_state_dir() -> None:
    assert default_state_dir({"XDG_STATE_HOME": "/x"}) == Path("/x/tailrace")
    home = Path.home() / ".local/state/tailrace"
    assert default_state_dir({}) == home
    assert default_state_dir({"XDG_STATE_HOME": "relative"}) == home


def test_a_user_without_a_home_directory_has_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container with a uid that its password file does not know."""

    def nobody(_: int) -> NoReturn:
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(SettingUnusable, match="this user has no home directory: set HOME, or"):
        default_state_dir({})
    assert default_state_dir({"XDG_STATE_HOME": "/x"}) == Path("/x/tailrace")


def test_certificate_hosts(tmp_path: Path) -> None:
    config = ServiceConfig(
        tmp_path, Address("0.0.0.0", 1), Address("10.1.2.3", 2), host_names=("name",)
    )
    assert config.certificate_hosts == ("name", "10.1.2.3")


def test_advertised_addresses(tmp_path: Path) -> None:
    config = ServiceConfig(tmp_path)
    assert config.advertised("10.1.2.3", 5) == Address("10.1.2.3", 5)
    assert config.advertised("0.0.0.0", 5) == Address("localhost", 5)
    named = ServiceConfig(tmp_path, host_names=("one", "two"))
    assert named.advertised("::", 5) == Address("one", 5)
    assert named.advertised("::1", 5) == Address("::1", 5)


def test_the_environment_is_not_printed(tmp_path: Path) -> None:
    assert "sekret" not in repr(ServiceConfig(tmp_path, environment={"X": "sekret"}))


def test_ready_files(tmp_path: Path) -> None:
    endpoints = Endpoints("https://h:1", "h:2", "/ca", "/dir", "r", "ak", "sekret", 7)
    path = tmp_path / "ready.json"
    path.write_bytes(endpoints.to_json())
    assert Endpoints.read(path) == endpoints
    assert "sekret" not in repr(endpoints)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"x": 1}', "5"])
def test_broken_ready_files(tmp_path: Path, content: str) -> None:
    path = tmp_path / "ready.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match="not the ready file"):
        Endpoints.read(path)


def test_missing_ready_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no service is running"):
        Endpoints.read(tmp_path / "ready.json")
    with pytest.raises(ConfigurationError, match="cannot read"):
        Endpoints.read(tmp_path)
