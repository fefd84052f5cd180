"""What can go wrong between a client and its broker."""

from __future__ import annotations

from enum import Enum

from ..errors import TailraceError

__all__ = ["BrokerError", "BrokerFault"]


class BrokerFault(Enum):
    """Kinds of failure that have different remedies."""

    UNREACHABLE = "unreachable"
    """Name resolution, TCP, web proxy or TLS failed: the cause of the error says which."""
    CLOSED_EARLY = "closed early"
    """The broker closed the connection instead of answering CONNECT."""
    REFUSED = "refused"
    """CONNACK has another code than 0."""
    SUBSCRIPTION_REFUSED = "subscription refused"
    """SUBACK says so, or the broker closed the connection instead of sending one."""
    SILENT = "silent"
    """No answer in time, or nothing at all for one and a half times the keep-alive time."""
    LOST = "lost"
    """A connection that worked is gone."""
    VIOLATION = "violation"
    """The broker sent what MQTT 3.1.1 does not allow."""


class BrokerError(TailraceError):
    """The connection to a broker could not be set up or is lost; the text holds no credentials."""

    def __init__(self, fault: BrokerFault, text: str) -> None:
        super().__init__(text)
        self.fault = fault
