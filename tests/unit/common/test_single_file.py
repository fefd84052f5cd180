"""Where the package is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from support.repository import SOURCE
from tailrace.common.single_file import single_file


def test_a_directory() -> None:
    assert single_file() is None


def test_an_archive(tmp_path: Path) -> None:
    package = tmp_path / "files" / "tailrace" / "common"
    package.mkdir(parents=True)
    for name in ("__init__.py", "single_file.py"):
        shutil.copy(SOURCE / "common" / name, package)
    (package.parent / "__init__.py").touch()
    archive = shutil.make_archive(str(tmp_path / "all"), "zip", tmp_path / "files")
    code = "from tailrace.common.single_file import single_file; print(single_file())"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {archive!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{archive}\n"
