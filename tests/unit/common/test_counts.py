"""Counters of the extension and of Python do the same."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tailrace.common.extension import VARIABLE


@pytest.mark.parametrize("value", ["", "0"])
def test_whoever_counts(value: str) -> None:
    program = (
        "from tailrace.common.counts import Meter, Tally, TurnMeter\n"
        "meter, turn, tally = Meter(), TurnMeter(), Tally()\n"
        "meter.sent, meter.mark = 2**40, 2**62\n"
        "turn.left, turn.mark, turn.heard = -5, -(2**62), True\n"
        "tally.messages, tally.bytes = 0, 2**50\n"
        "meter.sent += 1; turn.left -= 1; tally.bytes += 1\n"
        "print(meter.sent - 2**40, turn.left, turn.heard, tally.bytes - 2**50)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {VARIABLE: value},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1 -6 True 1\n"


def test_links_and_picows_are_not_loaded_for_it() -> None:
    program = "import tailrace.common.counts, sys; print('picows' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n"
