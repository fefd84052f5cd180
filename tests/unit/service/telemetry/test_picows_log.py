"""Which of picows' lines come through."""

import logging

import pytest

from tailrace.service.telemetry.client_address import set_client_address
from tailrace.service.telemetry.picows_log import PicowsLog


def test_what_comes_through(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    set_client_address(("192.0.2.1", 7))
    log = PicowsLog()
    assert not log.isEnabledFor(logging.INFO)
    log.info("New connection accepted: %s <- %s", 1, 2)
    log.log(9, "New data: %s", "secret")
    log.warning("Protocol writing pause requested, crossed writing buffer high-watermark")
    log.error("WS parser error: %s, initiate disconnect", ("x",))
    assert caplog.messages == []
    log.info("Handshake timeout, the client hasn't requested upgrade within required time")
    log.error("Initiate disconnect because of exception from on_ws_connected: %s", "bug")
    try:
        raise ValueError("bug")
    except ValueError:
        log.exception("WS parser failure, initiate disconnect")
    assert caplog.messages == [
        "connection refused: no upgrade request in time; from 192.0.2.1:7",
        "Initiate disconnect because of exception from on_ws_connected: bug",
        "WS parser failure, initiate disconnect",
    ]
    assert "ValueError" in caplog.text
