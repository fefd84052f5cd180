"""Why a broker cannot be used, and what to do about it, in one line. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from ..common.wall_clock import is_clock_set
from ..errors import CertificateFault, CertificateRejected
from .errors import BrokerError, BrokerFault
from .session import SessionSettings
from .settings import BrokerSettings

__all__ = ["is_clock_wrong", "remedy", "takeover_verdict", "verdict"]


def verdict(
    error: BrokerError, broker: BrokerSettings, settings: SessionSettings, now: float
) -> str:
    """Return what went wrong and what to do about it; ``now`` is in seconds since the epoch."""
    if is_clock_wrong(error, now):
        today = datetime.fromtimestamp(now, UTC)
        return f"the clock of this machine is wrong, it says {today:%Y-%m-%d}: {error}"
    advice = remedy(error.fault, broker, settings)
    if advice is None and isinstance(error.__cause__, CertificateRejected):
        return _certificate_verdict(error, error.__cause__, now)
    return f"{error}; {advice}" if advice else str(error)


def is_clock_wrong(error: BrokerError, now: float) -> bool:
    """Return whether the broker's certificate is out of date only because the clock is wrong."""
    cause = error.__cause__
    return (
        isinstance(cause, CertificateRejected)
        and cause.fault is CertificateFault.OUT_OF_DATE
        and not is_clock_set(now)
    )


def takeover_verdict(broker: BrokerSettings, settings: SessionSettings) -> str:
    """Return what it means that a broker takes a client in and soon drops it, again and again."""
    client = f"another client uses the client id {settings.client_id}"
    if settings.topic is None:
        return client
    what = "its policy forbids" if broker.is_aws else "the broker forbids"
    return f"{client}, or {what} the subscription to {settings.topic}"


def _certificate_verdict(error: BrokerError, cause: CertificateRejected, now: float) -> str:
    match cause.fault:
        case CertificateFault.OUT_OF_DATE:
            today = datetime.fromtimestamp(now, UTC)
            return f"{error}; the clock of this machine says {today:%Y-%m-%d %H:%M} UTC"
        case CertificateFault.WRONG_NAME:
            return f"{error}; use the name that the certificate has"
        case _:
            return f"{error}; trust the authority that issued it"


def remedy(fault: BrokerFault, broker: BrokerSettings, settings: SessionSettings) -> str | None:
    """Return what to do about a kind of failure, ``None`` where its text says all."""
    client, topic = settings.client_id, settings.topic
    match fault:
        case BrokerFault.CLOSED_EARLY if broker.is_aws:
            return (
                "the certificate is not active or has no policy, or the policy does not allow"
                f" iot:Connect for the client id {client}"
            )
        case BrokerFault.CLOSED_EARLY if broker.tls is None:
            return "the broker wants TLS, or does not allow this client"
        case BrokerFault.CLOSED_EARLY:
            return f"it wants another certificate, or does not allow the client id {client}"
        case BrokerFault.SUBSCRIPTION_REFUSED if broker.is_aws:
            return (
                f"the policy has to allow iot:Subscribe on topicfilter/{topic}"
                f" and iot:Receive on topic/{topic}"
            )
        case BrokerFault.SUBSCRIPTION_REFUSED:
            return f"the broker has to allow this client to read {topic}"
        case _:
            return None
