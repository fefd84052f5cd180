"""Real web proxies that inspect TLS: squid with ssl-bump, and mitmproxy."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from support.network.ports import free_port
from support.processes.child import server_process
from support.repository import ROOT

__all__ = ["InspectingProxy", "mitmproxy", "squid"]

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"
_CERTIFICATES = Path("/usr/lib/squid/security_file_certgen")
_PAGE = ROOT / "docs" / "guides" / "intermediaries.md"
_UPGRADES = "http_upgrade_request_protocols websocket allow all\n"
_MORE = """
http_port {port} ssl-bump cert={ca} generate-host-certificates=on
tls_outgoing_options cafile={trusted}
http_access allow all
cache deny all
shutdown_lifetime 0 seconds
pid_filename none
access_log none
cache_log /dev/null
pinger_enable off
coredump_dir /
"""


@dataclass(frozen=True)
class InspectingProxy:
    """A running proxy, and the authority that its clients have to trust."""

    port: int
    ca_file: Path


@contextmanager
def squid(directory: Path, trusted: str, *, upgrades: bool) -> Iterator[InspectingProxy]:
    """Run squid as the page documents it, without the last option if ``upgrades`` is false."""
    program = shutil.which("squid", path=_PATH)
    if program is None or not _CERTIFICATES.exists():
        pytest.skip("squid is not installed with OpenSSL (package squid-openssl; `make apt`)")
    ca = trustme.CA(organization_name="An inspecting proxy")
    both, ca_file = directory / "squid-both.pem", directory / "squid-ca.pem"
    ca.cert_pem.write_to_path(str(ca_file))
    both.write_bytes(ca.private_key_pem.bytes() + ca.cert_pem.bytes())
    port = free_port()
    (block,) = re.findall(r"^```squid\n(.*?)^```$", _PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert _UPGRADES in block
    block = re.sub(r"^http_port .*\n", "", block, flags=re.MULTILINE)
    # Started by root, squid goes on as a user who can write nothing here.
    block = block.replace(" -s /var/spool/squid/ssl_db -M 4MB", "")
    more = _MORE.format(port=f"127.0.0.1:{port}", ca=both, trusted=trusted)
    path = directory / "squid.conf"
    path.write_text((block if upgrades else block.replace(_UPGRADES, "")) + more)
    with server_process(
        "squid", [program, "-N", "-d", "1", "-n", f"tests{port}", "-f", str(path)], directory, port
    ):
        yield InspectingProxy(port, ca_file)


@contextmanager
def mitmproxy(directory: Path, trusted: str) -> Iterator[InspectingProxy]:
    """Run mitmproxy as it is, but for its files and the authority that it trusts."""
    program = shutil.which("mitmdump", path=_PATH)
    if program is None:
        pytest.skip("mitmdump is not installed (package mitmproxy; `make apt`)")
    port = free_port()
    settings = {
        "confdir": str(directory),
        "ssl_verify_upstream_trusted_ca": trusted,
        "termlog_verbosity": "warn",
    }
    options = [text for name, value in settings.items() for text in ("--set", f"{name}={value}")]
    command = [program, "--listen-host", "127.0.0.1", "-p", str(port), "-q", *options]
    with server_process("mitmproxy", command, directory, port):
        yield InspectingProxy(port, directory / "mitmproxy-ca-cert.pem")
