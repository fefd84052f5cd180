"""Join standard input and output to a service of a device: a ProxyCommand for ssh and its kin.

    ssh -o ProxyCommand='python3 examples/proxy_command.py %h SSH' pump-7

With these lines in ~/.ssh/config, so do ssh, scp, sftp, rsync, git and Ansible; the name of the
host is that of the thing:

    Host pump-*
        ProxyCommand python3 /path/to/examples/proxy_command.py %h SSH
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys

import tailrace


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what is read until it ends, and its end."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def standard_streams() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return standard input and output, which have to be pipes, sockets or a terminal."""
    loop = asyncio.get_running_loop()
    reader, unread = asyncio.StreamReader(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(unread), sys.stdout
    )
    return reader, asyncio.StreamWriter(transport, protocol, None, loop)


async def join(thing: str, service: str, timeout: float) -> None:
    """Carry one connection until the device ends it; the end of input ends only one half."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):  # ssh ends this with SIGHUP
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    async with tailrace.connect(thing, services=[service], reuse=True, timeout=timeout) as tunnel:
        stdin, stdout = await standard_streams()
        reader, writer = await tunnel.open_connection(service)
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(copy(stdin, writer))
            await copy(reader, stdout)
            await stdout.wait_closed()
            sending.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description="join stdin and stdout to a service of a device")
    parser.add_argument("thing")
    parser.add_argument("service")
    parser.add_argument("--timeout", type=float, default=30, help="seconds for the device to come")
    args = parser.parse_args()
    try:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(join(args.thing, args.service, args.timeout))
    except tailrace.TailraceError as error:
        sys.exit(f"{error}. {error.advice}")
    except (OSError, ValueError) as error:
        sys.exit(f"{args.service} of {args.thing}: {error}")
    except ExceptionGroup as group:
        sys.exit(f"{args.service} of {args.thing}: {group.exceptions[0]}")


if __name__ == "__main__":
    main()
