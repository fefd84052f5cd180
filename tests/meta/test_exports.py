"""Every module says what it offers, and offers what it says."""

from __future__ import annotations

import importlib
from types import FunctionType, ModuleType

import pytest

from support.repository import MODULES


def offered(module: ModuleType) -> dict[str, object]:
    """Return the public names of a module, but neither modules nor ``__future__`` features."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not isinstance(value, ModuleType)
        and type(value).__module__ != "__future__"
    }


def faults(module: ModuleType) -> list[str]:
    """Return one line for each fault of a module's ``__all__``."""
    public = offered(module)
    names = getattr(module, "__all__", None)
    if names is None:
        return ["no __all__"] if public else []
    if len(set(names)) != len(names):
        return ["a name stands in __all__ twice"]
    missing = [name for name in names if not hasattr(module, name)]
    forgotten = [
        name
        for name, value in public.items()
        if isinstance(value, type | FunctionType)
        and value.__module__ == module.__name__
        and name not in names
    ]
    return [f"{name} is in __all__ but does not exist" for name in missing] + [
        f"{name} is neither in __all__ nor private" for name in forgotten
    ]


@pytest.mark.parametrize("name", MODULES)
def test_all_is_true(name: str) -> None:
    assert faults(importlib.import_module(name)) == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("x = 1", "no __all__"),
        ("__all__ = ['x', 'x']\nx = 1", "a name stands in __all__ twice"),
        ("__all__ = ['x']", "x is in __all__ but does not exist"),
        ("__all__ = []\ndef f(): ...", "f is neither in __all__ nor private"),
        ("__all__ = []\nclass C: ...", "C is neither in __all__ nor private"),
    ],
)
def test_the_rule_can_fail(source: str, fault: str) -> None:
    module = ModuleType("shed")
    exec(source, vars(module))
    assert faults(module) == [fault]


@pytest.mark.parametrize(
    "source",
    [
        "from json import dumps\n__all__ = ['C']\nclass C: ...\ndef _f(): ...",
        "__all__ = ('MAX',)\nMAX = 1\nMIN = 0",
        "from __future__ import annotations\nimport json\n_x = 1",
    ],
)
def test_what_the_rule_allows(source: str) -> None:
    module = ModuleType("shed")
    exec(source, vars(module))
    assert faults(module) == []
