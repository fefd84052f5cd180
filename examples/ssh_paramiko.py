"""Run a command on a device by SSH from a blocking script, through a tunnel without a local port.

    ~/tailrace/bin/pip install paramiko
    python examples/ssh_paramiko.py pump-7 uptime

SSH is the service of the device's sshd. The device's host key is looked up in ~/.ssh/known_hosts
under the name of the thing; keys and agent are those of ssh. What the command prints, and its
errors, come in one.
"""

from __future__ import annotations

import argparse
import getpass
import logging
import sys

import paramiko

import tailrace


def run(thing: str, command: str, user: str, timeout: float) -> int:
    """Run a command on a device; return its exit status."""
    with (
        tailrace.sync.connect(thing, services=["SSH"], reuse=True, timeout=timeout) as tunnel,
        paramiko.SSHClient() as ssh,
    ):
        ssh.load_system_host_keys()
        ssh.connect(thing, username=user, sock=tunnel.open_socket("SSH"))
        transport = ssh.get_transport()
        assert transport is not None
        with transport.open_session() as channel:
            channel.set_combine_stderr(True)
            channel.exec_command(command)
            for line in channel.makefile():
                print(line, end="", flush=True)
            return channel.recv_exit_status()


def main() -> int:
    parser = argparse.ArgumentParser(description="run a command on a device")
    parser.add_argument("thing")
    parser.add_argument("command")
    parser.add_argument("--user", default=getpass.getuser(), help="of the device; your own name")
    parser.add_argument("--timeout", type=float, default=30, help="seconds for the device to come")
    args = parser.parse_args()
    # It would log what its exceptions say, with a traceback.
    logging.getLogger("paramiko").addHandler(logging.NullHandler())
    try:
        return run(args.thing, args.command, args.user, args.timeout)
    except tailrace.TailraceError as error:
        sys.exit(error.explain())
    except (OSError, EOFError, paramiko.SSHException) as error:
        sys.exit(f"SSH to {args.thing}: {error}")


if __name__ == "__main__":
    sys.exit(main())
