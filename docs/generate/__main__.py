"""Write all pages and pictures that are made from the code."""

from __future__ import annotations

from .files import FILES

for path, render in FILES.items():
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(), encoding="utf-8")
