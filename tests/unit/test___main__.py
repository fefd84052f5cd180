"""``python -m tailrace``."""

from __future__ import annotations

import subprocess
import sys

from tailrace import __version__


def test_it_is_the_command() -> None:
    command = [sys.executable, "-m", "tailrace"]
    done = subprocess.run([*command, "-V"], capture_output=True, text=True, check=True)
    assert done.stdout == f"tailrace {__version__}\n"
    done = subprocess.run([*command, "dance"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("tailrace: argument COMMAND: invalid choice: 'dance'")
