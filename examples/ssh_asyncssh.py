"""Run a command on a device by SSH from asyncio, through a tunnel and without a local port.

    ~/tailrace/bin/pip install asyncssh
    python examples/ssh_asyncssh.py pump-7 uptime

SSH is the service of the device's sshd. The device's host key is looked up in ~/.ssh/known_hosts
under the name of the thing; keys, agent and configuration are those of ssh.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import sys

import asyncssh

import tailrace


async def run(thing: str, command: str, user: str, timeout: float) -> int:
    """Run a command on a device; return its exit status."""
    async with tailrace.connect(thing, services=["SSH"], reuse=True, timeout=timeout) as tunnel:
        sock = await tunnel.open_socket("SSH")
        async with asyncssh.connect(thing, sock=sock, username=user) as ssh:
            done = await ssh.run(command)
    print(done.stdout, end="")
    print(done.stderr, end="", file=sys.stderr)
    return 255 if done.exit_status is None else done.exit_status


def main() -> int:
    parser = argparse.ArgumentParser(description="run a command on a device")
    parser.add_argument("thing")
    parser.add_argument("command")
    parser.add_argument("--user", default=getpass.getuser(), help="of the device; your own name")
    parser.add_argument("--timeout", type=float, default=30, help="seconds for the device to come")
    args = parser.parse_args()
    try:
        return asyncio.run(run(args.thing, args.command, args.user, args.timeout))
    except tailrace.TailraceError as error:
        sys.exit(error.explain())
    except (OSError, asyncssh.Error) as error:
        sys.exit(f"SSH to {args.thing}: {error}")


if __name__ == "__main__":
    sys.exit(main())
