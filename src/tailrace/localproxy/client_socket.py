"""Tell a local client that has closed its socket from one that has only ended its sending half.

Both send the same FIN, and what a system sees of a connection at one end does not tell them
apart. But most clients of a source run on its own machine, where Linux lets every process look at
the socket at the other end (sock_diag(7)): one that no process has any more has no inode.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import Final

__all__ = ["is_closed"]

_HEADER: Final = struct.Struct("=LHHLL")
"""nlmsghdr: length, type, flags, sequence number, port id."""
_NETLINK_SOCK_DIAG: Final = 4
_BY_FAMILY: Final = 20
"""SOCK_DIAG_BY_FAMILY."""
_NLM_F_REQUEST: Final = 1
_QUERY: Final = struct.Struct("=BBBxL2s2s16s16sL8s")
"""inet_diag_req_v2: family, protocol, extensions, states; ports and addresses in network order,
interface, cookie."""
_ANY_STATE: Final = 0xFFFF_FFFF
_NO_COOKIE: Final = b"\xff" * 8
_ANSWER: Final = struct.Struct("=16xxB66xL")
"""nlmsghdr and inet_diag_msg, of which the state and, at the end, the inode count."""
_HAS_SENT_FIN: Final = frozenset({4, 5, 6, 11})
"""States: FIN_WAIT1, FIN_WAIT2, TIME_WAIT, CLOSING. A listener may be what is found instead."""
_ANSWER_SIZE: Final = 1024


if sys.platform == "linux":

    def is_closed(sock: socket.socket) -> bool:
        """Return whether the other end of a TCP connection is known to be closed altogether.

        ``False`` where that cannot be known: a client on another machine, another kind of
        socket, or a system that does not tell.
        """
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return False
        try:
            ours, theirs = sock.getsockname(), sock.getpeername()
            answer = _look_up(sock.family, theirs, ours)
        except OSError:
            return False
        # An error has another type: there is no such socket here, or nobody may look.
        if len(answer) < _ANSWER.size or _HEADER.unpack_from(answer)[1] != _BY_FAMILY:
            return False
        state, inode = _ANSWER.unpack_from(answer)
        return state in _HAS_SENT_FIN and not inode

    def _look_up(
        family: socket.AddressFamily, local: tuple[str, int], remote: tuple[str, int]
    ) -> bytes:
        """Ask for the socket that is bound to ``local`` and connected to ``remote``."""
        query = _QUERY.pack(
            family,
            socket.IPPROTO_TCP,
            0,
            _ANY_STATE,
            local[1].to_bytes(2, "big"),
            remote[1].to_bytes(2, "big"),
            socket.inet_pton(family, local[0].partition("%")[0]),
            socket.inet_pton(family, remote[0].partition("%")[0]),
            0,
            _NO_COOKIE,
        )
        size = _HEADER.size + len(query)
        header = _HEADER.pack(size, _BY_FAMILY, _NLM_F_REQUEST, 0, 0)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as asked:
            asked.setblocking(False)
            asked.sendto(header + query, (0, 0))
            # The kernel has answered by the time that sendto() returns.
            return asked.recv(_ANSWER_SIZE)

else:

    def is_closed(sock: socket.socket) -> bool:
        """Return whether the other end is known to be closed altogether: never, here."""
        return False
