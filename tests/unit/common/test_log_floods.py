"""Floods of log records are counted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from support.plugins.clock import ClockLoop
from tailrace.common.log_floods import FloodCount, FloodFilter, flood_kind, telling_floods
from tailrace.common.redaction import RedactionFilter
from tailrace.common.secret import Secret


class Lines(logging.Handler):
    """Keeps the texts that come through its filters."""

    def __init__(self) -> None:
        super().__init__()
        self.redaction = RedactionFilter()
        self.floods = FloodFilter(logging.INFO)
        self.addFilter(self.redaction)
        self.addFilter(self.floods)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    def tell(self) -> list[str]:
        """What is told of the records that were held back."""
        before = len(self.records)
        self.floods.tell(self)
        return self.texts[before:]


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


log = logging.getLogger("some.library")


def refuse(number: int, cause: str = "", per: str = "") -> None:
    log.warning("refused %d", number, extra=flood_kind(cause, per))


def test_a_flood_is_counted_and_hides_nothing(lines: Lines) -> None:
    for number in range(1000):
        refuse(number)
    log.info("another")
    assert lines.texts == [*(f"refused {number}" for number in range(20)), "another"]
    assert lines.tell() == ["980 more like this: refused 20"]
    told = lines.records[-1]
    assert (told.name, told.levelno) == ("some.library", logging.WARNING)
    assert lines.tell() == []
    refuse(7)
    assert lines.texts[-1] == "refused 7"


def test_texts_that_differ_each_time_are_one_flood(lines: Lines) -> None:
    for number in range(50):
        log.error(f"socket.accept() out of system resource\nsocket {number}")
    assert len(lines.texts) == 20
    (told,) = lines.tell()
    assert told.startswith("30 more like this: socket.accept() out of system resource\n")


def test_templates_and_exceptions_of_one_call_are_told_apart(lines: Lines) -> None:
    for number in range(60):
        log.error(("a %d", "b %d")[number % 2], number)
    assert lines.tell() == ["10 more like this: a 40", "10 more like this: b 41"]
    for number in range(60):
        error = (ValueError("v"), OSError("o"))[number % 2]
        log.error("failed", exc_info=error)
    assert lines.tell() == ["10 more like this: failed"] * 2


def test_causes_and_what_records_are_about_are_told_apart(lines: Lines) -> None:
    for number in range(30):
        refuse(number, "unknown_token")
        refuse(number, "token_used", "t1")
        refuse(number, "token_used", "t2")
    assert len(lines.texts) == 60
    assert lines.tell() == ["10 more refused: unknown_token", "20 more refused: token_used"]


def test_a_call_is_bounded_whatever_it_is_about(lines: Lines) -> None:
    for number in range(1500):
        refuse(number, per=str(number))
    assert len(lines.texts) == 1000
    assert lines.tell() == ["500 more like this: refused 1000"]


def test_very_many_kinds_are_one() -> None:
    floods = FloodCount(1)
    assert all(floods.passes(number) for number in range(10_000))
    assert floods.passes("more")
    assert not floods.passes("and more")
    assert not floods.passes(1)
    assert floods.end_interval() == {None: 1, 1: 1}
    assert floods.end_interval() == {}
    assert floods.passes("and more")


def test_very_many_templates_take_no_memory(lines: Lines) -> None:
    for number in range(12_000):
        log.error(f"{number} %d", number)
    assert len(lines.texts) == 10_020
    lines.tell()
    for number in range(3000):
        for _ in range(21):
            log.error(f"{number} %d", number)
    assert len(lines.tell()) == 1001


def test_what_is_counted_is_cut_and_without_secrets(lines: Lines) -> None:
    lines.redaction.redaction.add(Secret("a-secret-of-mine"))
    for _ in range(21):
        log.warning("x" * 195 + " %s", "a-secret-of-mine")
    (told,) = lines.tell()
    assert told == f"1 more like this: {'x' * 195} <..."


def test_records_for_debugging_are_not_counted(lines: Lines) -> None:
    for _ in range(1500):
        log.debug("detail")
    assert lines.texts == ["detail"] * 1500


def test_records_below_the_level_are_counted_when_there_are_very_many() -> None:
    floods = FloodFilter(logging.WARNING)
    record = logging.LogRecord("a", logging.INFO, "f", 1, "accepted", (), None)
    assert sum(floods.filter(record) for _ in range(1500)) == 1000


def test_counts_are_told_though_nothing_else_comes(lines: Lines) -> None:
    async def flood() -> None:
        lines.records.clear()
        with telling_floods(asyncio.get_running_loop()):
            for number in range(25):
                refuse(number)
            await asyncio.sleep(10.0)
            assert lines.texts[20:] == ["5 more like this: refused 20"]
            for number in range(25):
                refuse(number)
            await asyncio.sleep(10.0)
            assert lines.texts[41:] == ["5 more like this: refused 20"]
            for number in range(21):
                refuse(number)
        assert lines.texts[62:] == ["1 more like this: refused 20"]

    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        runner.run(flood())
