"""What is made from the code is up to date, and has everything that there is."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import pytest
from docs.generate import api, commands, data_path, errors, events, metrics
from docs.generate.files import FILES
from docs.generate.markdown import attribute_docs, prose, table

import tailrace
from support.repository import MODULES, ROOT, SOURCE
from tailrace import errors as error_tree
from tailrace.cli.exit_codes import ExitCode
from tailrace.cli.localproxy.options import OPTIONS
from tailrace.cli.localproxy.settings_json import SETTINGS
from tailrace.errors import TailraceError
from tailrace.localproxy.events import ProxyEvent
from tailrace.service.api.errors import ErrorType
from tailrace.service.telemetry.audit import AuditLog
from tailrace.service.tunnels.rules import Refusal

REFERENCE = ROOT / "docs" / "reference"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_are_those_that_the_code_gives(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == FILES[path](), "run python -m docs.generate"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs" / "pictures").iterdir()), ids=lambda p: p.name
)
def test_pictures_are_xml_with_a_title(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    assert root.tag.endswith("svg")
    assert root.findtext("{http://www.w3.org/2000/svg}title")


def first_column(page: str) -> set[str]:
    """Return the code in the first cells of the tables of a page."""
    cells = re.findall(r"^\| ([^|]*) \|", page, re.MULTILINE)
    return {code for cell in cells for code in re.findall(r"`([^`]+)`", cell)}


def test_every_option_of_every_command() -> None:
    page = commands.page()
    found = 0
    for name, parser in commands.commands():
        part = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert part, name
        shown = {text.split()[0] for text in first_column(part)}
        options = {option for action in parser._actions for option in action.option_strings}
        assert options - {"-h", "--help"} <= shown, name
        found += len(options)
    assert found > 200


def test_every_option_of_localproxy() -> None:
    shown = {text.split()[0] for text in first_column((REFERENCE / "localproxy.md").read_text())}
    assert {f"--{option.name}" for option in OPTIONS} <= shown


def test_every_error() -> None:
    shown = first_column((REFERENCE / "errors.md").read_text().partition("\n## Of the")[0])
    kinds = {
        name for name in error_tree.__all__ if issubclass(getattr(error_tree, name), TailraceError)
    }
    assert kinds == {kind.__name__ for kind, _ in errors.tree()} == shown


def test_every_error_of_the_service() -> None:
    page = (REFERENCE / "errors.md").read_text()
    assert {each.code for each in ErrorType} <= first_column(page)
    # Those of the model, with the others, are explained.
    explained = (REFERENCE / "service.md").read_text()
    assert [each.code for each in ErrorType if each.code not in explained] == []
    for refusal in Refusal:
        assert f"| `{refusal.name.lower()}` |" in page


def test_every_setting_of_the_settings_file() -> None:
    rows = re.findall(
        r"^\| `([\w.]+)` \| `([^`]*)` \| ([^|]+) \|",
        (REFERENCE / "localproxy.md").read_text().partition("### --settings-json")[2],
        re.MULTILINE,
    )
    shown = {key: (default, meaning != "no effect") for key, default, meaning in rows}
    assert shown == {each.key: (each.default, each.has_effect) for each in SETTINGS}


def test_every_exit_code() -> None:
    rows = re.findall(r"^\| (\d+) \|", (REFERENCE / "exit-codes.md").read_text(), re.MULTILINE)
    assert {int(row) for row in rows} == set(ExitCode)


def test_every_event() -> None:
    page = (REFERENCE / "events.md").read_text()
    kinds = {kind.__name__ for kind in get_args(ProxyEvent)} | {"EventsDropped"}
    assert kinds == first_column(page)
    assert [type(event) for event in events.SAMPLES] == list(get_args(ProxyEvent))
    # What the source of the reporter names, however it is written.
    source = MODULES["tailrace.cli.localproxy.reporters"].read_text()
    named = set(re.findall(r'"event": "(\w+)"', source))
    assert named == set(events.json_lines()) != set()
    for line in events.json_lines().values():
        assert line in page
        assert json.loads(line)["event"] in named


def test_every_event_of_the_audit_log() -> None:
    shown = set(events.audit_lines())
    named: set[str] = set()
    for module in (
        "api.enrolment",
        "relay.data_listener",
        "telemetry.audit",
        "identity.invitations",
    ):
        source = MODULES[f"tailrace.service.{module}"].read_text()
        named |= set(
            re.findall(r'"(\w*(?:connected|invited|_revoked|joined|refused|expired))"', source)
        )
    assert shown - {"OpenTunnel"} <= named
    methods = {name for name in vars(AuditLog) if not name.startswith("_")}
    used = set(re.findall(r"audit\.(\w+)\(", inspect.getsource(events.audit_lines)))
    assert methods - {"open_again", "switch", "end_interval"} == used


def test_every_metric() -> None:
    shown = first_column((REFERENCE / "metrics.md").read_text())
    for module in ("control.collector", "service.telemetry.prometheus"):
        source = MODULES[f"tailrace.{module}"].read_text()
        for name in re.findall(r'"(tailrace_\w+)"', source):
            assert name in shown or f"{name}_total" in shown, name
    families = [*metrics.proxy_families(), *metrics.service_families()]
    assert {metrics.shown_name(family) for family in families} == shown


def test_every_public_name() -> None:
    listed = {name for names in api.GROUPS.values() for name in names}
    kinds = {kind.__name__ for kind in get_args(ProxyEvent)} | {"EventsDropped", "TunnelEvent"}
    elsewhere = {*error_tree.__all__, *kinds, "__version__", "sync"}
    assert listed == set(tailrace.__all__) - elsewhere
    assert sum(map(len, api.GROUPS.values())) == len(listed)


def test_files_on_the_way_of_a_byte_exist() -> None:
    names = [name for steps in data_path.STEPS.values() for name, _ in steps]
    assert [name for name in names if "/" in name and not (SOURCE / name).is_file()] == []
    assert len(set(map(len, data_path.STEPS.values()))) == 1


def test_markdown() -> None:
    assert table(["a"], [["b|c"]]) == "| a |\n|---|\n| b\\|c |\n"
    assert prose(":class:`~x.Y` is\n    ``z``") == "`x.Y` is `z`"
    assert attribute_docs(ExitCode)["OK"].startswith("Ended as asked")
