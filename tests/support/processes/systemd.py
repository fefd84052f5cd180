"""The part of systemd that services talk to."""

from __future__ import annotations

import socket

from support.waiting import wait_until

__all__ = ["Systemd"]


class Systemd:
    """The socket of systemd."""

    def __init__(self, address: str) -> None:
        self.environment = {"NOTIFY_SOCKET": address.replace("\0", "@")}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)

    def told(self) -> list[str]:
        """Return the datagrams since the last call."""
        texts = []
        while True:
            try:
                texts.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return texts

    def hears(self, text: str) -> str:
        """Wait for the datagram that begins with ``text``; return it."""
        found = ""

        def heard() -> bool:
            nonlocal found
            found = next((each for each in self.told() if each.startswith(text)), "")
            return bool(found)

        wait_until(heard, f"{text!r} for systemd")
        return found

    def close(self) -> None:
        self._socket.close()
