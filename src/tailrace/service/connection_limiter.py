"""How many connections one listener accepts: in a second, and open at the same time.

A connection is a stranger's until its token or signature was verified, and each costs a
file descriptor and the memory of a TLS handshake before that. So they are counted when they
are accepted, all together and by address. An address that has too many gets no more. When all
addresses together have, the connection that has been a stranger's for longest makes room: a
client with a token or a key is through before its turn comes, however many strangers wait.
No listener may have more than an eighth of the descriptors of the process, so that three of
them (data, API, metrics) leave most to links that were let in, which do not count here.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections import Counter
from collections.abc import Callable, Collection
from typing import Final

from ..common.event_loop import descriptor_limit
from ..common.log_floods import flood_kind
from ..flow.token_bucket import Buckets
from .accept_filter import AcceptedSocket
from .limits import Limits, network
from .networks import Network, contains

__all__ = ["ConnectionLimiter"]

_log = logging.getLogger(__name__)

_SHARE: Final = 8
"""One part in this many of the process' file descriptors is for one listener."""


class ConnectionLimiter:
    """The rules by which one listener accepts connections.

    ``kind`` is what its log calls a connection; ``refusals`` counts by cause. ``clock`` is
    monotonic and in seconds. ``forwarders`` are networks of proxies that name their clients: those
    are charged one by one, with :meth:`charge`, and their proxy is not, which all of them share.
    """

    def __init__(
        self,
        limits: Limits,
        kind: str,
        refusals: Counter[str],
        clock: Callable[[], float],
        forwarders: Collection[Network] = (),
    ) -> None:
        self._limits = limits
        self._kind = kind
        self._refusals = refusals
        self._clock = clock
        self._forwarders = forwarders
        self._rate = Buckets(limits.connection_rate, limits.connection_rate)
        share = descriptor_limit() // _SHARE
        self.most = max(1, min(limits.connections or share, share))
        """Connections that may be open at the same time."""
        self._open: dict[int, str] = {}
        """Descriptors -> addresses that they count for."""
        self._strangers: dict[int, AcceptedSocket] = {}
        """Those whose client is not known, oldest first."""
        self._known: dict[int, AcceptedSocket] = {}
        """The others, the one that was not used for longest first."""
        self._addresses: Counter[str] = Counter()

    def admit(self, host: str, connection: AcceptedSocket) -> bool:
        """Return whether a connection from ``host`` is within the limits, and count it if so."""
        address, limits = network(host), self._limits
        of_address = limits.address_connections
        is_proxy = contains(self._forwarders, host)
        if not is_proxy and not self.charge(host):
            reason = f"more than {limits.connection_rate:g} in a second"
            return self._refuse("connection_rate", "connections per second", host, reason)
        if of_address and not is_proxy and self._addresses[address] >= of_address:
            reason = f"{of_address} of its address are open"
            return self._refuse("address_connections", "connections of an address", host, reason)
        if len(self._open) >= self.most:
            self._make_room()
        descriptor = connection.fileno()
        self._open[descriptor] = address
        self._strangers[descriptor] = connection
        self._addresses[address] += 1
        return True

    def charge(self, host: str) -> bool:
        """Count one more connection from ``host``; return whether it is within the rate."""
        return self._rate.try_take(network(host), self._clock())

    def know(self, descriptor: int) -> None:
        """Note that the client of a connection is known: it need not make room for strangers."""
        connection = self._strangers.pop(descriptor, None) or self._known.pop(descriptor, None)
        if connection is not None:
            self._known[descriptor] = connection

    def release(self, descriptor: int) -> None:
        """Count a connection no longer: it is closed, or counted elsewhere."""
        self._strangers.pop(descriptor, None)
        self._known.pop(descriptor, None)
        address = self._open.pop(descriptor, None)
        if address is not None:
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]

    def exhausted(self) -> None:
        """Called for each connection that is closed for want of a file descriptor."""
        self._refusals["out_of_files"] += 1
        _log.warning(
            "%s refused: the process is out of file descriptors; raise its limit",
            self._kind,
            extra=flood_kind("out of file descriptors"),
        )

    def _make_room(self) -> None:
        """Shut the oldest connection; its transport closes it in the next turn of the loop."""
        descriptor, connection = next(iter((self._strangers or self._known).items()))
        reason = f"{self.most} are open, and others wait"
        self._refuse("connections", "open connections", self._open[descriptor], reason)
        with contextlib.suppress(OSError):  # its client has left
            connection.shutdown(socket.SHUT_RDWR)
        self.release(descriptor)

    def _refuse(self, outcome: str, cause: str, host: str, reason: str) -> bool:
        self._refusals[outcome] += 1
        _log.warning(
            "%s from %s refused: %s", self._kind, host, reason, extra=flood_kind(cause, self._kind)
        )
        return False
