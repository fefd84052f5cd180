"""Exceptions that nobody can catch are logged like all others."""

from __future__ import annotations

import logging
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from tailrace.common.stray_exceptions import stray_exceptions_logged


class Failing:
    def __del__(self) -> None:
        raise ZeroDivisionError("in a destructor")


def fail() -> None:
    raise ZeroDivisionError("in a thread")


def test_they_are_logged(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sys.unraisablehook, threading.excepthook
    with stray_exceptions_logged():
        made = Failing()
        del made
        thread = threading.Thread(target=fail, name="worker")
        thread.start()
        thread.join()
    assert (sys.unraisablehook, threading.excepthook) == before
    assert caplog.messages == ["Exception ignored in function", "exception in thread worker"]
    for record, text in zip(caplog.records, ("destructor", "thread"), strict=True):
        assert record.levelno == logging.ERROR
        assert record.exc_info is not None
        assert str(record.exc_info[1]) == f"in a {text}"
    assert capfd.readouterr().err == ""


def test_what_is_no_exception_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with stray_exceptions_logged():
        nothing: Any = SimpleNamespace(exc_value=None, err_msg=None, object=None)
        sys.unraisablehook(nothing)
        threading.excepthook(threading.ExceptHookArgs((SystemExit, None, None, None)))
        threading.excepthook(threading.ExceptHookArgs((ValueError, ValueError("x"), None, None)))
    assert caplog.messages == ["exception in thread gone"]
