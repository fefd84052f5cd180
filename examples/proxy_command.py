"""Join standard input and output to a service of a device: a ProxyCommand for ssh and its kin.

    ssh -o ProxyCommand='python3 examples/proxy_command.py %h SSH' pump-7

With these lines in ~/.ssh/config, so do ssh, scp, sftp, rsync, git and Ansible; the name of the
host is that of the thing:

    Host pump-*
        ProxyCommand python3 /path/to/examples/proxy_command.py %h SSH
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import sys
import threading

import tailrace

STDIN, STDOUT = 0, 1


def send(sock: socket.socket) -> None:
    """Send standard input, and its end; what fails here fails in the other direction, too."""
    with contextlib.suppress(OSError):
        while data := os.read(STDIN, 65536):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)


def join(thing: str, service: str, timeout: float) -> None:
    """Carry one connection until the device ends it; the end of input ends only one half."""
    with (
        tailrace.sync.connect(thing, services=[service], reuse=True, timeout=timeout) as tunnel,
        tunnel.open_socket(service) as sock,
    ):
        # A daemon, because standard input may stay open when the device has ended the connection.
        threading.Thread(target=send, args=(sock,), daemon=True).start()
        while data := sock.recv(65536):
            while data:
                data = data[os.write(STDOUT, data) :]


def main() -> None:
    parser = argparse.ArgumentParser(description="join stdin and stdout to a service of a device")
    parser.add_argument("thing")
    parser.add_argument("service")
    parser.add_argument("--timeout", type=float, default=30, help="seconds for the device to come")
    args = parser.parse_args()
    for number in (signal.SIGHUP, signal.SIGTERM):  # so that the tunnel is closed: ssh sends SIGHUP
        signal.signal(number, signal.default_int_handler)
    try:
        join(args.thing, args.service, args.timeout)
    except KeyboardInterrupt:
        pass
    except tailrace.TailraceError as error:
        sys.exit(error.explain())
    except OSError as error:
        sys.exit(f"{args.service} of {args.thing}: {error}")


if __name__ == "__main__":
    main()
