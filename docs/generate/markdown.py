"""Markdown from values and from docstrings."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from types import ModuleType

__all__ = ["attribute_docs", "first_paragraph", "notice", "prose", "table"]

_ROLE = re.compile(r":[\w:]+:`~?([^`]+)`")
_LITERAL = re.compile(r"``([^`]+)``")


def notice(source: str) -> str:
    """Return the comment at the top of a page: where to change what it says."""
    return f"<!-- Written by `python -m docs.generate` from {source}; do not edit. -->\n"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; a cell is one line of Markdown."""
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def prose(text: str) -> str:
    """Return the text of a docstring, reStructuredText, as Markdown on one line."""
    text = _ROLE.sub(r"`\1`", " ".join(text.split()))
    return _LITERAL.sub(r"`\1`", text)


def first_paragraph(documented: object) -> str:
    """Return the first paragraph of a docstring as Markdown."""
    return prose((inspect.getdoc(documented) or "").partition("\n\n")[0])


def attribute_docs(kind: type) -> dict[str, str]:
    """Return name -> text of the strings behind the attributes of a class, as Markdown."""
    module = inspect.getmodule(kind)
    assert module is not None
    (found,) = (
        node
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__
    )
    return _texts_behind(found.body)


@cache
def _tree(module: ModuleType) -> ast.Module:
    return ast.parse(textwrap.dedent(inspect.getsource(module)))


def _texts_behind(body: Sequence[ast.stmt]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for statement, behind in pairwise(body):
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                if isinstance(behind, ast.Expr) and isinstance(behind.value, ast.Constant):
                    texts[name] = prose(str(behind.value.value))
            case _:
                pass
    return texts
