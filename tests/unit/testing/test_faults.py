"""Faults end with their block, and give back what was before."""

import asyncio
import ssl

import pytest

from tailrace.common.background_loop import BackgroundLoop
from tailrace.errors import ConfigurationError
from tailrace.testing.faults import in_background, refused, silenced, throttled
from tailrace.testing.middlebox import Middlebox

TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def box() -> Middlebox:
    return Middlebox("127.0.0.1", 1, "127.0.0.1")


async def test_silence_ends_with_the_outer_block() -> None:
    first, second = box(), box()
    async with silenced([first]):
        async with silenced([first, second]):
            assert first.swallows
            assert second.swallows
        assert first.swallows
        assert not second.swallows
    assert not first.swallows


async def test_the_rate_of_the_outer_block_comes_back() -> None:
    first = box()
    with pytest.raises(ZeroDivisionError):
        async with throttled([first], 1000):
            async with throttled([first], 10):
                assert first.rate == 10
            assert first.rate == 1000
            raise ZeroDivisionError
    assert first.rate is None


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
async def test_what_is_no_rate(rate: float) -> None:
    with pytest.raises(ConfigurationError, match="let nothing through"):
        async with throttled([box()], rate):
            pass


async def test_refusals() -> None:
    first = box()
    await first.start()
    try:
        async with refused([first], None, TLS):
            async with refused([first], None, TLS):
                assert first.refuses
            assert first.refuses
        assert not first.refuses
        async with refused([first], 503, TLS):
            assert first.target != ("127.0.0.1", 1)
            async with refused([first], 403, TLS):
                pass
            assert first.target != ("127.0.0.1", 1)
        assert first.target == ("127.0.0.1", 1)
    finally:
        await first.stop()


@pytest.mark.parametrize("status", [200, 399, 499, 600])
async def test_what_is_no_refusal(status: int) -> None:
    with pytest.raises(ConfigurationError, match="one of HTTP"):
        async with refused([box()], status, TLS):
            pass


async def test_in_a_thread() -> None:
    """It belongs to the loop there, and ends also when the block fails."""

    def fail(first: Middlebox, loop: BackgroundLoop) -> None:
        with in_background(loop, silenced([first])):
            assert first.swallows
            raise ZeroDivisionError

    with BackgroundLoop("test") as loop:
        first = box()
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(fail, first, loop)
        assert not first.swallows
