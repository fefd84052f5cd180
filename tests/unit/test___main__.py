"""``python -m tailrace`` is the command."""

from __future__ import annotations

import subprocess
import sys

from tailrace import __main__, __version__
from tailrace.cli.tailrace import main


def test_it_is_the_command() -> None:
    assert __main__.main is main
    done = subprocess.run(
        [sys.executable, "-m", "tailrace", "-V"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"tailrace {__version__}\n"
