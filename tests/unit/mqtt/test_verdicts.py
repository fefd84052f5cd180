"""One line that says what is wrong with a broker, and what to do."""

from __future__ import annotations

import re

import pytest

from tailrace.errors import CertificateFault, CertificateRejected, NameResolutionFailed
from tailrace.link.endpoint import TLSOptions
from tailrace.mqtt.errors import BrokerError, BrokerFault
from tailrace.mqtt.session import SessionSettings
from tailrace.mqtt.settings import BrokerSettings
from tailrace.mqtt.verdicts import is_clock_wrong, takeover_verdict, verdict

AWS = BrokerSettings("a-ats.iot.eu-west-1.amazonaws.com", 8883, TLSOptions(), is_aws=True)
TLS = BrokerSettings("broker.example", 8883, TLSOptions())
PLAIN = BrokerSettings("broker.example", 1883)
PUMP = SessionSettings("pump-7", "$aws/things/pump-7/tunnels/notify")
NOW = 1_795_700_000.0  # November 2026
BOOT = 0.0


def unreachable(cause: Exception) -> BrokerError:
    error = BrokerError(BrokerFault.UNREACHABLE, str(cause))
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("fault", "broker", "pattern"),
    [
        (BrokerFault.CLOSED_EARLY, AWS, "not active or has no policy.*iot:Connect.* pump-7$"),
        (BrokerFault.CLOSED_EARLY, TLS, "another certificate.* pump-7$"),
        (BrokerFault.CLOSED_EARLY, PLAIN, "wants TLS"),
        (
            BrokerFault.SUBSCRIPTION_REFUSED,
            AWS,
            r"iot:Subscribe on topicfilter/\$aws/things/pump-7/tunnels/notify"
            r" and iot:Receive on topic/\$aws/things/pump-7/tunnels/notify$",
        ),
        (BrokerFault.SUBSCRIPTION_REFUSED, TLS, r"to read \$aws/things/pump-7/tunnels/notify$"),
        (BrokerFault.LOST, AWS, "^what happened$"),
        (BrokerFault.SILENT, TLS, "^what happened$"),
        (BrokerFault.VIOLATION, PLAIN, "^what happened$"),
        (BrokerFault.REFUSED, PLAIN, "^what happened$"),
    ],
)
def test_remedies(fault: BrokerFault, broker: BrokerSettings, pattern: str) -> None:
    text = verdict(BrokerError(fault, "what happened"), broker, PUMP, NOW)
    assert text.startswith("what happened")
    assert re.search(pattern, text)
    assert "\n" not in text


@pytest.mark.parametrize(
    ("fault", "now", "pattern"),
    [
        (
            CertificateFault.OUT_OF_DATE,
            BOOT,
            "clock of this machine is wrong.* 1970-01-01: no$",
        ),
        (CertificateFault.OUT_OF_DATE, NOW, r"^no; the clock of this machine says 2026-11-2\d"),
        (CertificateFault.UNTRUSTED, BOOT, "^no; trust the authority"),
        (CertificateFault.WRONG_NAME, NOW, "^no; use the name"),
    ],
)
def test_certificates(fault: CertificateFault, now: float, pattern: str) -> None:
    """Rule 20: a device that boots without a clock keeps trying, and says why."""
    error = unreachable(CertificateRejected("no", fault=fault))
    assert re.search(pattern, verdict(error, TLS, PUMP, now))
    assert is_clock_wrong(error, now) == ("clock of this machine is wrong" in pattern)


def test_another_way_to_fail() -> None:
    error = unreachable(NameResolutionFailed("cannot resolve broker.example: no answer"))
    assert verdict(error, TLS, PUMP, BOOT) == "cannot resolve broker.example: no answer"
    assert not is_clock_wrong(error, BOOT)


def test_thrown_out_again_and_again() -> None:
    """Rule 10."""
    topic = "$aws/things/pump-7/tunnels/notify"
    other = "another client uses the client id pump-7"
    forbidden = f"its policy forbids the subscription to {topic}"
    assert takeover_verdict(AWS, PUMP) == f"{other}, or {forbidden}"
    assert "the broker forbids" in takeover_verdict(TLS, PUMP)
    publisher = takeover_verdict(TLS, SessionSettings("x"))
    assert publisher == "another client uses the client id x"
