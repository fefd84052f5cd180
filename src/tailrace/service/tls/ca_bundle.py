"""The trust of this machine plus one more authority, as one file."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from ...common.atomic_files import write_file
from ...errors import ConfigurationError

__all__ = ["system_trust", "write_bundle"]

# Where the usual distributions keep all authorities in one file, for Pythons whose
# OpenSSL was built for another place.
_KNOWN_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def system_trust() -> bytes:
    """Return the machine's authorities in PEM, empty when no bundle is found.

    ``SSL_CERT_FILE`` is not looked at: it may be the result of an earlier call.
    """
    compiled_in = ssl.get_default_verify_paths().openssl_cafile
    for path in (compiled_in, *_KNOWN_BUNDLES):
        try:
            return Path(path).read_bytes()
        except OSError:
            continue
    return b""


def write_bundle(path: Path, ca_file: Path) -> None:
    """Write the machine's authorities and that of ``ca_file`` to ``path``, if it has others.

    Raises:
        ConfigurationError: a file cannot be read or written.
    """
    try:
        ours = ca_file.read_bytes()
        known = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise ConfigurationError(f"cannot read {error.filename}: {error.strerror}") from error
    bundle = system_trust().rstrip(b"\n") + b"\n" + ours
    if known != bundle:
        write_file(path, bundle, 0o644)
