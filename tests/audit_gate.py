"""Ask whether an installed package has a known vulnerability.

    python tests/audit_gate.py

pip-audit asks PyPI about each package. Where that cannot answer, the check is skipped, and
says so: whether this machine is on line decides nothing.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Verdict", "is_reachable", "judge", "main"]

DATABASE = "https://pypi.org/pypi/pip/25.1/json"
"""An entry that is there whenever the database is."""
TIMEOUT = 10.0
"""Seconds for the database to answer once, the look-up of its name included."""
PATIENCE = 120.0
"""Seconds for the whole audit: some hundred answers."""
COMMAND = (
    *(sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"),
    *("--skip-editable", "--timeout", str(int(TIMEOUT))),
)

Verdict = tuple[int, str]
"""Exit status, and the lines that say why."""


def is_reachable(url: str = DATABASE, timeout: float = TIMEOUT) -> bool:
    """Tell whether the database answers in time."""
    answered = threading.Event()

    def ask() -> None:
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            urllib.request.urlopen(url, timeout=timeout) as answer,
        ):
            if answer.status == 200:
                answered.set()

    # In a thread, because nothing limits how long a name server is asked.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(timeout)
    return answered.is_set()


def judge(report: Mapping[str, Any]) -> Verdict:
    """Return what a report of pip-audit means."""
    asked = [each for each in report["dependencies"] if "skip_reason" not in each]
    bad = [
        f"  {each['name']} {each['version']}: {found['id']}, "
        f"mended in {', '.join(found['fix_versions']) or 'no version'}"
        for each in asked
        for found in each["vulns"]
    ]
    if bad:
        return 1, "\n".join(["Known vulnerabilities:", *bad])
    if not asked:
        return 0, "audit SKIPPED: the database knows none of the packages"
    silent = len(report["dependencies"]) - len(asked)
    rest = f"; nothing is known about {silent} more" if silent else ""
    return 0, f"audit: no known vulnerability in {len(asked)} package{'s' * (len(asked) > 1)}{rest}"


def audit() -> Verdict:
    """Run pip-audit and return what it found."""
    try:
        done = subprocess.run(
            COMMAND, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return 0, f"audit SKIPPED: pip-audit took longer than {PATIENCE:g} s"
    try:
        report = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return 0, f"audit SKIPPED: pip-audit failed: {last}"
    return judge(report)


def main(argv: Sequence[str]) -> int:
    """Audit this Python's packages; return the exit status."""
    url = argv[0] if argv else DATABASE
    if is_reachable(url):
        status, text = audit()
    else:
        status, text = 0, f"audit SKIPPED: {url} does not answer"
    print(text, file=sys.stderr if status else sys.stdout)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
