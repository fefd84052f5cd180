"""Memory of this process that is of no use to it, given back to the system.

After a peak much is left: objects that refer to each other wait for Python's collector, which looks
at the old ones only when their number has grown by a quarter, and glibc keeps freed memory below
what is still used. On a device with little memory that is the difference between 40 and 55 MB.
"""

from __future__ import annotations

import gc
import sys

__all__ = ["release_memory"]


def release_memory() -> None:
    """Collect garbage, and return free memory to the system where the C library can.

    Takes some 10 ms, or some 100 ms on a slow device: for when nothing else is to be done.
    """
    gc.collect()
    if sys.platform != "linux":
        return
    import ctypes

    # musl has no such function, and needs none.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
