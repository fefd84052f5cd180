"""Three nginx ``stream`` proxies in a row: plain to TLS, TLS to TLS, TLS to plain.

The same work as a tunnel does, in C, without a protocol in between: what native code
needs for it. Each hop is one process with one worker, as the tunnel's are, and
verifies the next one's certificate.
"""

from __future__ import annotations

import datetime
import ipaddress
import resource
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ..processes import Process, Supervisor, unused_port
from ..site import LOOPBACK, Address, Place, Role, Site
from .base import Contender, Running, find_tool

__all__ = ["Nginx"]

_NAME: Final = "hop.test"
_MODULES: Final = ("/usr/lib/nginx/modules/ngx_stream_module.so", "modules/ngx_stream_module.so")

_OTHER_FILES: Final = 100
"""Open files of a worker that are not connections, and some to spare."""

_CONFIGURATION: Final = """
{load}
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr warn;
worker_rlimit_nofile 60000;
events {{ worker_connections 50000; multi_accept off; }}
stream {{
    proxy_timeout 1h;
    proxy_buffer_size 64k;
    tcp_nodelay on;
    {tls}
    {servers}
}}
"""

_SERVER_TLS: Final = """
    ssl_certificate {directory}/certificate.pem;
    ssl_certificate_key {directory}/key.pem;
    ssl_session_cache shared:tls:1m;
"""

_CLIENT_TLS: Final = """
    proxy_ssl on;
    proxy_ssl_verify on;
    proxy_ssl_protocols TLSv1.2 TLSv1.3;
    proxy_ssl_trusted_certificate {directory}/certificate.pem;
    proxy_ssl_name {name};
"""


class Nginx(Contender):
    """The chain."""

    name = "nginx"
    description = "three nginx stream TLS hops, one worker each: the floor of native code"

    def missing(self) -> str | None:
        if find_tool("nginx") is None:
            return "no nginx (Debian: nginx-light and libnginx-mod-stream)"
        if _load_line() is None:
            return "nginx has no stream module (Debian: libnginx-mod-stream)"
        return None

    def start(
        self, supervisor: Supervisor, site: Site, applications: Mapping[str, Address]
    ) -> Running:
        directory = supervisor.path("nginx")
        directory.mkdir()
        _write_certificate(directory)
        last = {unused_port(): address for address in applications.values()}
        middle = {unused_port(): Address(LOOPBACK, port) for port in last}
        hubs = {port: site.gate(Address(site.hub_host, port)) for port in middle}
        first = {unused_port(): hub for hub in hubs.values()}
        processes = {
            Role.DESTINATION: _hop(supervisor, site, directory, Role.DESTINATION, last),
            Role.RELAY: _hop(supervisor, site, directory, Role.RELAY, middle),
            Role.SOURCE: _hop(supervisor, site, directory, Role.SOURCE, first),
        }
        for role, ports in (
            (Role.DESTINATION, last),
            (Role.RELAY, middle),
            (Role.SOURCE, first),
        ):
            for port in ports:
                supervisor.wait_for_port(port, processes[role])
        endpoints = {
            name: Address(LOOPBACK, port) for name, port in zip(applications, first, strict=True)
        }
        return Running(endpoints, processes)

    def refuses(self, connections: int) -> str | None:
        """A worker needs two open files for each connection."""
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        needed = 2 * connections + _OTHER_FILES
        if needed > allowed:
            return f"a worker needs {needed} open files for them, {allowed} are allowed here"
        return None

    def installed_size(self) -> int | None:
        """Return what Debian's packages say."""
        return _debian_size("nginx", "nginx-common", "nginx-light", "libnginx-mod-stream")


def _hop(
    supervisor: Supervisor,
    site: Site,
    directory: Path,
    role: Role,
    targets: Mapping[int, Address],
) -> Process:
    """Start one hop: port to listen on -> where it goes."""
    own = directory / role.value
    own.mkdir()
    accepts_tls = role is not Role.SOURCE
    host = site.bind_host if role is Role.RELAY else LOOPBACK
    tls = "ssl" if accepts_tls else ""
    servers = "".join(
        f"server {{ listen {host}:{port} {tls} backlog=4096; proxy_pass {target}; }}\n"
        for port, target in targets.items()
    )
    sections = (_SERVER_TLS if accepts_tls else "") + (
        _CLIENT_TLS if role is not Role.DESTINATION else ""
    )
    configuration = own / "nginx.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            load=_load_line(),
            directory=own,
            tls=sections.format(directory=directory, name=_NAME),
            servers=servers,
        )
    )
    nginx = find_tool("nginx")
    assert nginx is not None
    place = Place.NEAR if role is Role.SOURCE else Place.FAR
    command = site.command(place, [nginx, "-p", f"{own}/", "-c", str(configuration)])
    return supervisor.spawn(f"nginx-{role.value}", command)


def _load_line() -> str | None:
    """Return the directive that loads the stream module; "" where it is built in."""
    nginx = find_tool("nginx")
    if nginx is None:
        return None
    done = subprocess.run([nginx, "-V"], capture_output=True, text=True)
    arguments = (done.stdout + done.stderr).split()
    if "--with-stream" in arguments:
        return ""
    for path in _MODULES:
        if Path(path).exists():
            return f"load_module {path};"
    return None


def _write_certificate(directory: Path) -> None:
    """Make a self-signed certificate like the one our service makes: ECDSA, P-256."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _NAME)])
    now = datetime.datetime.now(datetime.UTC)
    alternatives: list[x509.GeneralName] = [
        x509.DNSName(_NAME),
        x509.IPAddress(ipaddress.ip_address(LOOPBACK)),
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / "certificate.pem").write_bytes(certificate.public_bytes(pem))
    path = directory / "key.pem"
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _debian_size(*packages: str) -> int | None:
    """Return the sum of the installed sizes of those packages that are installed."""
    dpkg = find_tool("dpkg-query")
    if dpkg is None:
        return None
    show = "${db:Status-Status} ${Installed-Size}\n"
    done = subprocess.run([dpkg, "-W", f"-f={show}", *packages], capture_output=True, text=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    sizes = [int(row[1]) * 1024 for row in rows if row[0] == "installed"]
    return sum(sizes) or None
