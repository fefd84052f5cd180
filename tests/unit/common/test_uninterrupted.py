"""Work that is not cancelled with its caller."""

import asyncio

import pytest

from tailrace.common.uninterrupted import uninterrupted


class Work:
    """Something that ends when it is told to."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.begun, self.may_end = asyncio.Event(), asyncio.Event()
        self.is_done = False
        self._error = error

    async def __call__(self) -> str:
        self.begun.set()
        await self.may_end.wait()
        self.is_done = True
        if self._error is not None:
            raise self._error
        return "done"


async def test_the_result() -> None:
    work = Work()
    work.may_end.set()
    assert await uninterrupted(work()) == "done"


async def test_an_error() -> None:
    work = Work(OSError("broken"))
    work.may_end.set()
    with pytest.raises(OSError, match="broken"):
        await uninterrupted(work())


@pytest.mark.parametrize("error", [None, OSError("broken"), asyncio.CancelledError()])
async def test_the_caller_is_cancelled_when_the_work_is_done(error: BaseException | None) -> None:
    work = Work(error)
    task = asyncio.get_running_loop().create_task(uninterrupted(work()))
    await work.begun.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not task.done()
    work.may_end.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert work.is_done
    assert caught.value.__cause__ is (error if isinstance(error, OSError) else None)


async def test_a_timeout_around_it() -> None:
    work = Work()
    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            loop.call_later(0.01, work.may_end.set)
            await uninterrupted(work())
    assert work.is_done
