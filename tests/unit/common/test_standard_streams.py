"""Standard streams that a parent has closed, or that nobody reads."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from tailrace.common.standard_streams import discard

PROGRAM = """
import os, sys
from tailrace.common.standard_streams import open_standard_streams
open_standard_streams()
extra = os.open(os.devnull, os.O_RDONLY)
numbers = [stream.fileno() for stream in (sys.stdin, sys.stdout, sys.stderr)]
inherited = all(map(os.get_inheritable, numbers))
print("said"), print("said", file=sys.stderr), sys.stdin.read()
sys.exit(0 if (numbers, inherited, extra) == ([0, 1, 2], True, 3) else 1)
"""


@pytest.mark.parametrize("closed", ["", "<&-", ">&-", "2>&-", "<&- 2>&-", "<&- >&- 2>&-"])
def test_missing_streams_are_opened(closed: str) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", PROGRAM],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout == ("" if ">&-" in closed.replace("2>&-", "") else "said\n")
    assert done.stderr == ("" if "2>&-" in closed else "said\n")


def test_the_rest_is_discarded() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stream:
        stream.write("text")
        with pytest.raises(BrokenPipeError):
            stream.flush()
        discard(stream)
        stream.flush()


def test_a_stream_without_a_descriptor_is_left_alone() -> None:
    discard(io.StringIO())
