"""Failures have a kind, for those who decide what to do about them."""

from tailrace.errors import TailraceError
from tailrace.mqtt.errors import BrokerError, BrokerFault


def test_kind_and_text() -> None:
    error = BrokerError(BrokerFault.SILENT, "no answer")
    assert (str(error), error.fault) == ("no answer", BrokerFault.SILENT)
    assert isinstance(error, TailraceError)
