"""How deeply JSON may be nested, which differs between versions of Python."""

from __future__ import annotations

import json

__all__ = ["said_of_nesting"]


def said_of_nesting(text: bytes, otherwise: str = "not valid JSON") -> str:
    """Return what is said of a text that begins and never ends, by how far this Python gets."""
    try:
        json.loads(text)
    except RecursionError:
        return "nested too deeply"
    except ValueError:
        return otherwise
    raise AssertionError("the text is valid")
