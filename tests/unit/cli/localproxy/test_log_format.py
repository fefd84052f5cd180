"""The log: format, levels, no secrets, one line a record."""

from __future__ import annotations

import asyncio
import io
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import redirect_stderr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.cli.localproxy.log_format import (
    MAX_VERBOSITY,
    TRACE,
    ConsoleFormatter,
    set_up_logging,
    set_verbosity,
    threshold,
)
from tailrace.common.redaction import register_secrets
from tailrace.common.secret import Secret

LINE = re.compile(
    r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}\] \(0x[0-9a-f]{16}\)"
    r" \[(trace|debug|info|warning|error|fatal)\] (.*)"
)
LEVELS = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}
TOKEN = "AQGAAXlKn0Tqd8Vn3Cn4Zf2bPzAAQABAAdU"

logger = logging.getLogger("tailrace.test")


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    """Standard error of a process whose log is set up."""
    root, package = logging.getLogger(), logging.getLogger("tailrace")
    before = (list(root.handlers), root.level, package.level)
    stream = io.StringIO()
    with redirect_stderr(stream):
        set_up_logging(MAX_VERBOSITY)
    yield stream
    root.handlers[:], root_level, package_level = before
    root.setLevel(root_level)
    package.setLevel(package_level)


def record(message: str, *args: object, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("tailrace", level, __file__, 1, message, args, None)


@pytest.mark.parametrize(("severity", "level"), LEVELS.items())
def test_format(out: io.StringIO, severity: str, level: int) -> None:
    logger.log(level, "Connected to %s, port: %d", "127.0.0.1", 22)
    match = LINE.fullmatch(out.getvalue().rstrip("\n"))
    assert match is not None
    assert match.groups() == (severity, "Connected to 127.0.0.1, port: 22")


def test_the_thread_is_named(out: io.StringIO) -> None:
    logger.info("x")
    assert f"(0x{threading.get_ident():016x})" in out.getvalue()


@pytest.mark.parametrize("created", [0.0, 1.5, 1_700_000_000.999_999_9, 1_700_000_000.000_001])
def test_microseconds_have_six_digits(created: float) -> None:
    made = record("x")
    made.created = created
    assert LINE.fullmatch(ConsoleFormatter().format(made))


def test_each_record_has_its_own_second() -> None:
    formatter = ConsoleFormatter()
    made = record("x")
    shown: list[str] = []
    for made.created in (7.25, 7.5, 8.0, 7.0):
        shown.append(formatter.format(made)[18:28])
    assert shown == ["07.250000]", "07.500000]", "08.000000]", "07.000000]"]


@pytest.mark.parametrize(
    ("verbosity", "shown"),
    [
        (0, []),
        (1, ["fatal"]),
        (2, ["error", "fatal"]),
        (3, ["warning", "error", "fatal"]),
        (4, ["info", "warning", "error", "fatal"]),
        (5, ["debug", "info", "warning", "error", "fatal"]),
        (6, list(LEVELS)),
        (65_535, list(LEVELS)),
    ],
)
def test_verbosity(out: io.StringIO, verbosity: int, shown: list[str]) -> None:
    set_verbosity(verbosity)
    for level in LEVELS.values():
        logger.log(level, "x")
    assert [m.group(1) for m in map(LINE.match, out.getvalue().splitlines()) if m] == shown


def test_thresholds_never_rise() -> None:
    levels = [threshold(verbosity) for verbosity in range(-1, 9)]
    assert levels == sorted(levels, reverse=True)


def test_other_packages_are_heard_from_warning_on(out: io.StringIO) -> None:
    other = logging.getLogger("websockets.client")
    other.debug("> access-token: x")
    other.info("x")
    assert out.getvalue() == ""
    other.warning("careful")
    assert "[warning] careful" in out.getvalue()
    set_verbosity(1)
    other.error("x")
    assert out.getvalue().count("\n") == 1


def test_setting_up_again_replaces(out: io.StringIO) -> None:
    second = io.StringIO()
    with redirect_stderr(second):
        set_up_logging(4)
    logger.info("x")
    assert out.getvalue() == ""
    assert second.getvalue().count("\n") == 1


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a\nb", "a\\nb"),
        ("a\r\n[2026-01-01", "a\\r\\n[2026-01-01"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\x85\u2028", "\\x85\\u2028"),
        ("\udcff", "\\udcff"),
        ("gr\u00fc\u00df", "gr\u00fc\u00df"),
    ],
)
def test_control_characters_are_escaped(out: io.StringIO, text: str, escaped: str) -> None:
    logger.info("%s", text)
    assert out.getvalue().endswith(f"[info] {escaped}\n")


@given(st.text())
def test_a_record_is_one_line(text: str) -> None:
    assert LINE.fullmatch(ConsoleFormatter().format(record("%s", text)))


def test_a_record_has_a_bounded_length(out: io.StringIO) -> None:
    logger.warning("x" * 1_000_000)
    assert len(out.getvalue()) < 2100


def test_a_flood_of_warnings_is_counted(out: io.StringIO) -> None:
    for number in range(1500):
        logger.error("refused %d", number)
        logger.info("accepted %d", number)
    assert out.getvalue().count("[error] refused") == 20
    assert out.getvalue().count("[info] accepted") == 1000


async def test_callbacks_that_fail_flood_nothing_and_show_no_token(out: io.StringIO) -> None:
    """What the event loop reports, with exceptions of whoever it called."""
    register_secrets(Secret(TOKEN))
    loop = asyncio.get_running_loop()

    def fail() -> None:
        raise ValueError(f"Authorization: {TOKEN}\x1b[2J")

    for _ in range(500):
        loop.call_soon(fail)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert out.getvalue().count("[error] Exception in callback") == 20
    assert out.getvalue().count("ValueError: Authorization: <redacted>\\x1b[2J") == 20
    assert TOKEN not in out.getvalue()


def test_tracebacks_are_shown_without_secrets_to_take_out(out: io.StringIO) -> None:
    try:
        raise ValueError("bad")
    except ValueError:
        logger.exception("failed")
    assert out.getvalue().endswith("ValueError: bad\n")


def test_lines_of_a_traceback_are_escaped_and_indented(out: io.StringIO) -> None:
    try:
        raise ValueError("bad\x1b\n[forged]")
    except ValueError:
        logger.exception("failed")
    _, *lines = out.getvalue().rstrip("\n").split("\n")
    assert lines[-2:] == ["  ValueError: bad\\x1b", "  [forged]"]
    assert all(line.startswith("  ") for line in lines)


def test_arguments_that_do_not_fit_do_no_harm(out: io.StringIO) -> None:
    root = logging.getLogger()
    (handler,) = (h for h in root.handlers if isinstance(h.formatter, ConsoleFormatter))
    handler.handle(record("%d of %d", "x"))
    register_secrets(Secret(TOKEN))
    handler.handle(record("%d of %d", TOKEN))
    assert out.getvalue().count("[info] %d of %d\n") == 2


def test_a_closed_standard_error_does_no_harm(out: io.StringIO) -> None:
    out.close()
    logger.error("x")
