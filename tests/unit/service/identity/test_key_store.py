"""The file of access keys and who looks into it."""

import errno
import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tailrace.common.secret import Secret
from tailrace.errors import ConfigurationError
from tailrace.service.identity.key_store import (
    ACCESS_KEY_VARIABLE,
    SECRET_KEY_VARIABLE,
    KeyFile,
    KeyRing,
    credentials_file,
    new_key,
)
from tailrace.service.identity.policy import Policy


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(credentials_file(tmp_path))


def open_ring(file: KeyFile, environment: dict[str, str] | None = None) -> KeyRing:
    return KeyRing(file, environment or {}, 1000.0)


def test_a_key_is_made_once(file: KeyFile) -> None:
    made = open_ring(file).own
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert len(made.access_key_id) == 20
    assert made.name == "default"
    assert made.policy.is_unlimited
    assert made.secret_access_key.reveal() not in repr(made)
    assert open_ring(file).own == made
    assert open_ring(KeyFile(file.path.with_name("other"))).own != made


def test_a_key_of_another_machine_is_not_the_services_own(file: KeyFile) -> None:
    file.add(replace(new_key("alice", 1.0), joined=True), 1.0)
    own = open_ring(file).own
    assert own.name == "default"
    assert [(key.name, key.joined) for key in file.read()] == [("alice", True), ("default", False)]
    assert open_ring(file).own == own


def test_new_keys_differ_and_temporary_ones_end() -> None:
    assert new_key("n", 1.0).access_key_id != new_key("n", 1.0).access_key_id
    forever = new_key("n", 1.0)
    # As long as those of AWS.
    assert len(forever.secret_access_key.reveal()) == 40
    assert (forever.session_token, forever.expires_at) == (None, None)
    temporary = new_key("n", 1.0, seconds=60)
    assert temporary.access_key_id.startswith("ASIA")
    assert temporary.expires_at == 61.0
    assert temporary.session_token is not None
    assert len(temporary.session_token.reveal().removeprefix("trs_")) == 43


def test_the_file_of_a_single_key_is_understood(file: KeyFile) -> None:
    file.path.write_text('{"access_key_id": "AK", "secret_access_key": "SK"}')
    file.path.chmod(0o600)
    ring = open_ring(file)
    assert (ring.own.access_key_id, ring.own.secret_access_key) == ("AK", Secret("SK"))
    added = new_key("more", 1.0)
    file.add(added, 1.0)
    assert file.read() == (ring.own, added)


