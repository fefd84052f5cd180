"""The fixtures, in runs of pytest of their own."""

import json
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from support.waiting import HANG

TESTS = '''
import asyncio
import http.server
import json
import os
import socketserver
import subprocess
import sys
import threading
import urllib.request

import pytest


@pytest.fixture
def device():
    """A web server, as on a device."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"I am a device")

        def log_message(self, *_):
            pass

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_a_web_server(tailrace_tunnel, device):
    tunnel = tailrace_tunnel(HTTP=device)
    with urllib.request.urlopen(tunnel.url("HTTP") + "/status") as answer:
        assert answer.read() == b"I am a device"
    assert tunnel.address("HTTP")[0] == "127.0.0.1"


@pytest.mark.parametrize("number", range(2))
def test_tunnels_are_closed_with_their_test(tailrace_service, tailrace_tunnel, number):
    client = tailrace_service.control_client()
    assert client.call("ListTunnels", {})["tunnelSummaries"] == []
    tailrace_tunnel(SSH=22)


async def test_in_an_event_loop(tailrace_tunnel):
    """Whose own server is the application."""

    async def serve(reader, writer):
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        tunnel = tailrace_tunnel(ECHO=server.sockets[0].getsockname()[1])
        reader, writer = await asyncio.open_connection(*tunnel.address("ECHO"))
        writer.write(b"hello\\n")
        assert await reader.read() == b"HELLO\\n"
        writer.close()
        await writer.wait_closed()


async def test_a_client(tailrace_client):
    opened = await tailrace_client.open(services=["SSH"])
    assert (await tailrace_client.describe(opened.tunnel_id)).services == ("SSH",)
    await tailrace_client.close(opened.tunnel_id, delete=True)


def test_a_client_without_a_loop(tailrace_client, tailrace_tunnel):
    tunnel = tailrace_tunnel(SSH=22)
    for _ in range(2):
        described = asyncio.run(tailrace_client.describe(tunnel.tunnel_id))
        assert described.destination.is_connected


def test_another_process(tailrace_service):
    command = [sys.executable, "-m", "tailrace", "tunnel", "list", "--json"]
    environment = {"PATH": os.environ["PATH"], **tailrace_service.environment()}
    listed = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert json.loads(listed.stdout)["tunnelSummaries"] == []
'''

INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""

CONFTEST = """
import pytest

@pytest.fixture(scope="session")
def tailrace_service_settings():
    return {"limits": "aws"}
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Run pytest on its own, with this plugin as it is installed and that for async tests."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini(INI)

    def run(*arguments: str) -> pytest.RunResult:
        plugins = ("-p", "tailrace.testing.plugin", "-p", "pytest_asyncio.plugin")
        return pytester.runpytest_subprocess(*plugins, *arguments, timeout=HANG)

    return run


def test_it_is_installed_as_a_plugin() -> None:
    (found,) = [each for each in entry_points(group="pytest11") if each.name == "tailrace"]
    assert found.value == "tailrace.testing.plugin"


def test_fixtures(pytester: pytest.Pytester, run) -> None:
    pytester.makepyfile(TESTS)
    result = run()
    result.assert_outcomes(passed=7)
    result.stdout.no_fnmatch_line("*tailrace.service*")


def test_processes_of_xdist_have_a_service_each(pytester: pytest.Pytester, run) -> None:
    pytester.makepyfile(TESTS)
    run("-p", "xdist", "-n", "2").assert_outcomes(passed=7)


def test_nothing_is_printed(pytester: pytest.Pytester, run) -> None:
    """Not even where nothing is captured, and links are lost."""
    pytester.makepyfile(
        """
        def test_a_cut(tailrace_tunnel):
            tunnel = tailrace_tunnel(SSH=1)
            with tunnel.refuse(403):
                tunnel.cut()
            tunnel.close()
        """
    )
    result = run("-q", "-s", "-p", "no:logging")
    assert result.stderr.lines == []
    dot, *rest = [line for line in result.stdout.lines if line]
    assert dot.startswith(".")
    assert [line for line in rest if "1 passed" not in line] == []


LEFT_BEHIND = """
import os
import threading

import pytest

THREADS = threading.active_count()

@pytest.hookimpl(trylast=True)
def pytest_sessionfinish():
    left = threading.active_count() - THREADS
    for each in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        path = f"/proc/self/fd/{each}"
        left += os.path.islink(path) and os.readlink(path).startswith("socket:")
    print("left behind:", left)
