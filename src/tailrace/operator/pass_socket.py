"""Ask the process that holds a tunnel for a connection, and hand it to ssh.

``ssh -o ProxyUseFdpass=yes -o ProxyCommand='python -I -S pass_socket.py SOCKET SERVICE'``: ssh has
a unix socket as standard output of its ProxyCommand, takes a descriptor from there, and uses that.
No byte of the session goes through this process, which ends at once. It runs as a file, with
nothing but the standard library, because starting Python is all of the time that it takes.
"""

import json
import socket
import sys

__all__ = ["main", "run"]


def main(path: str, service: str, stdout: int = 1) -> str:
    """Pass a connection to ``service`` on; return why there is none, "" if there is one."""
    with socket.socket(socket.AF_UNIX) as holder:
        holder.connect(path)
        holder.sendall(json.dumps({"open": service}).encode() + b"\n")
        received = b""
        descriptors: list[int] = []
        while not descriptors:
            data, descriptors, _, _ = socket.recv_fds(holder, 65536, 1)
            received += data
            if not data:
                return "the process that held the tunnel has ended"
            *lines, received = received.split(b"\n")
            for line in lines:
                message = json.loads(line)
                reason = message.get("refused") or message.get("failed")
                if reason:
                    return str(reason)
        with socket.socket(fileno=descriptors[0]) as connection:
            connection.setblocking(True)
            with socket.socket(fileno=stdout) as ssh:
                # OpenSSH's mm_send_fd: one byte, and the descriptor with it.
                socket.send_fds(ssh, [b"\0"], [connection.fileno()])
                ssh.detach()
    return ""


def run() -> None:
    """Do what the arguments of this process say, and end it."""
    try:
        problem = main(sys.argv[1], sys.argv[2])
    except OSError as error:
        problem = f"{error.strerror}"
    if problem:
        sys.exit(f"tailrace ssh: {problem}")


if __name__ == "__main__":
    run()
