"""The access key."""

import stat
from pathlib import Path

import pytest

from tailrace.errors import ConfigurationError
from tailrace.secret import Secret
from tailrace.service.credentials import (
    ACCESS_KEY_VARIABLE,
    SECRET_KEY_VARIABLE,
    ensure_credentials,
)


def test_a_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    made = ensure_credentials(path, {})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(made.access_key_id) == 20
    assert made.secret_access_key.reveal() not in repr(made)
    assert ensure_credentials(path, {}) == made
    assert ensure_credentials(tmp_path / "other", {}) != made


def test_secrets_are_found_by_id(tmp_path: Path) -> None:
    made = ensure_credentials(tmp_path / "c", {})
    assert made.secret_of(made.access_key_id) == made.secret_access_key
    assert made.secret_of("other") is None


def test_the_environment_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "c"
    given = ensure_credentials(path, {ACCESS_KEY_VARIABLE: "AK", SECRET_KEY_VARIABLE: "SK"})
    assert (given.access_key_id, given.secret_access_key) == ("AK", Secret("SK"))
    assert not path.exists()


@pytest.mark.parametrize("name", [ACCESS_KEY_VARIABLE, SECRET_KEY_VARIABLE])
def test_half_a_key_in_the_environment(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="both"):
        ensure_credentials(tmp_path / "c", {name: "x"})


@pytest.mark.parametrize("content", ["", "[]", '{"access_key_id": "sekret"}'])
def test_a_broken_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "c"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=str(path)) as caught:
        ensure_credentials(path, {})
    assert "sekret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_directory_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read"):
        ensure_credentials(tmp_path, {})
