"""Garbage is collected, and memory given back."""

from __future__ import annotations

import ctypes
import sys
import weakref

import pytest

from tailrace.common.memory import release_memory


class Node:
    """Refers to itself."""

    def __init__(self) -> None:
        self.other = self


def test_what_refers_to_itself_goes() -> None:
    gone = weakref.ref(Node())
    release_memory()
    assert gone() is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what is resident")
def test_freed_memory_goes_back_to_the_system() -> None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        pytest.skip("the C library does not keep freed memory")
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    # Below the size that gets a mapping of its own, with a last one that stays.
    size, count = 100_000, 300
    blocks = [libc.malloc(size) for _ in range(count)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[:-1]:
        libc.free(block)
    before = resident()
    release_memory()
    libc.free(blocks[-1])
    assert before - resident() > size * count // 2


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_a_c_library_without_the_function_is_left_alone(
    platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    release_memory()


def resident() -> int:
    """Return the resident bytes of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
