"""The files of a joined service: who may read them, and where they are found."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tailrace.aws import joined as module
from tailrace.aws.credentials import Credentials
from tailrace.aws.joined import (
    DIRECTORY_VARIABLE,
    JoinedService,
    default_directory,
    find_joined,
    forget_pending,
    pending_secret_key,
    read_joined,
    unless_named,
    write_joined,
)
from tailrace.common.enrolment import Role, new_code, new_secret_key
from tailrace.common.secret import Secret
from tailrace.errors import ConfigurationError


def service(name: str = "pump-7", **changes: object) -> JoinedService:
    values: dict[str, Any] = {
        "api_endpoint": "https://tunnel.example:7443",
        "data_endpoint": "[2001:db8::7]:7444",
        "region": "us-east-1",
    }
    values |= changes
    key = Credentials("AKIAEXAMPLE", Secret("s" * 43))
    made: JoinedService = replace(
        JoinedService(Role.DEVICE, name, "https://x", "x:1", "x", Path(), key), **values
    )
    return made


@pytest.fixture(autouse=True)
def system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The directory of the system, which is not that of this machine."""
    directory = tmp_path / "etc"
    monkeypatch.setattr(module, "_SYSTEM", directory)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return directory


def test_what_is_written_is_read(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    written = write_joined(directory, service(), b"PEM")
    assert read_joined(directory) == written
    assert written.ca_file.read_bytes() == b"PEM"
    assert written.ca_file.parent == directory
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for each in directory.iterdir():
        assert stat.S_IMODE(each.stat().st_mode) == 0o600
    assert "s" * 43 not in repr(written)


def test_files_may_be_copied_elsewhere(tmp_path: Path) -> None:
    write_joined(tmp_path / "a", service(), b"PEM")
    (tmp_path / "a").rename(tmp_path / "b")
    found = read_joined(tmp_path / "b")
    assert found is not None
    assert found.ca_file.read_bytes() == b"PEM"


def test_a_death_between_the_files_leaves_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = write_joined(tmp_path, service(), b"old")

    def die(path: Path, content: bytes) -> None:
        if path.name == "service.json":
            raise KeyboardInterrupt
        path.write_bytes(content)

    with monkeypatch.context() as context:
        context.setattr(module, "write_file", die)
        with pytest.raises(KeyboardInterrupt):
            write_joined(tmp_path, service("pump-8"), b"new")
    assert read_joined(tmp_path) == old
    assert old.ca_file.read_bytes() == b"old"
    new = write_joined(tmp_path, service("pump-8"), b"new")
    assert read_joined(tmp_path) == new
    assert new.ca_file.read_bytes() == b"new"


def test_where_it_is_looked_for(system: Path, tmp_path: Path) -> None:
    assert find_joined({}) is None
    write_joined(system, service("of-system"), b"")
    found = find_joined({})
    assert found is not None
    assert found.name == "of-system"
    for name, directory, environment in (
        ("of-user", tmp_path / "home" / ".config" / "tailrace", {}),
        ("of-xdg", tmp_path / "xdg" / "tailrace", {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}),
        ("of-variable", tmp_path / "x", {DIRECTORY_VARIABLE: str(tmp_path / "x")}),
    ):
        write_joined(directory, service(name), b"")
        found = find_joined(environment)
        assert found is not None
        assert found.name == name
    with pytest.raises(ConfigurationError, match=f"{DIRECTORY_VARIABLE}: .* has no service.json"):
        find_joined({DIRECTORY_VARIABLE: str(tmp_path / "nowhere")})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_that_of_root_is_no_business_of_others(system: Path) -> None:
    write_joined(system, service(), b"")
    system.chmod(0)
    assert find_joined({}) is None
    system.chmod(0o700)


def test_a_directory_that_may_not_be_looked_into(
    system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(module, "open_private", refuse)
    with pytest.raises(ConfigurationError, match=f"cannot read {system}/.*: Permission denied"):
        read_joined(system)
    with pytest.raises(ConfigurationError, match=r"cannot read .*/home/.*: Permission denied"):
        find_joined({})  # that of the user, who asked for it


@pytest.mark.parametrize("name", ["AWS_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL"])
def test_the_environment_comes_first(system: Path, name: str) -> None:
    write_joined(system, service(), b"")
    assert unless_named({name: ""}, find_joined) is not None
    assert unless_named({name: "x"}, find_joined) is None


def test_where_users_join(tmp_path: Path, system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tmp_path / "x"
    assert default_directory({DIRECTORY_VARIABLE: str(given)}) == given
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_directory({}) == system
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert default_directory({}) == tmp_path / "home" / ".config" / "tailrace"

    def nobody() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(ConfigurationError, match="give a directory with --dir"):
        default_directory({})
    assert find_joined({}) is None


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"role": "admin"}, "is not valid; run tailrace join again"),
        ({"secret_access_key": 7}, "is not valid; run tailrace join again"),
        ({"name": "a\nb"}, "name 'a.nb' of the service is not valid"),
        ({"region": None}, "region None of the service is not valid"),
        ({"api_endpoint": "http://x"}, "api_endpoint 'http://x' of the service is not valid"),
        ({"data_endpoint": "x"}, "data_endpoint 'x' of the service is not valid"),
        ({"access_key_id": "a b"}, "the access key id is empty or holds a blank"),
    ],
)
def test_files_that_make_no_sense(tmp_path: Path, changes: dict[str, object], text: str) -> None:
    write_joined(tmp_path, service(), b"")
    path = tmp_path / "service.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ConfigurationError, match=text):
        read_joined(tmp_path)


def test_files_of_others(tmp_path: Path) -> None:
    write_joined(tmp_path, service(), b"")
    path = tmp_path / "service.json"
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match=f"chmod 600 {path}"):
        read_joined(tmp_path)
    path.unlink()
    path.write_text("[" * 10_000)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="is not valid"):
        read_joined(tmp_path)
    assert read_joined(path / "below") is None


def test_a_secret_key_outlives_the_program_until_it_is_used(tmp_path: Path) -> None:
    code = new_code()
    made = pending_secret_key(tmp_path, code)
    assert stat.S_IMODE((tmp_path / "joining.json").stat().st_mode) == 0o600
    assert pending_secret_key(tmp_path, code) == made
    assert code.reveal() not in (tmp_path / "joining.json").read_text()
    assert pending_secret_key(tmp_path, new_code()) != made
    forget_pending(tmp_path)
    forget_pending(tmp_path)
    assert pending_secret_key(tmp_path, code) != made
    (tmp_path / "joining.json").write_text("no")
    assert pending_secret_key(tmp_path, code) != new_secret_key()
