"""OpenSSH port forwarding (``ssh -L``) through a local ``sshd`` of our own.

One encrypted hop, not two: there is nothing like a relay in it.
"""

from __future__ import annotations

import getpass
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ..errors import BenchError, Unavailable
from ..processes import Process, Supervisor, unused_port
from ..site import LOOPBACK, Address, Place, Role, Site
from .base import Contender, Running, find_tool

__all__ = ["OpenSSH", "SSHServer"]

_CIPHER: Final = "aes256-gcm@openssh.com"
"""The cipher that TLS uses here too; OpenSSH's own first choice takes more CPU."""

_SEPARATION: Final = Path("/run/sshd")
"""Where sshd, as root, wants an empty directory (sshd(8), FILES)."""

_CONFIGURATION: Final = """
ListenAddress {host}
Port {port}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PubkeyAuthentication yes
PermitRootLogin prohibit-password
AllowTcpForwarding yes
UseDNS no
PrintMotd no
MaxStartups 100
Ciphers {cipher}
"""


class SSHServer:
    """An ``sshd`` with keys of its own, and the arguments to reach it."""

    def __init__(self, supervisor: Supervisor, site: Site, host: str) -> None:
        """Start it on the far side, bound to ``host``.

        Raises:
            BenchError: it did not start.
        """
        self.directory = supervisor.path("ssh")
        self.directory.mkdir(mode=0o700)
        _make_keys(self.directory)
        self.port = unused_port()
        configuration = self.directory / "sshd_config"
        configuration.write_text(
            _CONFIGURATION.format(
                host=host, port=self.port, directory=self.directory, cipher=_CIPHER
            )
        )
        sshd = find_tool("sshd")
        assert sshd is not None
        command = site.command(Place.FAR, [sshd, "-D", "-e", "-f", str(configuration)])
        self.process: Process = supervisor.spawn("sshd", command)
        supervisor.wait_for_port(self.port, self.process)

    def client(self, address: Address) -> list[str]:
        """Return the command line of ``ssh`` up to the host, for a server seen at ``address``."""
        ssh = find_tool("ssh")
        assert ssh is not None
        options = {
            "IdentityFile": self.directory / "user_key",
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self.directory / "known_hosts",
            "HostKeyAlias": "bench",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "ExitOnForwardFailure": "yes",
            "LogLevel": "ERROR",
            "Ciphers": _CIPHER,
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return [
            *(ssh, "-F", "none", *words),
            *("-p", str(address.port), "-l", getpass.getuser(), address.host),
        ]

    @staticmethod
    def missing() -> str | None:
        """Return what is missing to run it."""
        for name in ("ssh", "sshd", "ssh-keygen"):
            if find_tool(name) is None:
                return f"no {name} (Debian: openssh-client, openssh-server)"
        try:
            _separate_privileges()
        except Unavailable as reason:
            return str(reason)
        return None


class OpenSSH(Contender):
    """``ssh -L``."""

    name = "ssh"
    description = f"OpenSSH -L through a local sshd, {_CIPHER}, one hop"

    def missing(self) -> str | None:
        return SSHServer.missing()

    def start(
        self, supervisor: Supervisor, site: Site, applications: Mapping[str, Address]
    ) -> Running:
        server = SSHServer(supervisor, site, site.bind_host)
        ports = {name: unused_port() for name in applications}
        forwards = [
            word
            for name, address in applications.items()
            for word in ("-L", f"{LOOPBACK}:{ports[name]}:{address}")
        ]
        command = server.client(site.gate(Address(site.hub_host, server.port)))
        # -N and -L go in front of the host, which is the last word.
        command[-1:-1] = ["-N", *forwards]
        client = supervisor.spawn("ssh", site.command(Place.NEAR, command))
        for port in ports.values():
            supervisor.wait_for_port(port, client)
        return Running(
            {name: Address(LOOPBACK, port) for name, port in ports.items()},
            {Role.SOURCE: client, Role.DESTINATION: server.process},
        )


def _make_keys(directory: Path) -> None:
    keygen = find_tool("ssh-keygen")
    assert keygen is not None
    for name in ("host_key", "user_key"):
        command = [keygen, "-q", "-t", "ed25519", "-N", "", "-C", "bench"]
        done = subprocess.run(
            [*command, "-f", str(directory / name)], capture_output=True, text=True
        )
        if done.returncode:
            raise BenchError(f"ssh-keygen failed: {done.stderr.strip()}")
    public = (directory / "host_key.pub").read_text()
    (directory / "known_hosts").write_text(f"bench {public}")


def _separate_privileges() -> None:
    """Make the directory that sshd insists on; the system makes it anew after each start."""
    if os.geteuid() == 0 and not _SEPARATION.exists():
        try:
            _SEPARATION.mkdir(mode=0o755)
        except OSError as error:
            raise Unavailable(f"sshd needs {_SEPARATION}: {error.strerror}") from None
