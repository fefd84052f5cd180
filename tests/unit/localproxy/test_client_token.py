from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tailrace.common.secret import Secret
from tailrace.errors import ConfigurationError
from tailrace.localproxy import client_token as module
from tailrace.localproxy.client_token import kept_client_token

ACCESS = Secret("access-token-of-a-tunnel")
HOLD = f"""
import sys
from pathlib import Path
from tailrace.common.secret import Secret
from tailrace.localproxy.client_token import kept_client_token

with kept_client_token(Path(sys.argv[1]), Secret({ACCESS.reveal()!r})) as token:
    print(token.reveal(), flush=True)
    sys.stdin.read()
"""


def client_token(directory: Path, access_token: Secret) -> Secret:
    """Return what a proxy is given that ends at once."""
    with kept_client_token(directory, access_token) as token:
        return token


def holder(directory: Path) -> subprocess.Popen[str]:
    """Start another process that holds the token until its standard input is closed."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_same_access_token_gets_the_same_client_token(tmp_path: Path):
    first = client_token(tmp_path / "state", ACCESS)
    assert client_token(tmp_path / "state", ACCESS) == first
    assert client_token(tmp_path / "state", Secret("another")) != first
    assert 32 <= len(first.reveal()) <= 128


def test_only_the_owner_can_read_it_and_no_token_is_in_a_name(tmp_path: Path):
    directory = tmp_path / "state"
    token = client_token(directory, ACCESS)
    (file,) = directory.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert ACCESS.reveal() not in file.name
    assert token.reveal() not in file.name
    assert ACCESS.reveal() not in file.read_text()


def test_a_file_of_a_token_alone_is_understood(tmp_path: Path):
    path = tmp_path / f"{ACCESS.digest}.client-token"
    path.write_text("c" * 36)
    assert client_token(tmp_path, ACCESS) == Secret("c" * 36)


@pytest.mark.parametrize("content", ["", "cut-off", "with spaces and\nlines" * 3, "ü" * 40])
def test_a_damaged_file_is_replaced(tmp_path: Path, content: str):
    first = client_token(tmp_path, ACCESS)
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    second = client_token(tmp_path, ACCESS)
    assert second != first
    assert client_token(tmp_path, ACCESS) == second


def test_proxies_that_start_at_once_come_one_after_the_other(tmp_path: Path):
    def hold(_: int) -> Secret:
        with kept_client_token(tmp_path, ACCESS, patience=60) as token:
            return token

    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(hold, range(16)))
    assert len(tokens) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_second_proxy_is_told_who_has_the_token(tmp_path: Path):
    with holder(tmp_path) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        token = process.stdout.readline().strip()
        for patience in (0, 0.01):
            with pytest.raises(ConfigurationError) as caught, ExitStack() as stack:
                stack.enter_context(kept_client_token(tmp_path, ACCESS, patience))
            assert caught.value.setting == "access_token"
            said = f"Another local proxy has this access token: pid {process.pid} on "
            assert str(caught.value).startswith(said)
            assert ", since 2" in str(caught.value)
            assert token not in str(caught.value)
        process.stdin.close()
        process.wait()
    assert client_token(tmp_path, ACCESS) == Secret(token)


def test_a_token_is_free_once_its_proxy_is_killed(tmp_path: Path):
    with holder(tmp_path) as process:
        assert process.stdout is not None
        token = process.stdout.readline().strip()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert client_token(tmp_path, ACCESS) == Secret(token)


def test_who_is_just_starting_has_not_said_who_it_is(tmp_path: Path):
    with kept_client_token(tmp_path, ACCESS) as token:
        (path,) = tmp_path.iterdir()
        os.truncate(path, len(token.reveal()))
        with pytest.raises(ConfigurationError, match="it is just starting"):
            client_token(tmp_path, ACCESS)


def test_the_tokens_used_longest_ago_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Those that a running proxy has are not, whatever the clock says."""
    monkeypatch.setattr(module, "_MOST_FILES", 3)
    names = [Secret(str(number)) for number in range(5)]
    with kept_client_token(tmp_path, names[0]):
        for age, name in enumerate(names):
            if age:
                client_token(tmp_path, name)
            path = tmp_path / f"{name.digest}.client-token"
            os.utime(path, (age, age))
        kept = {path.name.partition(".")[0] for path in tmp_path.iterdir()}
        assert kept == {names[number].digest for number in (0, 2, 3, 4)}


@pytest.mark.parametrize("now", [60, 1e9, 4e9])
def test_no_clock_loses_a_token(tmp_path: Path, now: float):
    """A device without a clock battery starts in 1970, or in 2096, and is set some time later."""
    token = client_token(tmp_path, ACCESS)
    (path,) = tmp_path.iterdir()
    os.utime(path, (now, now))
    assert client_token(tmp_path, Secret("another")) != token
    assert path.exists()
    assert client_token(tmp_path, ACCESS) == token


def test_a_file_that_is_forgotten_while_it_is_opened_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = client_token(tmp_path, ACCESS)
    (path,) = tmp_path.iterdir()
    lock = module._lock
    waits = [path]

    def lock_later(file):
        for each in waits:
            each.unlink()
        waits.clear()
        return lock(file)

    monkeypatch.setattr(module, "_lock", lock_later)
    assert client_token(tmp_path, ACCESS) != before
    assert path.exists()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"file/state: ") as caught:
        client_token(tmp_path / "file" / "state", ACCESS)
    assert caught.value.setting == "state_dir"


def test_a_file_that_cannot_be_kept_is_named(tmp_path: Path):
    (tmp_path / f"{ACCESS.digest}.client-token").mkdir()
    with pytest.raises(ConfigurationError, match="Cannot keep the client token in") as caught:
        client_token(tmp_path, ACCESS)
    assert caught.value.setting == "state_dir"


def test_a_link_is_not_followed(tmp_path: Path):
    (tmp_path / "elsewhere").write_text("untouched")
    (tmp_path / f"{ACCESS.digest}.client-token").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="Cannot keep the client token in"):
        client_token(tmp_path, ACCESS)
    assert (tmp_path / "elsewhere").read_text() == "untouched"


def test_a_disk_that_takes_a_part_only_is_named(tmp_path: Path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(ConfigurationError, match="No space left on device"):
            client_token(tmp_path, ACCESS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert client_token(tmp_path, ACCESS) == client_token(tmp_path, ACCESS)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    if number == errno.EIO:
        with pytest.raises(ConfigurationError, match="Input/output error"):
            client_token(tmp_path, ACCESS)
        return
    with kept_client_token(tmp_path, ACCESS) as token:
        assert client_token(tmp_path, ACCESS) == token


def test_a_system_without_locks_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with kept_client_token(tmp_path, ACCESS) as token:
        assert client_token(tmp_path, ACCESS) == token
