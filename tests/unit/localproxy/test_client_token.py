from __future__ import annotations

import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tailrace.common.secret import Secret
from tailrace.errors import ConfigurationError
from tailrace.localproxy.client_token import client_token

ACCESS = Secret("access-token-of-a-tunnel")


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


@pytest.mark.parametrize("content", ["", "cut-off", "with spaces and\nlines" * 3, "ü" * 40])
def test_a_damaged_file_is_replaced(tmp_path: Path, content: str):
    first = client_token(tmp_path, ACCESS)
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    second = client_token(tmp_path, ACCESS)
    assert second != first
    assert client_token(tmp_path, ACCESS) == second


def test_proxies_that_start_at_once_agree(tmp_path: Path):
    with ThreadPoolExecutor(16) as pool:
        tokens = set(pool.map(lambda _: client_token(tmp_path, ACCESS), range(64)))
    assert len(tokens) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_old_tokens_are_forgotten_used_ones_are_not(tmp_path: Path):
    client_token(tmp_path, Secret("old"))
    (old,) = tmp_path.iterdir()
    eight_days_ago = time.time() - 8 * 24 * 3600
    os.utime(old, (eight_days_ago, eight_days_ago))
    client_token(tmp_path, ACCESS)
    assert not old.exists()
    (used,) = tmp_path.iterdir()
    before = time.time() - 6 * 24 * 3600
    os.utime(used, (before, before))
    client_token(tmp_path, ACCESS)
    assert used.stat().st_mtime > before


def test_a_token_from_before_the_clock_was_set_is_found(tmp_path: Path):
    """A device without a clock battery starts in 1970 and is restarted in the present."""
    token = client_token(tmp_path, ACCESS)
    (path,) = tmp_path.iterdir()
    os.utime(path, (60, 60))
    assert client_token(tmp_path, ACCESS) == token
    assert client_token(tmp_path, Secret("another")) != token
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
