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
        self._unheard: list[str] = []

    def told(self) -> list[str]:
        """Return the datagrams since the last call."""
        texts, self._unheard = self._unheard, []
        while True:
            try:
                texts.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return texts

    def hears(self, text: str) -> str:
        """Wait for the datagram that begins with ``text``; return it. What came before is over."""
        found = ""

        def heard() -> bool:
            nonlocal found
            told = iter(self.told())
            found = next((each for each in told if each.startswith(text)), "")
            self._unheard = list(told)
            return bool(found)

        wait_until(heard, f"{text!r} for systemd")
        return found

    def close(self) -> None:
        self._socket.close()