"""

ENDINGS = (
    "pass",
    "raise AssertionError",
    "tunnel.silence().__enter__()",
    "tailrace_service.refuse().__enter__()",
    "tailrace_service.expire(tunnel.tunnel_id)",
    "tailrace_tunnel(**{'not a service id': 1})",
)


@pytest.mark.parametrize(
    ("endings", "left"),
    [(ENDINGS, 0), (("raise KeyboardInterrupt",), 0), (("builtins.kept = socket.socket()",), 1)],
    ids=["failures", "ctrl-c", "the rule can fail"],
)
def test_nothing_is_left_behind(
    pytester: pytest.Pytester, run, endings: tuple[str, ...], left: int
) -> None:
    """However tests end, and whatever they have not ended."""
    pytester.makeconftest(LEFT_BEHIND)
    pytester.makepyfile(
        f"""
        import builtins
        import socket

        import pytest

        @pytest.mark.parametrize("ending", {endings})
        def test_a_tunnel(tailrace_service, tailrace_tunnel, tailrace_client, ending):
            tunnel = tailrace_tunnel(SSH=1)
            exec(ending)
        """
    )
    run("-s").stdout.fnmatch_lines([f"*left behind: {left}"])


def test_another_service_for_one_module(pytester: pytest.Pytester, run) -> None:
    """Beside that of the others."""
    pytester.makepyfile(
        test_default="""
        def test_as_many_services_as_one_likes(tailrace_tunnel):
            tailrace_tunnel(A=1, B=2, C=3, D=4)
        """,
        test_aws="""
        import pytest
        from tailrace.errors import LimitExceeded
        from tailrace.testing.tunnels import service_in_thread

        @pytest.fixture(scope="module")
        def tailrace_service():
            with service_in_thread({"limits": "aws"}) as service:
                yield service

        async def test_three_services(tailrace_client, tailrace_tunnel):
            tailrace_tunnel(A=1, B=2, C=3)
            with pytest.raises(LimitExceeded):
                await tailrace_client.open(services=["A", "B", "C", "D"])
        """,
    )
    run("test_default.py", "test_aws.py").assert_outcomes(passed=2)


def test_settings_are_overridden(pytester: pytest.Pytester, run) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import pytest
        from tailrace.errors import CallRefused

        def test_aws_allows_three_services(tailrace_tunnel):
            with pytest.raises(CallRefused):
                tailrace_tunnel(A=1, B=2, C=3, D=4)
        """
    )
    run().assert_outcomes(passed=1)


def test_the_log_is_shown_with_tests_that_fail(pytester: pytest.Pytester, run) -> None:
    pytester.makepyfile(
        """
        def test_passes(tailrace_tunnel):
            tailrace_tunnel(PASSES=1)

        def test_fails(tailrace_tunnel):
            tailrace_tunnel(FAILS=1)
            assert not "a fault"
        """
    )
    result = run()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*Captured log call*", "*: OpenTunnel by *"])
    assert result.stdout.str().count(": OpenTunnel by ") == 1


def test_boto3(pytester: pytest.Pytester, run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment says about AWS does not matter."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-another-key")
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    pytester.makepyfile(
        """
        def test_listing(tailrace_boto3_client, tailrace_tunnel):
            tunnel = tailrace_tunnel(HTTP=1)
            described = tailrace_boto3_client.describe_tunnel(tunnelId=tunnel.tunnel_id)
            assert described["tunnel"]["status"] == "OPEN"
        """
    )
    run().assert_outcomes(passed=1)


def test_without_boto3(pytester: pytest.Pytester, run) -> None:
    pytester.makeconftest("import sys; sys.modules['boto3'] = None")
    pytester.makepyfile("def test_listing(tailrace_boto3_client): pass")
    result = run("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*boto3*"])


def test_mistakes_are_one_line(pytester: pytest.Pytester, run) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="session")
        def tailrace_service_settings():
            return {"region": "us east"}

        def test_settings(tailrace_service):
            pass
        """
    )
    result = run("--tb=line")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*region 'us east' is not a name such as us-east-1"])


def test_those_who_do_not_use_it_pay_nothing() -> None:
    code = (
        "import json, sys, pytest; before = set(sys.modules); import tailrace.testing.plugin; "
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG, check=True
    )
    assert json.loads(result.stdout) == [
        "tailrace",
        "tailrace.testing",
        "tailrace.testing.plugin",
    ]
