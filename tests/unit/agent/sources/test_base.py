"""What sources deliver."""

from __future__ import annotations

from tailrace.agent.sources.base import Delivery


def test_a_delivery_does_not_show_its_payload() -> None:
    assert repr(Delivery(b"secret", "pump-7")) == "Delivery(thing_name='pump-7', retained=False)"
