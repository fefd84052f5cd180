"""What goes with a bug report: versions, environment, checks and a log, without what is secret.

Redaction errs on the side of too much. What cannot be told from a secret is cut out; names of
user and machine, which are in many paths and lines, are replaced.
"""

from __future__ import annotations

import json
import os
import platform
import re
import ssl
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from ... import __version__
from ...checks.findings import CheckResult
from ...common.atomic_files import write_file
from ...common.escaping import LONGEST_LINE, cut, escape
from ...common.redaction import Redaction
from ...common.secret import Secret
from ...errors import ConfigurationError

__all__ = ["read_log", "write_bundle"]

_PACKAGES: Final = (
    "aiofastnet",
    "boto3",
    "botocore",
    "certifi",
    "picows",
    "python-socks",
    "uvloop",
    "websockets",
)
_SHOWN: Final = re.compile(
    r"AWS_.*|AWSIOT_.*|TAILRACE_.*|SSL_CERT_.*|(?:https?|all|no)_proxy|LANG|LC_ALL|TERM|NO_COLOR"
    r"|PYTHON.*|XDG_.*_(?:HOME|DIR)|INVOCATION_ID|container",
    re.IGNORECASE,
)
"""Variables that have to do with what may be wrong."""
_SECRET: Final = re.compile(r"SECRET|TOKEN|PASSWORD|PASSPHRASE|KEY|CREDENTIAL|AUTH", re.IGNORECASE)
_NAMES_OF_PLACES: Final = re.compile(r"(?:_FILE|_DIR|_URI|_PATH)$", re.IGNORECASE)
_USER_IN_URL: Final = re.compile(r"(?:(?<=://)|^)[^/@\s]*(?:@[^/@\s]*)*@")
_LONG: Final = re.compile(r"[A-Za-z0-9+/=_-]{40,}")
"""As access tokens, keys and signatures; ids of tunnels have 36 characters."""
_RANDOM: Final = re.compile(
    r"(?=.*[0-9])(?:.{20,}|(?=.*[a-z])(?=.*[A-Z]).{8,})|(?=.*[a-z])(?=.*[A-Z]).{20,}|.*[+=].*"
    r"|[A-Za-z]{40,}"
)
"""What is no word between the slashes of a path."""
_LABELLED: Final = re.compile(
    r"""(?i)((?:token|secret|password|authorization|signature|credential)\w*["']?\s*[:=]\s*["']?)"""
    r"""(?:(?:basic|bearer|aws4-hmac-sha256)\s+)?[^\s"',;]+"""
)
_KEY_ID: Final = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}")
_ACCOUNT: Final = re.compile(r"(?<=:)\d{12}(?=:)")
_REDACTED: Final = "<redacted>"
_MAX_LOG: Final = 262_144
_MAX_LINES: Final = 500
_SHORT: Final = 3


def read_log(path: Path) -> list[str]:
    """Return the last lines of a log.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            if file.seekable():
                file.seek(max(0, file.seek(0, os.SEEK_END) - _MAX_LOG))
            data = file.read(_MAX_LOG)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    lines = data.decode("utf-8", "replace").splitlines()
    # The first one may be the end of a line, and of a token.
    return lines[1:][-_MAX_LINES:] if len(data) == _MAX_LOG else lines[-_MAX_LINES:]


def write_bundle(
    path: Path,
    results: Sequence[CheckResult],
    environment: Mapping[str, str],
    *,
    log: Iterable[str] = (),
    secrets: Iterable[Secret] = (),
) -> None:
    """Write a file for this user alone (mode 0600).

    Args:
        secrets: known ones, besides those of the environment.

    Raises:
        ConfigurationError: it cannot be written.
    """
    redactor = _Redactor(environment, secrets)
    document: dict[str, Any] = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "tailrace": __version__,
        "platform": _platform(),
        "packages": _versions(),
        "environment": {
            name: redactor.value(name, text)
            for name, text in sorted(environment.items())
            if _SHOWN.fullmatch(name)
        },
        "checks": [_check(each, redactor) for each in results],
    }
    lines = [redactor.text(escape(cut(line, LONGEST_LINE))) for line in log]
    if lines:
        document["log"] = lines
    write_file(path, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())


def _platform() -> dict[str, Any]:
    system: dict[str, str] = {}
    with suppress(OSError):
        system = platform.freedesktop_os_release()
    return {
        "system": f"{platform.system()} {platform.release()}",
        "distribution": system.get("PRETTY_NAME", ""),
        "machine": platform.machine(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "openssl": ssl.OPENSSL_VERSION,
        "is_64_bit": sys.maxsize > 2**32,
        "time_zone": time.strftime("%z"),
        "trusted_files": {
            name: value
            for name, value in ssl.get_default_verify_paths()._asdict().items()
            if not name.endswith("_env") and value
        },
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _check(result: CheckResult, redactor: _Redactor) -> dict[str, str]:
    finding = result.finding
    kind = "" if finding.cause is None else type(finding.cause).__name__
    return {
        "name": result.name,
        "verdict": finding.verdict.value,
        "figure": redactor.text(cut(finding.figure, LONGEST_LINE)),
        "fix": redactor.text(finding.fix),
        "error": kind,
    }


class _Redactor:
    """Cuts out of texts what nobody else is to see."""

    def __init__(self, environment: Mapping[str, str], secrets: Iterable[Secret]) -> None:
        self._redaction = Redaction()
        self._redaction.add(
            *secrets,
            *(Secret(text) for name, text in environment.items() if _is_secret(name)),
        )
        home = environment.get("HOME", "")
        names = {environment.get("USER", ""): "USER", environment.get("LOGNAME", ""): "USER"}
        names |= {platform.node(): "HOST", platform.node().partition(".")[0]: "HOST"}
        self._places = {home: "~"} if len(home) > 1 else {}
        # A name such as "root" or "pi" says nothing, and is a word of many lines.
        self._names = {
            name: what
            for name, what in names.items()
            if len(name) > _SHORT and name not in ("root", "localhost")
        }

    def value(self, name: str, text: str) -> str:
        """Return the value of a variable."""
        if _is_secret(name) and text:
            return f"<redacted, {len(text)} characters>"
        return self.text(_USER_IN_URL.sub(f"{_REDACTED}@", text))

    def text(self, text: str) -> str:
        """Return a text of a check or of a log."""
        text = self._redaction.redact(text)
        for place, shown in self._places.items():
            text = text.replace(place, shown)
        for name, shown in self._names.items():
            text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", shown, text)
        text = _LABELLED.sub(rf"\1{_REDACTED}", text)
        text = re.sub(r"(?<=://)[^/@\s]+@", f"{_REDACTED}@", text)
        text = _KEY_ID.sub(_REDACTED, text)
        return _LONG.sub(_long, _ACCOUNT.sub("ACCOUNT", text))


def _long(match: re.Match[str]) -> str:
    """Return a long text as it is if it is made of words, as the path of a file is."""
    text = match[0]
    is_relative = "/" in text and not text.startswith("/")  # or a token
    return _REDACTED if is_relative or any(map(_RANDOM.fullmatch, text.split("/"))) else text


def _is_secret(name: str) -> bool:
    return bool(_SECRET.search(name)) and not _NAMES_OF_PLACES.search(name)
