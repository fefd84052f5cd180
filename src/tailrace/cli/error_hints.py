"""What ``tailrace`` says about an error: what happened, and which option to change.

Errors come with facts from below; the names of options are added here. The C++ command's words
for ``localproxy`` are in :mod:`tailrace.cli.localproxy.error_hints`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..errors import TailraceError

__all__ = ["explain"]

_HINTS: Final[Mapping[str, str]] = {
    "api_listen": "choose another address with --api-listen",
    "audit_log": "check --audit-log",
    "data_listen": "choose another address with --data-listen",
    "host_names": "check --host-name",
    "loop": "pip install uvloop, or use --loop auto",
    "metrics_listen": "choose another address with --metrics-listen",
    "ready_file": "check --ready-file",
    "state_dir": "choose another with --state-dir",
    "tls_ca": "check --tls-ca",
    "tls_cert": "check --tls-cert",
    "tls_key": "check --tls-key",
}
"""Setting at fault, as in the settings of the service -> what to do about it."""


def explain(error: TailraceError) -> str:
    """Return the line that a command ends with."""
    hint = _HINTS.get(error.setting)
    return f"{error}; {hint}" if hint else str(error)
