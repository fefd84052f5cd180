"""Lines that nobody waits for."""

from __future__ import annotations

import errno
import io
import logging
import os
import pty
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import pytest

from support.waiting import wait_until
from tailrace.common.queued_output import QueuedHandler, QueuedOutput, write_briefly


def note(count: int) -> str:
    return f"({count} dropped)\n"


@contextmanager
def pipe(encoding: str = "utf-8") -> Iterator[tuple[int, TextIO]]:
    """The reading end of a pipe, and the stream that writes to it."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding=encoding) as stream:
        try:
            yield reader, stream
        finally:
            with suppress(OSError):
                os.close(reader)


def fill(stream: TextIO) -> int:
    """Write until nothing more goes into a pipe; return how much that was."""
    os.set_blocking(stream.fileno(), False)
    size = 0
    with suppress(BlockingIOError):
        while True:
            size += os.write(stream.fileno(), b"x")
    os.set_blocking(stream.fileno(), True)
    return size


def read_to_the_end(reader: int) -> str:
    """Return what comes until no process writes to the pipe."""
    with os.fdopen(os.dup(reader), closefd=True) as stream:
        return stream.read()


def read_exactly(reader: int, size: int) -> None:
    while size > 0:
        size -= len(os.read(reader, size))


def test_lines_come_in_order_and_whole() -> None:
    lines = [f"{number} {'y' * (number % 3000)}\n" for number in range(500)]
    with pipe() as (reader, stream):
        output = QueuedOutput(stream, note)
        seen: list[str] = []
        reading = threading.Thread(target=lambda: seen.append(read_to_the_end(reader)))
        reading.start()
        for line in lines:
            output.write(line)
        output.close()
        stream.close()
        reading.join()
    assert seen == ["".join(lines)]


def test_what_is_too_much_is_dropped_and_counted_in_its_place() -> None:
    with pipe() as (reader, stream):
        full = fill(stream)
        output = QueuedOutput(stream, note, max_waiting=100)
        output.write("first\n")
        # The writer has it and waits; from here on lines stay in the queue.
        wait_until(lambda: output._waiting == 0, "the writer")
        for number in range(100):
            output.write(f"{number:09}\n")
        read_exactly(reader, full)
        wait_until(lambda: not output._dropped, "the count of what was dropped")
        output.write("last\n")
        output.close()
        stream.close()
        text = read_to_the_end(reader)
    kept = [f"{number:09}" for number in range(10)]
    assert text.splitlines() == ["first", *kept, "(90 dropped)", "last"]


def test_the_end_waits_for_nobody() -> None:
    with pipe() as (reader, stream):
        fill(stream)
        output = QueuedOutput(stream, note)
        output.write("never\n")
        output.close(patience=0)
        output.write("nor this\n")
        assert output._thread is not None
        os.close(reader)  # ends the write that waits
        output._thread.join()


def test_a_reader_that_has_gone_is_none_of_our_business() -> None:
    with pipe() as (reader, stream):
        os.close(reader)
        output = QueuedOutput(stream, note)
        for _ in range(10):
            output.write("x\n")
        output.close()
        assert output._thread is not None
        assert not output._thread.is_alive()


def test_a_pipe_that_others_have_made_non_blocking() -> None:
    with pipe() as (reader, stream):
        full = fill(stream)
        os.set_blocking(stream.fileno(), False)
        output = QueuedOutput(stream, note)
        output.write("late\n")
        read_exactly(reader, full)
        output.close()
        stream.close()
        assert read_to_the_end(reader) == "late\n"


def test_characters_that_the_stream_has_not_are_escaped() -> None:
    with pipe("ascii") as (reader, stream):
        write_briefly(stream, "caf\u00e9 \udc80\n")
        stream.close()
        assert read_to_the_end(reader) == "caf\\xe9 \\udc80\n"


def test_a_stream_without_descriptor() -> None:
    stream = io.StringIO()
    output = QueuedOutput(stream, note)
    output.write("a\n")
    output.close()
    assert stream.getvalue() == "a\n"


def test_a_file_needs_no_thread(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        output = QueuedOutput(stream, note)
        output.write("a\n")
        assert (tmp_path / "log").read_text() == "a\n"
        output.close()
        assert output._thread is None


@pytest.mark.parametrize("kind", ["terminal", "socket"])
def test_others_that_are_read(kind: str) -> None:
    if kind == "terminal":
        reader, writer = pty.openpty()
    else:
        reader, writer = (end.detach() for end in socket.socketpair())
    with os.fdopen(writer, "w") as stream:
        output = QueuedOutput(stream, note)
        output.write("a\n")
        output.close()
        assert output._thread is not None
        assert os.read(reader, 10).rstrip() == b"a"
        os.close(reader)


def test_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pipe() as (reader, stream):
        output = QueuedOutput(stream, note)
        output.write("a\n")
        output.write("b\n")
        output.close()
        stream.close()
        assert read_to_the_end(reader) == "a\nb\n"


def record(text: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("name", logging.INFO, __file__, 1, text, args, None)


def test_a_log_says_how_many_lines_were_dropped() -> None:
    with pipe() as (reader, stream):
        full = fill(stream)
        handler = QueuedHandler(stream)
        handler.output = QueuedOutput(stream, handler._dropped, max_waiting=10)
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        handler.emit(record("a"))
        wait_until(lambda: handler.output._waiting == 0, "the writer")
        for _ in range(5):
            handler.emit(record("b"))
        read_exactly(reader, full)
        handler.close()
        stream.close()
        assert read_to_the_end(reader).splitlines() == [
            "INFO a",
            "INFO b",
            "WARNING 4 lines were dropped: nobody read the log in time",
        ]


def test_a_record_that_cannot_be_formatted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", True)
    stream = io.StringIO()
    handler = QueuedHandler(stream)
    handler.emit(record("%d", "no number"))
    handler.close()
    assert stream.getvalue() == ""
    assert "no number" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_what_cannot_be_written_is_told() -> None:
    with open("/dev/full", "w") as stream:
        output = QueuedOutput(stream, note)
        assert output.failure is None
        output.write("a\n")
        assert output.failure is not None
        assert output.failure.errno == errno.ENOSPC
        output.close()


def test_the_handling_of_characters_is_that_of_the_stream(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="ascii", errors="replace") as stream:
        QueuedOutput(stream, note).write("caf\u00e9\n")
    assert (tmp_path / "log").read_text() == "caf?\n"
