"""An event loop in a thread, for code that blocks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final, Generic, Self, TypeVar

from ..errors import LocalProtocolError

__all__ = ["BackgroundLoop"]

_Result = TypeVar("_Result")

_OVER: Final = "the event loop of this call has ended"
_LOOK: Final = 1.0
"""Seconds that a thread sleeps at a time."""


class BackgroundLoop:
    """Runs coroutines in a thread of its own, for as long as a ``with`` block lasts.

    The thread does not keep the program from ending.
    """

    def __init__(self, name: str) -> None:
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._started: Future[asyncio.AbstractEventLoop] = Future()
        self._ended = asyncio.Event()
        self._process = os.getpid()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread; coroutines that still run are cancelled."""
        self.end()

    def start(self) -> None:
        """Start the thread, and wait for its loop.

        Raises:
            OSError, RuntimeError: there can be no more descriptors, or no more threads.
        """
        try:
            self._thread.start()
        except BaseException as error:
            self._started.set_exception(error)
            raise
        self._started.result()

    @property
    def is_of_this_process(self) -> bool:
        """Whether the thread is one of this process, and not of the one that has forked it."""
        return self._process == os.getpid()

    def end(self, timeout: float | None = None) -> None:
        """End the thread as leaving the block does, but wait at most ``timeout`` seconds for it."""
        if self._started.exception() is not None:
            return  # it never ran
        self._started.result().call_soon_threadsafe(self._ended.set)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Return the result of a coroutine, or raise what it raises.

        When the waiting is interrupted, as by Ctrl-C, the coroutine is cancelled, and its end is
        waited for; a second Ctrl-C does not wait.

        Raises:
            LocalProtocolError: this thread is the loop's own, which would wait for itself; or this
                process was forked, and has no such thread; or the loop has ended.
        """
        try:
            self._check()
            call = _Call(self._started.result(), work)
        except BaseException:
            work.close()
            raise
        try:
            call.begin()
            call.wait()
        except BaseException:
            call.cancel()
            call.wait()
            raise
        try:
            return call.result()
        finally:
            del call  # what is raised has this frame in its traceback: no circle of garbage

    def call(self, function: Callable[[], _Result]) -> _Result:
        """Return what a function returns that is called in the loop; see :meth:`run`."""

        async def work() -> _Result:
            return function()

        return self.run(work())

    def _check(self) -> None:
        if not self.is_of_this_process:
            raise LocalProtocolError(
                "this was made before the process was forked: make another one here"
            )
        if threading.current_thread() is self._thread:
            raise LocalProtocolError(
                "a call that blocks was made by code that runs in the event loop of such calls"
            )

    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.get_loop()
                runner.run(self._main())
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _main(self) -> None:
        self._started.set_result(asyncio.get_running_loop())
        await self._ended.wait()


class _Call(Generic[_Result]):
    """A coroutine that one thread waits for, while it runs in the loop of another."""

    __slots__ = ("_has_begun", "_loop", "_outcome", "_task", "_work")

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, _Result]) -> None:
        self._loop = loop
        self._work = work
        self._task: asyncio.Task[None] | None = None
        self._has_begun = False
        self._outcome: Future[_Result] = Future()

    def begin(self) -> None:
        self._in_loop(self._start)

    def cancel(self) -> None:
        """Cancel the work; called while what was begun may or may not have started."""
        self._in_loop(self._stop)

    def wait(self) -> None:
        # Raises nothing but what interrupts it: not what the work raises. A signal that comes just
        # before the thread falls asleep does not wake it, and is noticed at the next look.
        while not concurrent.futures.wait([self._outcome], _LOOK).done:
            pass

    def result(self) -> _Result:
        outcome = self._outcome
        del self._outcome
        try:
            return outcome.result()
        except asyncio.CancelledError:
            raise LocalProtocolError(_OVER) from None
        finally:
            del outcome

    def refuse(self) -> None:
        """End it without having begun."""
        self._work.close()
        if not self._outcome.done():
            self._outcome.set_exception(LocalProtocolError(_OVER))

    def _in_loop(self, function: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:  # it is closed
            self.refuse()

    def _start(self) -> None:
        self._task = self._loop.create_task(self._settle())
        self._task.add_done_callback(self._ended)

    def _stop(self) -> None:
        if self._task is None:
            self.refuse()  # the interruption came before it could be begun
        else:
            self._task.cancel()

    async def _settle(self) -> None:
        self._has_begun = True
        # Whatever is raised is the caller's: an exit raised in a task would end the loop.
        try:
            value = await self._work
        except BaseException as error:
            self._outcome.set_exception(error)
        else:
            self._outcome.set_result(value)

    def _ended(self, _: object) -> None:
        """Called when the task is done, which may have been cancelled before its first step."""
        if not self._has_begun:
            self.refuse()
