"""What a machine itself brings: its clock, and the certificate that it shows to servers."""

from __future__ import annotations

import re
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from ..common.certificate_files import certificate_error_text, refuse_passphrase
from ..common.extension import data_path
from ..common.private_files import OTHERS_MAY_WRITE
from ..common.wall_clock import is_clock_set
from ..link.tls.x509_names import describe, end_of_validity
from .findings import Finding, failed, ok, warning

__all__ = ["check_certificate", "check_clock", "check_data_path"]

_SOON: Final = timedelta(days=30)
"""Time before our own certificate expires in which that is worth a warning."""
_MAX_FILE: Final = 1_048_576
_OTHERS_MAY_READ: Final = 0o004
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


async def check_clock() -> Finding:
    """Check that the clock can be right."""
    now = time.time()
    text = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if is_clock_set(now):
        return ok(text)
    return failed(
        f"{text}, which is before this program was made",
        "set the clock, and have it kept: timedatectl set-ntp true",
    )


async def check_data_path() -> Finding:
    """Tell who moves the data of tunnels, which is no fault in either case."""
    return ok(data_path())


async def check_certificate(certificate: Path, key: Path | None) -> Finding:
    """Check that certificate and key can be read, belong together, and are good for a while.

    ``key`` is ``None`` when it is in the same file.
    """
    key_file = key or certificate
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(
            certificate, key, password=refuse_passphrase
        )
        der = _first_certificate(certificate)
        mode = key_file.stat().st_mode
    except OSError as error:
        reason = certificate_error_text(error, missing="no certificate or no key in PEM")
        return failed(
            f"{certificate}{'' if key is None else f', {key}'}: {reason}",
            "give the user of the agent the right to read both, and the pair that belongs together",
        )
    now, end = datetime.now(UTC), end_of_validity(der)
    text = f"{describe(der)}, the key belongs to it"
    if end is not None:
        text += f", good until {end:%Y-%m-%d}"
        if end <= now:
            return failed(text, "renew the certificate, or set the clock")
    if mode & (OTHERS_MAY_WRITE | _OTHERS_MAY_READ):
        return warning(f"{text}; other users may use the key", f"chmod go-rwx {key_file}")
    if end is not None and end - now < _SOON:
        return warning(text, "renew the certificate before it expires")
    return ok(text)


def _first_certificate(path: Path) -> bytes:
    """Return the first certificate of a file in DER, b"" if it is not in PEM."""
    with path.open("rb") as file:
        found = _PEM.search(file.read(_MAX_FILE))
    return b"" if found is None else ssl.PEM_cert_to_DER_cert(found[0].decode("ascii"))
