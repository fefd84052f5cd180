"""A real SSH server: sshd from Debian, for the user who runs the tests, with keys of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.processes.child import server_process

__all__ = ["configure_sshd", "needs_sshd", "sshd"]

_PROGRAM = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
_ROOT_DIRECTORY = Path("/run/sshd")
"""Where sshd of root keeps its unprivileged part; the system makes it when it starts one."""

needs_sshd = pytest.mark.skipif(
    _PROGRAM is None or shutil.which("ssh-keygen") is None,
    reason="sshd is not installed (packages openssh-server and openssh-client; `make apt`)",
)


def _make_key(file: Path) -> str:
    """Make a key; return its public half."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(file)]
    subprocess.run(command, check=True)
    return file.with_name(f"{file.name}.pub").read_text().strip()


def configure_sshd(directory: Path, port: int, host: str, home: Path) -> list[str]:
    """Return the command of a server; ``home`` gets the files of a user who knows ``host``."""
    assert _PROGRAM is not None
    if os.geteuid() == 0:
        _ROOT_DIRECTORY.mkdir(mode=0o755, exist_ok=True)
    of_user = home / ".ssh"
    of_user.mkdir(mode=0o700)
    host_key = _make_key(directory / "host_key")
    (of_user / "known_hosts").write_text(f"{host} {host_key}\n")
    (directory / "authorized_keys").write_text(_make_key(of_user / "id_ed25519") + "\n")
    configuration = directory / "sshd_config"
    lines = (
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {directory}/host_key",
        f"AuthorizedKeysFile {directory}/authorized_keys",
        "PidFile none",
        # The directory of a test may be below one that others can write to.
        "StrictModes no",
        "UsePAM no",
        "Subsystem sftp internal-sftp",
    )
    configuration.write_text("".join(f"{line}\n" for line in lines))
    return [_PROGRAM, "-D", "-e", "-f", str(configuration)]


@contextmanager
def sshd(directory: Path, port: int, host: str, home: Path) -> Iterator[None]:
    """A running server; ``home`` gets the files of a user who may log in and knows ``host``."""
    command = configure_sshd(directory, port, host, home)
    with server_process("sshd", command, directory, port):
        yield
