"""Machines on which much is missing: commands that run another one without it.

Namespaces of Linux take away what a test must not take from the machine that it runs on. As any
user but root, these need user namespaces, which some systems do not allow.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

__all__ = ["MACHINES", "MEMORY", "Machine", "machine_of"]

MEMORY = 600 * 1024 * 1024
"""Bytes of address space on the machine ``little memory``."""

_SHELL = ("/bin/sh", "-c")
_MOUNTS = """
mount --make-rprivate /
mount --bind "$1" "$1"
"""
_READ_ONLY = """
while read -r _ _ _ _ point _; do
    case "$point" in /proc|/proc/*|/sys|/sys/*|/dev|"$1") ;; *)
        mount -o remount,bind,ro "$point" 2>/dev/null
    esac
done < /proc/self/mountinfo
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """What is taken away, and how to see that it is gone."""

    proof: str
    """A shell script that succeeds only on this machine; ``$1`` is the directory of the test."""
    mounts: str = ""
    """A shell script that changes what is mounted; the same ``$1``."""
    wrapper: tuple[str, ...] = ()
    """A command that runs another one."""
    unset: tuple[str, ...] = ()
    """Names of variables of the environment."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables to set; ``{directory}`` is that of the test."""

    def command(self, directory: Path) -> list[str]:
        """Return the command that runs another one on this machine; it becomes that one."""
        command = []
        if self.mounts:
            user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
            script = f'{_MOUNTS}{self.mounts}\ncd /; shift; exec "$@"'
            command = ["unshare", *user, "--mount", *_SHELL, script, "machine", str(directory)]
        unset = (word for name in self.unset for word in ("-u", name))
        given = (
            f"{name}={value.format(directory=directory)}"
            for name, value in self.environment.items()
        )
        return [*command, *self.wrapper, "env", *unset, *given]


_C = {"LANG": "C", "LC_ALL": "C"}
_USER = ("HOME", "USER", "LOGNAME", "XDG_STATE_HOME", "XDG_CONFIG_HOME")

MACHINES: Mapping[str, Machine] = {
    "read-only": Machine(
        '! touch /tmp/x && ! touch /var/tmp/x && ! touch ./x && touch "$1/x"', mounts=_READ_ONLY
    ),
    "no home": Machine('test -z "$HOME"', unset=_USER),
    "no user": Machine(
        '! id -un && test -z "$HOME"',
        # Root outside, so that it can read what root has written.
        wrapper=("unshare", "--user", "--map-user=54321", "--map-group=54321"),
        unset=_USER,
    ),
    "no new privileges": Machine(
        "grep -q '^NoNewPrivs:.1$' /proc/self/status", wrapper=("setpriv", "--no-new-privs")
    ),
    "little memory": Machine(
        f'test "$(ulimit -v)" = {MEMORY // 1024}', wrapper=("prlimit", f"--as={MEMORY}")
    ),
    "no shared memory": Machine(
        "! touch /dev/shm/x", mounts="test ! -d /dev/shm || mount -t tmpfs -o ro none /dev/shm"
    ),
    "no /proc": Machine("! test -e /proc/self", mounts="mount -t tmpfs -o ro none /proc"),
    "locale C": Machine('test "$LC_ALL" = C', environment=_C),
    "plain ASCII": Machine(
        'test "$PYTHONUTF8" = 0',
        environment=_C
        | {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"},
    ),
    "unknown locale": Machine(
        'test "$LC_ALL" = xx_YY.UTF-8', environment={"LC_ALL": "xx_YY.UTF-8"}
    ),
    "full disk": Machine(
        '! echo more > "$1/full/more" && test "$HOME" = "$1/full"',
        mounts='mkdir -p "$1/full"; mount -t tmpfs -o size=64k none "$1/full"; '
        'head -c 100000 /dev/zero > "$1/full/filled" 2>/dev/null',
        environment={"HOME": "{directory}/full", "TMPDIR": "{directory}/full"},
    ),
}
"""Name -> what is missing."""


def machine_of(name: str, directory: Path) -> list[str]:
    """Return the command that runs another one on a machine; skips where there can be none.

    ``directory`` is all that can be written there.
    """
    machine = MACHINES[name]
    command = machine.command(directory)
    if shutil.which(command[0]) is None:
        pytest.skip(f"no machine {name!r}: the command {command[0]} is missing (util-linux)")
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"no machine {name!r} for this user: {tried.stderr.strip()}")
    subprocess.run(
        [*command, *_SHELL, machine.proof, "proof", str(directory)], capture_output=True, check=True
    )
    return command
