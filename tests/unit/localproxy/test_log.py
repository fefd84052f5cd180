from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tailrace.common.secret import Secret
from tailrace.localproxy.log import TunnelLog
from tailrace.wire import Side

TOKEN = Secret("AQGAAXj-t0ken-of-a-tunnel")
CLIENT_TOKEN = Secret("11111111-2222-3333-4444-555555555555")


class Foreign(logging.Handler):
    """The handler of a program that knows nothing of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def seen(self) -> str:
        """All that the handler could print."""
        formatter = logging.Formatter("%(message)s %(args)s")
        return "\n".join(f"{formatter.format(r)} {r.msg} {r.__dict__}" for r in self.records)


@pytest.fixture
def foreign() -> Iterator[Foreign]:
    handler = Foreign()
    logger = logging.getLogger("tailrace.localproxy")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def log() -> TunnelLog:
    return TunnelLog(Side.SOURCE, "localhost:443", [TOKEN, CLIENT_TOKEN])


def test_records_say_which_tunnel_end_they_are_of(log: TunnelLog, foreign: Foreign):
    other = TunnelLog(Side.DESTINATION, "example.com:443", ())
    log.info("early")
    log.set_services(("SSH", "WEB"))
    log.info("ready")
    other.info("elsewhere")
    told = [(vars(r)["side"], vars(r)["endpoint"], vars(r)["services"]) for r in foreign.records]
    assert told == [
        (Side.SOURCE, "localhost:443", ()),
        (Side.SOURCE, "localhost:443", ("SSH", "WEB")),
        (Side.DESTINATION, "example.com:443", ()),
    ]


def test_records_are_those_of_the_caller(log: TunnelLog, foreign: Foreign):
    log.warning("%s: %d bytes", "client", 5)
    (record,) = foreign.records
    assert (record.msg, record.args) == ("%s: %d bytes", ("client", 5))
    assert record.getMessage() == "client: 5 bytes"
    assert record.funcName == "test_records_are_those_of_the_caller"
    assert record.levelno == logging.WARNING
    assert record.name == "tailrace.localproxy"


def test_what_is_not_shown_is_not_looked_at(log: TunnelLog, foreign: Foreign):
    class Costly:
        def __str__(self) -> str:
            raise AssertionError("nobody asked")

    log.debug("%s", Costly())
    assert foreign.records == []


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        (TOKEN.reveal(), ()),
        (f"a {CLIENT_TOKEN.reveal()} in the text", ()),
        ("%s", (TOKEN.reveal(),)),
        ("%s %r", ("harmless", ValueError(f"bad token {TOKEN.reveal()}"))),
        ("%s", ({"token": TOKEN.reveal()},)),
        ("%s", ([CLIENT_TOKEN.reveal().encode()],)),
        (ValueError(TOKEN.reveal()), ()),
    ],
)
def test_no_handler_sees_a_token(
    log: TunnelLog, foreign: Foreign, message: object, arguments: tuple[object, ...]
):
    log.error(message, *arguments)
    assert len(foreign.records) == 1
    for secret in (TOKEN, CLIENT_TOKEN):
        assert secret.reveal() not in foreign.seen
    assert "<redacted>" in foreign.seen


def test_no_handler_sees_a_token_of_an_exception(log: TunnelLog, foreign: Foreign):
    try:
        raise ValueError(f"bad token {TOKEN.reveal()}")
    except ValueError as error:
        log.error("failed: %s", "here", exc_info=error)
        log.error("failed", exc_info=(type(error), error, error.__traceback__))
        log.exception("failed")
    assert len(foreign.records) == 3
    assert TOKEN.reveal() not in foreign.seen
    assert foreign.seen.count("ValueError: bad token <redacted>") >= 3
    assert foreign.records[0].getMessage().startswith("failed: here\nTraceback")


def test_a_harmless_exception_is_passed_on_as_it_is(log: TunnelLog, foreign: Foreign):
    harmless = ValueError("harmless")
    log.error("failed", exc_info=harmless)
    log.error("failed", exc_info=False)
    log.exception("there is none")
    with_error, without, empty = foreign.records
    assert with_error.exc_info is not None
    assert with_error.exc_info[1] is harmless
    assert with_error.getMessage() == "failed"
    assert not without.exc_info
    assert empty.getMessage() == "there is none"


def test_a_secret_shows_itself_as_it_always_does(log: TunnelLog, foreign: Foreign):
    log.info("%s %s", TOKEN, None)
    assert foreign.records[0].args == (TOKEN, None)
    assert foreign.records[0].getMessage() == "<redacted> None"
