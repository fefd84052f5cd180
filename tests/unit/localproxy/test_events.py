from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from tailrace.localproxy import events
from tailrace.localproxy.events import ProxyEvent


def test_every_event_of_the_module_is_a_proxy_event():
    named = {
        getattr(events, name) for name in events.__all__ if name not in ("ProxyEvent", "Subscriber")
    }
    assert named == set(get_args(ProxyEvent))


@pytest.mark.parametrize("kind", get_args(ProxyEvent), ids=lambda kind: kind.__name__)
def test_events_are_frozen_and_slotted(kind: type):
    names = [field.name for field in dataclasses.fields(kind)]
    event = kind(*names)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(event, names[0], "changed")
    assert not hasattr(event, "__dict__")
