"""The choice of event loops: a test that asks for ``loop_kind`` runs on each."""

from __future__ import annotations

import asyncio

import pytest


def kinds(request: pytest.FixtureRequest) -> set[str]:
    """Return the kinds of loop a test runs on."""
    return set(request.config.hook.pytest_asyncio_loop_factories(config=None, item=request.node))


async def test_asking_for_the_kind(loop_kind: str, request: pytest.FixtureRequest) -> None:
    package = {"asyncio": "asyncio", "uvloop": "uvloop"}[loop_kind]
    assert type(asyncio.get_running_loop()).__module__.split(".")[0] == package
    assert request.node.callspec.id == loop_kind
    assert kinds(request) == {"asyncio", "uvloop"}


async def test_not_asking_for_it(request: pytest.FixtureRequest) -> None:
    assert type(asyncio.get_running_loop()).__module__.split(".")[0] == "asyncio"
    assert kinds(request) == {"asyncio"}


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_asking_for_one_by_mark(request: pytest.FixtureRequest) -> None:
    assert type(asyncio.get_running_loop()).__module__.split(".")[0] == "uvloop"
