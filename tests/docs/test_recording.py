"""The recording of a terminal shows what the commands print today."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from docs.record import TYPED, Frame, film, record

from support.processes.sshd import needs_sshd
from support.repository import ROOT

PICTURE = ROOT / "docs" / "pictures" / "ssh.svg"
SVG = "{http://www.w3.org/2000/svg}"


def rows(picture: str) -> list[str]:
    """Return the rows of the last picture of a film, without what differs each time."""
    root = ElementTree.fromstring(picture)
    texts = {f"#{text.get('id')}": "".join(text.itertext()) for text in root.iter(f"{SVG}text")}
    last = [group for group in root.iter(f"{SVG}g") if group.get("transform")][-1]
    shown = (texts[str(use.get("href"))] for use in last.iter(f"{SVG}use"))
    return [re.sub(r"[0-9a-f]{4}…|\d+\.\d s", "#", row) for row in shown]


@needs_sshd
@pytest.mark.usefixtures("capsys")
def test_it_is_what_is_shown_today() -> None:
    frames = record(pace=0)
    assert rows(film(frames)) == rows(PICTURE.read_text()), "run make docs-recording"


def test_a_film_has_all_pictures() -> None:
    plain = (("$ ls", "default", False), (" <&>", "green", True))
    frames = [Frame(0.5, (plain,)), Frame(1.0, (plain, (("done", "default", False),)))]
    picture = film(frames)
    assert rows(picture) == ["$ ls <&>", "done"]
    assert picture.count("<g transform=") == 2
    assert "tailrace ssh pump-7" in [command for _, command in TYPED]
    assert not re.search(r"/tmp|/root|/home", PICTURE.read_text())
