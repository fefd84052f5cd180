"""A Python that is too old gets one line, whatever it makes of the rest."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from support.processes.child import clean_environment
from support.processes.interpreters import interpreter
from support.repository import SOURCE

OLD = ("3.6", "3.7", "3.8", "3.9", "3.10")
NEEDED = "tailrace needs Python 3.11 or later; "
CALLS = {
    "python -m tailrace": ["-m", "tailrace", "--version"],
    "localproxy": ["-c", "from tailrace.cli.localproxy.main import main; main()"],
    "import": ["-c", "import tailrace"],
}


def said_by(python: str, *words: str) -> str:
    """Return what a Python says that ends with status 1 and has no more to say."""
    environment = clean_environment(PYTHONPATH=str(SOURCE.parent), PYTHONDONTWRITEBYTECODE="1")
    done = subprocess.run([python, *words], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("version", OLD)
def test_an_old_python(version: str, call: str) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} is installed")
    said = said_by(python, *CALLS[call])
    assert said.startswith(NEEDED)
    assert said.endswith(f" is Python {version}\n")
    assert said.count("\n") == 1


def test_a_python_that_claims_to_be_old() -> None:
    claim = "import sys; sys.version_info = (3, 10, 1); import tailrace"
    assert said_by(sys.executable, "-c", claim) == (f"{NEEDED}{sys.executable} is Python 3.10\n")


def test_old_pythons_can_read_where_it_is_said() -> None:
    text = (SOURCE / "__init__.py").read_text()
    ast.parse(text, feature_version=(3, 6))
    with pytest.raises(SyntaxError):
        ast.parse("match text:\n    case _:\n        pass\n", feature_version=(3, 6))
