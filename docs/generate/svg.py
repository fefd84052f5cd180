"""Drawings in SVG: boxes, arrows and words, on a light card that dark pages show as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

__all__ = ["LINE", "Drawing", "text_width"]

LINE: Final = 17
"""Distance of two lines of words, in pixels."""

_INK: Final = "#1f2933"
_SOFT: Final = "#7b8794"
_CARD: Final = "#ffffff"
_FILLS: Final = {"plain": "#eef2f7", "strong": "#d9e8fb", "end": "#f7e3e1", "good": "#dff3e4"}
_FONT: Final = "font-family='ui-sans-serif, system-ui, sans-serif'"


def text_width(text: str, size: int = 13) -> float:
    """Return how wide a text is at most, in pixels."""
    return len(text) * size * 0.56


@dataclass
class Drawing:
    """A drawing that grows as things are added."""

    width: int
    height: int
    title: str
    _parts: list[str] = field(default_factory=list)

    def words(
        self,
        x: float,
        y: float,
        lines: Sequence[str],
        *,
        anchor: str = "middle",
        size: int = 13,
        soft: bool = False,
        bold: bool = False,
        on_card: bool = False,
    ) -> None:
        """Write lines below each other, the first one at ``y``."""
        colour = _SOFT if soft else _INK
        weight = " font-weight='600'" if bold else ""
        for number, line in enumerate(lines):
            at = y + number * LINE
            if on_card:
                wide = text_width(line, size)
                left = x - wide / 2 if anchor == "middle" else x
                self._parts.append(
                    f"<rect x='{left - 3:.0f}' y='{at - size + 1:.0f}' width='{wide + 6:.0f}' "
                    f"height='{size + 4}' fill='{_CARD}'/>"
                )
            self._parts.append(
                f"<text x='{x:.0f}' y='{at:.0f}' text-anchor='{anchor}' font-size='{size}'"
                f"{weight} fill='{colour}'>{escape(line)}</text>"
            )

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        lines: Sequence[str],
        fill: str,
        name_lines: int = 1,
    ) -> None:
        """Draw a box with words in its middle; the first lines are the name."""
        self._parts.append(
            f"<rect x='{x:.0f}' y='{y:.0f}' width='{width:.0f}' height='{height:.0f}' rx='8' "
            f"fill='{_FILLS[fill]}' stroke='{_SOFT}'/>"
        )
        top = y + height / 2 - (len(lines) - 1) * LINE / 2 + 5
        self.words(x + width / 2, top, lines[:name_lines], bold=True)
        below = top + LINE * name_lines
        self.words(x + width / 2, below, lines[name_lines:], size=12, soft=True)

    def arrow(
        self,
        x1: float,
        y1: float,
        x2: float,
        y2: float,
        *,
        dashed: bool = False,
        both: bool = False,
    ) -> None:
        """Draw a straight arrow from the first point to the second."""
        self._path(f"M{x1:.0f} {y1:.0f} L{x2:.0f} {y2:.0f}", dashed=dashed, both=both)

    def bent(self, points: Sequence[tuple[float, float]]) -> None:
        """Draw an arrow along points."""
        self._path("M" + " L".join(f"{x:.0f} {y:.0f}" for x, y in points))

    def rule(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """Draw a line without a head."""
        self._parts.append(
            f"<path d='M{x1:.0f} {y1:.0f} L{x2:.0f} {y2:.0f}' stroke='{_SOFT}' fill='none'/>"
        )

    def _path(self, path: str, *, dashed: bool = False, both: bool = False) -> None:
        dashes = " stroke-dasharray='5 4'" if dashed else ""
        start = " marker-start='url(#head)'" if both else ""
        self._parts.append(
            f"<path d='{path}' stroke='{_INK}' fill='none' marker-end='url(#head)'{start}{dashes}/>"
        )

    def render(self) -> str:
        """Return the file."""
        return "\n".join(
            [
                f"<svg xmlns='http://www.w3.org/2000/svg' width='{self.width}' "
                f"height='{self.height}' viewBox='0 0 {self.width} {self.height}' {_FONT} "
                f"role='img'>",
                f"<title>{escape(self.title)}</title>",
                "<defs><marker id='head' viewBox='0 0 10 10' refX='9' refY='5' markerWidth='7' "
                "markerHeight='7' orient='auto-start-reverse'>"
                f"<path d='M0 0 L10 5 L0 10 z' fill='{_INK}'/></marker></defs>",
                f"<rect width='{self.width}' height='{self.height}' rx='10' fill='{_CARD}'/>",
                *self._parts,
                "</svg>",
                "",
            ]
        )
