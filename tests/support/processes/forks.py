"""A copy of this process, made by fork."""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Callable

__all__ = ["run_forked"]


def run_forked(work: Callable[[], object]) -> None:
    """Run ``work`` in a process that is forked here; it has to return."""
    with warnings.catch_warnings():
        # Later Pythons warn of what is tested here: that other threads are not copied.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