def test_changes_are_seen_at_once(file: KeyFile, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    ring = open_ring(file)
    assert ring.find(ring.own.access_key_id) == ring.own
    added = new_key("more", 1000.0, Policy(read_only=True))
    assert ring.find(added.access_key_id) is None
    file.add(added, 1000.0)
    assert ring.find(added.access_key_id) == added
    assert "there are 2" in caplog.text
    assert file.revoke(added.access_key_id) == added
    assert ring.find(added.access_key_id) is None
    assert file.revoke(added.access_key_id) is None
    file.path.unlink()
    assert ring.find(ring.own.access_key_id) is None


def test_a_file_that_breaks_leaves_the_keys_as_they_were(
    file: KeyFile, caplog: pytest.LogCaptureFixture
) -> None:
    ring = open_ring(file)
    file.path.write_text("sekret")
    assert ring.find(ring.own.access_key_id) == ring.own
    assert ring.find("other") is None
    assert len(caplog.messages) == 1
    assert "stay as they were" in caplog.text
    assert "sekret" not in caplog.text


def test_a_revoked_key_ends_although_the_first_look_fails(
    file: KeyFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ring = open_ring(file)
    file.revoke(ring.own.access_key_id)

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as context:
        context.setattr(os, "open", fail)
        for _ in range(3):
            assert ring.find(ring.own.access_key_id) == ring.own
    assert len(caplog.messages) == 1
    assert ring.find(ring.own.access_key_id) is None


def test_a_file_is_read_once_its_mode_is_right(
    file: KeyFile, caplog: pytest.LogCaptureFixture
) -> None:
    ring = open_ring(file)
    for _ in range(2):
        caplog.clear()
        file.path.write_text('{"keys": []}')
        file.path.chmod(0o644)
        assert ring.find(ring.own.access_key_id) == ring.own
        assert "chmod 600" in caplog.text
        file.path.chmod(0o600)
        assert ring.find(ring.own.access_key_id) is None
        file.add(ring.own, 1000.0)
        assert ring.find(ring.own.access_key_id) == ring.own


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for another user")
def test_root_looks_after_the_keys_of_another_user(file: KeyFile) -> None:
    def owners() -> set[int]:
        return {path.stat().st_uid for path in file.path.parent.iterdir()}

    open_ring(file)
    for path in (file.path.parent, *file.path.parent.iterdir()):
        os.chown(path, 12345, 12345)
    file.path.with_name(f"{file.path.name}.lock").unlink()
    file.make_directory()
    key = new_key("by root", 1000.0)
    file.add(key, 1000.0)
    assert owners() == {12345}
    file.revoke(key.access_key_id)
    assert owners() == {12345}


def test_the_directory_is_private(file: KeyFile) -> None:
    missing = KeyFile(file.path.parent / "missing" / file.path.name)
    missing.make_directory()
    assert stat.S_IMODE(missing.path.parent.stat().st_mode) == 0o700


def test_the_signature_of_a_file_changes_with_its_mode(file: KeyFile) -> None:
    open_ring(file)
    before = file.signature()
    file.path.chmod(0o640)
    assert file.signature() != before


def test_the_own_key_is_for_everything_and_for_ever(file: KeyFile) -> None:
    for key in (new_key("ro", 1.0, Policy(read_only=True)), new_key("short", 1.0, seconds=5)):
        file.add(key, 1.0)
    own = open_ring(file).own
    assert own.name == "default"
    assert file.revoke(own.access_key_id) == own
    other = new_key("other", 1.0)
    file.add(other, 1.0)
    assert open_ring(file).own == other


def test_expired_keys_go_when_others_come(file: KeyFile) -> None:
    short = new_key("short", 1.0, seconds=5)
    file.add(short, 1.0)
    later = new_key("later", 6.0)
    file.add(later, 6.0)
    assert file.read() == (later,)


def test_the_environment_comes_first(file: KeyFile) -> None:
    given = {ACCESS_KEY_VARIABLE: "AK", SECRET_KEY_VARIABLE: "of the environment"}
    ring = open_ring(file, given)
    assert (ring.own.access_key_id, ring.own.secret_access_key) == (
        "AK",
        Secret("of the environment"),
    )
    assert ring.find("AK") == ring.own
    assert not file.path.exists()
    added = new_key("more", 1000.0)
    file.add(added, 1000.0)
    assert ring.find(added.access_key_id) == added
    assert "of the environment" not in file.path.read_text()


@pytest.mark.parametrize("name", [ACCESS_KEY_VARIABLE, SECRET_KEY_VARIABLE])
def test_half_a_key_in_the_environment(file: KeyFile, name: str) -> None:
    with pytest.raises(ConfigurationError, match="both"):
        open_ring(file, {name: "x"})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"access_key_id": "sekret"}',
        '{"keys": {}}',
        '{"keys": [5]}',
        '{"keys": [{"access_key_id": "sekret", "secret_access_key": 5}]}',
        "\u00ff",
    ],
)
def test_a_broken_file(file: KeyFile, content: str) -> None:
    file.path.write_text(content, encoding="latin-1")
    file.path.chmod(0o600)
    with pytest.raises(ConfigurationError, match=str(file.path)) as caught:
        open_ring(file)
    assert "sekret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_file_that_others_can_read(file: KeyFile) -> None:
    open_ring(file)
    file.path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        open_ring(file)


def test_places_that_cannot_be_used(tmp_path: Path) -> None:
    directory = tmp_path / "credentials.json"
    directory.mkdir()
    with pytest.raises(ConfigurationError, match="cannot read"):
        KeyFile(directory).read()
    with pytest.raises(ConfigurationError, match="cannot write"):
        KeyFile(tmp_path / "missing" / "c").ensure_own(1.0)


def test_without_locks_of_the_system_it_works_all_the_same(
    file: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    file.add(new_key("n", 1.0), 1.0)
    assert len(file.read()) == 1


def test_processes_do_not_lose_each_others_keys(file: KeyFile) -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from tailrace.service.identity.key_store import KeyFile, new_key;"
        "[KeyFile(Path(sys.argv[1])).add(new_key('n', 1.0), 1.0) for _ in range(10)]"
    )
    command = [sys.executable, "-c", code, str(file.path)]
    processes = [subprocess.Popen(command, env=dict(os.environ)) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert len(file.read()) == 30
    assert len(json.loads(file.path.read_text())["keys"]) == 30
