"""The name of an option is added to the facts of an error."""

from __future__ import annotations

import argparse
import re

import pytest

from tailrace.cli import error_hints
from tailrace.cli.error_hints import explain
from tailrace.cli.serve import add_serve_parser
from tailrace.errors import ConfigurationError, ListenError, TailraceError


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (TailraceError("text"), "text"),
        (ConfigurationError("text", setting="unheard of"), "text"),
        (
            ConfigurationError("cannot make the directory", setting="state_dir"),
            "cannot make the directory; choose another with --state-dir",
        ),
        (
            ListenError("cannot listen on 127.0.0.1:80", setting="api_listen"),
            "cannot listen on 127.0.0.1:80; choose another address with --api-listen",
        ),
    ],
)
def test_hints(error: TailraceError, line: str) -> None:
    assert explain(error) == line


@pytest.mark.parametrize("hint", error_hints._HINTS.values())
def test_hints_name_options_of_serve(hint: str) -> None:
    parser = argparse.ArgumentParser()
    options = add_serve_parser(parser.add_subparsers())._option_string_actions
    assert set(re.findall(r"--[a-z-]+", hint)) <= set(options)
