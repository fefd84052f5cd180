"""Certificates for servers of tests."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme

__all__ = ["Certificates", "handshake"]


class Certificates:
    """A CA, a certificate of the service, and one of a stranger."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA(organization_name="Tailrace tests")
        self.cert = self.ca.issue_cert("localhost", "127.0.0.1", common_name="tunnel service")
        self.wrong_host = self.ca.issue_cert("elsewhere.example")
        self.stranger = trustme.CA(organization_name="Somebody else").issue_cert("localhost")
        self.ca_file = directory / "ca.pem"
        self.ca.cert_pem.write_to_path(str(self.ca_file))

    def server_context(self, cert: trustme.LeafCert | None = None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (cert or self.cert).configure_cert(context)
        return context


def handshake(
    client: ssl.SSLContext, server: ssl.SSLContext, name: str = "localhost"
) -> ssl.SSLObject:
    """Do a TLS handshake in memory; return the client's end."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(6):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    ends[0].do_handshake()
    return ends[0]
