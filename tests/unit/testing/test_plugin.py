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
    result.assert_outcomes(passed=5)
    result.stdout.no_fnmatch_line("*tailrace.service*")


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
