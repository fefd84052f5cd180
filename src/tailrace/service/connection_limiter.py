"""How many connections one listener accepts: in a second, and open at the same time.

A connection is a stranger's until its token or signature was verified, and each costs a
file descriptor and the memory of a TLS handshake before that. So they are counted when they
are accepted, all together and by address, and those that are too many are closed at once.
No listener may have more than an eighth of the descriptors of the process, so that three of
them (data, API, metrics) leave most to links that were let in, which do not count here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from ..common.event_loop import descriptor_limit
from ..flow.token_bucket import Buckets
from .limits import Limits, network
from .telemetry.throttled_log import ThrottledLog

__all__ = ["ConnectionLimiter"]

_SHARE: Final = 8
"""One part in this many of the process' file descriptors is for one listener."""


class ConnectionLimiter:
    """The rules by which one listener accepts connections.

    ``kind`` is what its log calls a connection; ``refusals`` counts by cause. ``clock`` is
    monotonic and in seconds.
    """

    def __init__(
        self,
        limits: Limits,
        kind: str,
        throttled_log: ThrottledLog,
        refusals: Counter[str],
        clock: Callable[[], float],
    ) -> None:
        self._limits = limits
        self._kind = kind
        self._throttled_log = throttled_log
        self._refusals = refusals
        self._clock = clock
        self._rate = Buckets(limits.connection_rate, limits.connection_rate)
        share = descriptor_limit() // _SHARE
        self.most = max(1, min(limits.connections or share, share))
        """Connections that may be open at the same time."""
        self._open: dict[int, str] = {}
        self._addresses: Counter[str] = Counter()

    def admit(self, host: str, descriptor: int) -> bool:
        """Return whether a connection from ``host`` is within the limits, and count it if so."""
        address, limits = network(host), self._limits
        of_address = limits.address_connections
        if not self._rate.try_take(address, self._clock()):
            reason = f"more than {limits.connection_rate:g} in a second"
            return self._refuse("connection_rate", "connections per second", host, reason)
        if len(self._open) >= self.most:
            return self._refuse("connections", "open connections", host, f"{self.most} are open")
        if of_address and self._addresses[address] >= of_address:
            reason = f"{of_address} of its address are open"
            return self._refuse("address_connections", "connections of an address", host, reason)
        self._open[descriptor] = address
        self._addresses[address] += 1
        return True

    def release(self, descriptor: int) -> None:
        """Count a connection no longer: it is closed, or its client is known."""
        address = self._open.pop(descriptor, None)
        if address is not None:
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]

    def exhausted(self) -> None:
        """Called for each connection that is closed for want of a file descriptor."""
        self._refusals["out_of_files"] += 1
        self._throttled_log.add(
            "out of file descriptors",
            "%s refused: the process is out of file descriptors; raise its limit",
            self._kind,
        )

    def _refuse(self, outcome: str, cause: str, host: str, reason: str) -> bool:
        self._refusals[outcome] += 1
        self._throttled_log.add(cause, "%s from %s refused: %s", self._kind, host, reason)
        return False
