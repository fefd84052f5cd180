"""The leak checks themselves: each kind of leak fails the test that leaks, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent

SETTINGS = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""

CONFTEST = """
from support.plugins import leaks
from support.plugins.loops import LOOP_FACTORIES

leaks._TURNS = 30  # what is never closed is waited for in vain

def pytest_asyncio_loop_factories(item):
    if item.name.startswith("test_uvloop"):
        return LOOP_FACTORIES
    return {"asyncio": LOOP_FACTORIES["asyncio"]}
"""

LEAKY = """
import asyncio, os, socket, subprocess, sys
import pytest

kept = []

async def test_task():
    kept.append(asyncio.get_running_loop().create_task(asyncio.sleep(3600), name="forgotten"))

async def test_server():
    kept.append(await asyncio.start_server(print, "127.0.0.1", 0))

def test_socket():
    kept.append(socket.socket())

def test_descriptor():
    kept.append(os.dup(0))

def test_process():
    kept.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))

def test_unclosed():
    socket.socket()

async def test_unclosed_in_a_cycle():
    cycle = [socket.socket()]
    cycle.append(cycle)

@pytest.fixture
def leaky():
    kept.append(socket.socket())

def test_fixture(leaky):
    pass
"""

CLEAN = """
import asyncio, socket, subprocess, sys
import pytest

@pytest.fixture(scope="session")
def shared():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server

@pytest.fixture
async def server():
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()

async def echo(reader, writer):
    writer.write(await reader.read())
    writer.close()

async def test_connection(server):
    reader, writer = await asyncio.open_connection(*server)
    writer.write(b"x")
    writer.write_eof()
    assert await reader.read() == b"x"
    writer.close()

def test_session_fixture(shared):
    assert shared.getsockname()

async def test_slow_task():
    asyncio.get_running_loop().call_later(0.05, print)
    kept.append(asyncio.get_running_loop().create_task(asyncio.sleep(0.05)))

kept = []

def test_process():
    subprocess.run([sys.executable, "-c", ""], check=True)

@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_uvloop(server):
    reader, writer = await asyncio.open_connection(*server)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
    await process.wait()
    writer.write_eof()
    await reader.read()
    writer.close()

def test_own_loop():
    asyncio.run(asyncio.sleep(0))
"""


def test_each_leak_is_an_error_and_nothing_else_is(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    pytester.makeini(SETTINGS)
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_clean=CLEAN, test_leaky=LEAKY)
    result = pytester.runpytest_subprocess(
        *("-p", "support.plugins.leaks", "-p", "no:cacheprovider"), "-v"
    )
    assert "ERROR test_clean" not in result.stdout.str()
    assert "FAILED test_clean" not in result.stdout.str()
    # An unclosed object that no cycle holds is found at the end of the call already.
    result.assert_outcomes(passed=7 + 6, failed=1, errors=7)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_task*",
            "left behind:",
            "*task <Task pending name='forgotten'*",
            "*ERROR at teardown of test_server*",
            "left behind:",
            "*fd * -> socket:*",
            "*ERROR at teardown of test_socket*",
            "left behind:",
            "*fd * -> socket:*",
            "*ERROR at teardown of test_descriptor*",
            "left behind:",
            "*fd * -> *",
            "*ERROR at teardown of test_process*",
            "left behind:",
            "*fd * -> pipe:*",
            "*process *: *",
            "*ERROR at teardown of test_unclosed_in_a_cycle*",
            "*PytestUnraisableExceptionWarning*<socket.socket *",
            "*ERROR at teardown of test_fixture*",
            "left behind:",
            "*fd * -> socket:*",
            "*FAILURES*",
            "*_ test_unclosed _*",
            "*PytestUnraisableExceptionWarning*<socket.socket *",
        ]
    )
