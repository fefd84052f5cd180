"""``--help`` and the table of the documentation, driven from the table of options."""

from __future__ import annotations

import re

import pytest

from tailrace.cli.localproxy.help import HELP_WIDTH, help_text, options_table
from tailrace.cli.localproxy.options import GROUPS, OPTIONS, Option

EVERY_OPTION = pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)


@EVERY_OPTION
def test_help_names_option_and_variable(option: Option) -> None:
    text = help_text()
    spelling = f"-{option.short}, --{option.name}" if option.short else f"    --{option.name}"
    assert f"{spelling} {option.metavar}".rstrip() + (" " if option.is_switch else "") in text
    if option.environment:
        assert f"[env: {option.environment}]" in text


def test_help_fits_its_width_and_is_grouped() -> None:
    lines = help_text().splitlines()
    assert max(map(len, lines)) <= HELP_WIDTH == 100
    headings = [line[:-1] for line in lines if re.fullmatch(r"[A-Z][a-z ]+:", line)]
    assert headings == list(GROUPS)
    assert not any(line != line.rstrip() for line in lines)


def test_help_has_what_scripts_look_for() -> None:
    assert "Show help message" in help_text()


@EVERY_OPTION
def test_table_has_a_row_for_each_option(option: Option) -> None:
    rows = [line for line in options_table().splitlines() if f"--{option.name}" in line]
    row = next(row for row in rows if re.search(rf"`--{option.name}[ `]", row))
    assert len(re.findall(r"(?<!\\)\|", row)) == 6
    assert ("\\*" in row) == (not option.reference)
