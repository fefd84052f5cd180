"""The service of tests in its thread."""

import logging
import socket
import threading

import pytest

from tailrace.errors import CallRefused, ConfigurationError, ListenError, TunnelNotFound
from tailrace.testing.runtime import running
from tailrace.testing.tunnels import ServiceInThread


def test_the_service_has_settings() -> None:
    before = threading.active_count()
    with running({"limits": "aws", "region": "eu-west-1"}) as runtime:
        assert runtime.endpoints.region == "eu-west-1"
        parameters = {"destinationConfig": {"services": ["A", "B", "C", "D"]}}
        with pytest.raises(CallRefused):
            runtime.control_client().call("OpenTunnel", parameters)
    with pytest.raises(ConfigurationError), running({"region": "?"}):
        pass
    with socket.create_server(("127.0.0.1", 0)) as busy:
        settings = {"api_port": busy.getsockname()[1]}
        with pytest.raises(ListenError), running(settings):
            pass
    assert threading.active_count() == before


@pytest.mark.parametrize("level", [logging.NOTSET, logging.ERROR])
def test_the_log_has_information_where_nothing_else_is_chosen(level: int) -> None:
    logger = logging.getLogger("tailrace")
    before = logger.level
    try:
        logger.setLevel(level)
        with running({}):
            assert logger.level == (level or logging.INFO)
        assert logger.level == level
    finally:
        logger.setLevel(before)


def test_links_come_in_where_the_service_was_to_listen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with running({"host": "0.0.0.0", "data_port": port}) as runtime:
        assert runtime.endpoints.data_endpoint == f"localhost:{port}"
        assert ServiceInThread(runtime).environment()["AWSIOT_TUNNEL_ENDPOINT"] == (
            f"localhost:{port}"
        )
        with ServiceInThread(runtime).tunnels() as open_tunnel:
            open_tunnel(A=1).wait_connected()
        socket.create_connection(("127.0.0.1", port)).close()
    with socket.create_server(("127.0.0.1", 0)) as busy:
        settings = {"data_port": busy.getsockname()[1]}
        with pytest.raises(ListenError, match="cannot listen on"), running(settings):
            pass


def test_warnings_are_printed_by_nobody_who_was_not_asked(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python prints them where nobody handles the log."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    logger = logging.getLogger("tailrace")
    handlers = list(logger.handlers)
    with running({}):
        logger.warning("said by a part of the package")
    assert capfd.readouterr() == ("", "")
    assert logger.handlers == handlers


def test_what_does_not_exist_does_not_expire() -> None:
    with running({}) as runtime, pytest.raises(TunnelNotFound, match="does not exist"):
        runtime.expire("unknown")
