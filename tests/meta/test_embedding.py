"""What programs embed is typed, and the page that tells so is true."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

import tailrace
from support.repository import ROOT
from support.waiting import HANG
from tailrace.testing import plugin

PAGE = ROOT / "docs" / "embedding.md"

USE = """
import asyncio
from pathlib import Path
import tailrace
from tailrace.testing.tunnels import LocalTunnel, ServiceInThread, TunnelFactory, service_in_thread

async def main() -> None:
    service = tailrace.Service(
        Path("state"), host="::1", api_port=1, data_port=2, host_names=["a"], region="us-east-1",
        limits=tailrace.Limits(services=3, connection_rate=0.5), tls_cert="c", tls_key=Path("k"),
        tls_ca="ca", audit_log="log", mqtt_url="mqtt://h", mqtt_ca="ca", mqtt_cert="c",
        mqtt_key="k", notify_command=("program", "argument"),
    )
    async with service as entered, tailrace.Service(limits="aws") as other:
        entered = service
        endpoints: tailrace.Endpoints = other.endpoints
        names: list[str] = [endpoints.api_endpoint, endpoints.data_endpoint, endpoints.region]
        environment: dict[str, str] = service.environment()
        client = service.control_client(timeout=3.0)
        result: dict[str, object] = await asyncio.to_thread(client.call, "OpenTunnel", {})
        print(names, environment, result, tailrace.__version__)

def test_device(tailrace_service: ServiceInThread, tailrace_tunnel: TunnelFactory) -> None:
    tunnel: LocalTunnel = tailrace_tunnel(HTTP=8080, SSH="192.0.2.7:22")
    host, port = tunnel.address("SSH")
    texts: list[str] = [host, tunnel.url("HTTP"), tunnel.url("HTTP", "https"), tunnel.tunnel_id]
    endpoints: tailrace.Endpoints = tailrace_service.endpoints
    environment: dict[str, str] = tailrace_service.environment()
    client = tailrace_service.control_client(timeout=3.0)
    with tailrace_service.tunnels() as open_tunnel, service_in_thread({"limits": "aws"}) as other:
        print(open_tunnel(HTTP=1), other, client, environment, endpoints, texts, port)
"""

HEAD = "import tailrace; from tailrace.testing.tunnels import LocalTunnel, TunnelFactory"
MISUSES = [
    "tailrace.Service(1)",
    'tailrace.Service(notify_command="program argument")',
    'tailrace.Service(host_names="name")',
    'tailrace.Service(limits="azure")',
    'tailrace.Service(api_port="1")',
    "tailrace.Service(port=1)",
    'tailrace.Service("state", "::1")',
    "tailrace.Service().environment",
    'tailrace.Service().endpoints.region = "x"',
    "tailrace.Limits(services=None)",
    "tailrace.Nothing",
    "with tailrace.Service(): pass",
    "def f(t: TunnelFactory) -> None: t(HTTP=1.5)",
    "def g(t: TunnelFactory) -> None: t(8080)",
    "def h(t: LocalTunnel) -> None: t.address(22)",
]
HARMLESS = "tailrace.Service().environment"
"""The one among them that shows that not everything is an error."""


def test_types(tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text(USE)
    (tmp_path / "misuse.py").write_text("\n".join([HEAD, *MISUSES]))
    options = ["--strict", "--cache-dir", ROOT / ".mypy_cache", "--no-pretty", "--config-file", ""]
    result = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "use.py", "misuse.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=2 * HANG,
    )
    found = {
        (match[1], int(match[2]))
        for match in re.finditer(r"^(\w+)\.py:(\d+): error:", result.stdout, re.MULTILINE)
    }
    expected = {("misuse", line) for line, misuse in enumerate(MISUSES, 2) if misuse != HARMLESS}
    assert found == expected, result.stdout + result.stderr


def test_the_examples_run(tmp_path: Path) -> None:
    program, test = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    output = run(tmp_path, "-W", "error", "-c", program)
    endpoint, tunnel_id = output.split()
    assert endpoint.startswith("https://127.0.0.1:")
    assert uuid.UUID(tunnel_id)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "test_page.py").write_text(test)
    # Which warns about settings that this directory does not have.
    assert "1 passed" in run(tmp_path, "-m", "pytest", "-W", "error", "-p", "no:asyncio")


def run(directory: Path, *arguments: str) -> str:
    """Run Python and return what it prints, which it must not do to standard error."""
    result = subprocess.run(
        [sys.executable, *arguments], cwd=directory, capture_output=True, text=True, timeout=HANG
    )
    assert result.stderr == "", result.stdout
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.mark.parametrize("name", ["Endpoints", "Limits", "Service"])
def test_names_are_loaded_when_they_are_used(name: str) -> None:
    code = (
        f"import sys, tailrace; before = set(sys.modules); assert {name!r} in dir(tailrace); "
        f"assert not any(each.startswith('tailrace.') for each in before), before; "
        f"assert 'asyncio' not in before; print(tailrace.{name}.__name__)"
    )
    result = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert result.stdout == f"{name}\n", result.stderr


def test_every_argument_and_fixture_stands_on_the_page() -> None:
    page = PAGE.read_text()
    for name in (*inspect.signature(tailrace.Service).parameters, *plugin.__all__):
        assert f"`{name}`" in page, name
