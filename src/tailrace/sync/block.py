"""An asynchronous context manager as one that blocks."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Generic, TypeVar

from ..common.background_loop import BackgroundLoop
from ..errors import LocalProtocolError
from .shared_loop import SHARED

__all__ = ["Block"]

_Value = TypeVar("_Value", covariant=True)
_Result = TypeVar("_Result")


class Block(Generic[_Value]):
    """Enters and leaves an asynchronous context manager in the shared loop. It is entered once."""

    def __init__(self, manager: AbstractAsyncContextManager[_Value], name: str) -> None:
        self._manager = manager
        self._name = name
        """What errors call it."""
        self._loop: BackgroundLoop | None = None
        self._is_used = False

    def __enter__(self) -> _Value:
        if self._is_used:
            raise LocalProtocolError(f"a {self._name} is entered once; make another one")
        self._is_used = True
        loop = SHARED.hold()
        entered: list[_Value] = []

        async def enter() -> None:
            entered.append(await self._manager.__aenter__())

        try:
            loop.run(enter())
        except BaseException as error:
            try:
                if entered:  # interrupted when it had been entered
                    loop.run(self._leave(error))
            finally:
                SHARED.release(loop)
            raise
        self._loop = loop
        SHARED.leave_at_exit(self, self._leave)
        return entered[0]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave it; in a process that was forked inside of the block, do nothing."""
        loop, self._loop = self._loop, None
        if loop is None or not SHARED.leaves(self):
            return
        try:
            loop.run(self._leave(error))
        finally:
            SHARED.release(loop)

    @property
    def is_used(self) -> bool:
        """Whether it was entered, and perhaps left since."""
        return self._is_used

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Return the result of a coroutine that needs what was entered.

        Raises:
            LocalProtocolError: it was not entered; or see :meth:`BackgroundLoop.run`.
        """
        if not self._is_used:
            work.close()
            raise LocalProtocolError(f"the {self._name} was not entered: use it in a with block")
        return self.run_anytime(work)

    def run_anytime(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Return the result of a coroutine, as :meth:`run`, but also before anybody has entered."""
        # Held, because another thread may leave the block meanwhile.
        with SHARED.held() as current:
            return (self._loop or current).run(work)

    def call(self, function: Callable[[], _Result]) -> _Result:
        """Return what a function returns that needs nobody else to use what was entered."""
        if self._loop is None:
            return function()
        with SHARED.held() as current:
            return (self._loop or current).call(function)

    async def _leave(self, error: BaseException | None = None) -> None:
        kind = None if error is None else type(error)
        traceback = None if error is None else error.__traceback__
        await self._manager.__aexit__(kind, error, traceback)
