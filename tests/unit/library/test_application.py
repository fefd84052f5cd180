from __future__ import annotations

from typing import Any

import pytest

from support.network.applications import echo
from tailrace.common.addresses import TCPAddress, UnixAddress
from tailrace.errors import ConfigurationError
from tailrace.library.application import Application, local_service
from tailrace.localproxy.routes import LocalService


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (22, TCPAddress("", 22)),
        ("22", TCPAddress("", 22)),
        ("camera.local:80", TCPAddress("camera.local", 80)),
        ("unix:/run/app", UnixAddress("/run/app")),
        (TCPAddress("::1", 1), TCPAddress("::1", 1)),
        (UnixAddress("/run/app"), UnixAddress("/run/app")),
        (echo, echo),
    ],
)
def test_what_the_engine_knows_an_application_as(given: Application, expected: LocalService):
    assert local_service(given) == expected


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (0, "port 0 is not in 1..65535"),
        (65_536, "port 65536 is not in 1..65535"),
        (TCPAddress("h", 0), "port 0 is not in 1..65535"),
        ("h", "'h' has no port; write HOST:PORT, [IPV6]:PORT, PORT or unix:PATH"),
        (1.5, "1.5 is neither an address nor a port nor a handler"),
        (None, "None is neither an address nor a port nor a handler"),
        ("http://h", "Address 'http://h' is a URL; write h:80"),
    ],
)
def test_what_is_no_application(given: Any, sentence: str):
    with pytest.raises(ConfigurationError) as caught:
        local_service(given)
    assert str(caught.value) == sentence
