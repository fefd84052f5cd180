"""The room's front door."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tailrace.link


@pytest.mark.parametrize("name", tailrace.link.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(getattr(tailrace.link, name), "__name__", name) == name


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = tailrace.link.nonsense


def test_importing_the_room_loads_nothing_heavy() -> None:
    code = (
        "import sys, tailrace.link; "
        "print([m for m in ('asyncio', 'ssl', 'picows', 'websockets', 'aiofastnet')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
