"""Choice of the event loop, and the limit of open files."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tailrace.common.event_loop import (
    LoopChoice,
    descriptor_limit,
    loop_factory,
    raise_descriptor_limit,
)
from tailrace.errors import ConfigurationError


def test_the_loop_can_be_chosen() -> None:
    uvloop = pytest.importorskip("uvloop")
    assert loop_factory(LoopChoice.AUTO) is uvloop.new_event_loop
    assert loop_factory(LoopChoice.UVLOOP) is uvloop.new_event_loop
    assert loop_factory(LoopChoice.ASYNCIO) is asyncio.SelectorEventLoop


def test_without_uvloop_there_is_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert loop_factory(LoopChoice.AUTO) is asyncio.SelectorEventLoop
    with pytest.raises(ConfigurationError, match="uvloop is not installed") as caught:
        loop_factory(LoopChoice.UVLOOP)
    assert caught.value.setting == "loop"


def test_the_choice_alone_loads_no_loop() -> None:
    script = (
        "import sys, tailrace.common.event_loop; print({'asyncio', 'uvloop'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


@pytest.fixture
def hard_limit() -> Iterator[int]:
    """A process that may open few files, and could open more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_how_many_files_may_be_open(hard_limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert descriptor_limit() == 200
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert descriptor_limit() == sys.maxsize
    monkeypatch.setitem(sys.modules, "resource", None)
    assert descriptor_limit() == sys.maxsize


def test_as_many_files_may_be_open_as_the_system_allows(hard_limit: int) -> None:
    raise_descriptor_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard_limit, hard_limit)


def test_a_system_that_refuses_its_own_limit(
    hard_limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    with monkeypatch.context() as patched:
        patched.setattr(resource, "setrlimit", refuse)
        raise_descriptor_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (200, hard_limit)


def test_a_system_without_such_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    raise_descriptor_limit()
