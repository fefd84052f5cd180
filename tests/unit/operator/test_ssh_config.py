from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tailrace.errors import ConfigurationError
from tailrace.operator.ssh_config import ssh_config_block


def settings(tmp_path: Path, block: str, host: str) -> dict[str, str]:
    """Return what ssh makes of a block."""
    if shutil.which("ssh") is None:
        pytest.skip("ssh is not installed (package openssh-client; `make apt`)")
    file = tmp_path / "config"
    file.write_text(block)
    done = subprocess.run(["ssh", "-F", file, "-G", host], capture_output=True, check=True)
    return dict(line.split(" ", 1) for line in done.stdout.decode().splitlines() if " " in line)


def test_what_ssh_makes_of_it(tmp_path: Path) -> None:
    block = ssh_config_block("pump-*,valve", ["/opt/a b/tailrace"], ["--profile", "50%"], user="pi")
    for host in ("pump-7.tunnel", "valve.tunnel"):
        found = settings(tmp_path, block, host)
        assert found["proxycommand"] == ("'/opt/a b/tailrace' proxy --profile 50%% -- '%n'")
        assert found["user"] == "pi"
    assert "proxycommand" not in settings(tmp_path, block, "fan.tunnel")


def test_all_things() -> None:
    block = ssh_config_block("*", ["tailrace"], [], None)
    assert block.startswith(
        "# ssh, scp, sftp, rsync, git and all that use ssh: ssh pump-7.tunnel\n"
    )
    assert "\nHost *.tunnel\n" in block
    assert "User" not in block


@pytest.mark.parametrize("things", ["", ",", "a b", "a\nHost *", "é"])
def test_what_is_no_pattern(things: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a pattern of names"):
        ssh_config_block(things, ["tailrace"], [], None)


def test_a_path_that_would_end_the_line() -> None:
    with pytest.raises(ConfigurationError, match="characters that ssh cannot be given"):
        ssh_config_block("*", ["/a\nb/tailrace"], [], None)
