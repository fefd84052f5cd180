from __future__ import annotations

import subprocess
import sys


def test_it_loads_no_event_loop() -> None:
    """A command that finds a holder needs none, and starts twice as fast."""
    code = (
        "import sys, tailrace.operator.wish, tailrace.operator.reaching, tailrace.operator.ssh,"
        " tailrace.cli.reach; assert 'asyncio' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
