"""What hatchling calls for a wheel: it adds manual pages, completions and the optional extension.

The extension takes a C compiler, Python's headers, picows and aiofastnet for this platform. Without
them the package is complete, too, and what the extension does is done by Python.
``TAILRACE_FAST=0`` leaves it out, ``TAILRACE_FAST=1`` makes it an error when it cannot be built.
``TAILRACE_FAST_FLAGS`` are given to the compiler in place of our own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any
from zlib import crc32

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

__all__ = ["WheelHook"]

_MODULES = ("_core", "_fast")
_SOURCES = ("_fast.pyx", "_core.pyx", "_core.pxd")
_NEEDED = ("picows", "aiofastnet")
"""Whose declarations are compiled in. The package compares: ``tailrace.common.extension``."""
_SETUP = """
import sys
from Cython.Build import cythonize
from setuptools import Extension, setup
flags = sys.argv.pop(1).split()
options = {"extra_compile_args": flags, "extra_link_args": flags}
modules = [Extension("tailrace.*", ["tailrace/*.pyx"], **options)]
setup(name="tailrace", packages=[], ext_modules=cythonize(modules, build_dir="c", quiet=True))
"""


class WheelHook(BuildHookInterface[Any]):
    """Add what is made of the sources; to an editable wheel, the extension only.

    The ``.pyx`` files are compiled into the wheel, or beside the sources if it is editable.
    """

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before a wheel is put together."""
        self._until_complete = ExitStack()
        is_editable = version == "editable"
        if not is_editable:
            self._add_shared_files(build_data)
        self._add_extension(build_data, is_editable=is_editable)

    def _add_shared_files(self, build_data: dict[str, Any]) -> None:
        sys.path.insert(0, self.root)
        try:
            from release.build_hook import SharedFiles
        finally:
            del sys.path[0]
        files = SharedFiles(self.root, self.metadata.version)
        self._until_complete.callback(files.remove)
        build_data["shared_data"].update(files.in_wheel)

    def _add_extension(self, build_data: dict[str, Any], *, is_editable: bool) -> None:
        wish = os.environ.get("TAILRACE_FAST", "")
        if wish == "0" or sys.platform == "win32":
            return
        package = Path(self.root, "src", "tailrace")
        directory = self._until_complete.enter_context(tempfile.TemporaryDirectory())
        target = package if is_editable else Path(directory)
        try:
            built = build(package, target, is_editable=is_editable)
        except (metadata.PackageNotFoundError, OSError, subprocess.SubprocessError) as error:
            if wish == "1":
                output = getattr(error, "stdout", "")
                raise RuntimeError(f"the extension cannot be built: {error}\n{output}") from error
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        if not is_editable:
            for file in built:
                build_data["force_include"][str(file)] = f"tailrace/{file.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Called when the wheel is complete."""
        self._until_complete.close()


def build(package: Path, target: Path, *, is_editable: bool) -> list[Path]:
    """Compile the extension of a source tree into a directory; return what was made.

    Raises:
        PackageNotFoundError, OSError, SubprocessError: it cannot be compiled here.
    """
    needed = [f"{name}={metadata.version(name)}" for name in _NEEDED]
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    sources = [(package / name).read_bytes() for name in _SOURCES]
    with tempfile.TemporaryDirectory() as directory:
        # Copies, so that where the sources lie does not get into the extension.
        (copies := Path(directory, "tailrace")).mkdir()
        (copies / "__init__.py").touch()
        for name in _SOURCES:
            shutil.copy(package / name, copies)
        subprocess.run(
            [
                *(sys.executable, "-c", _SETUP, os.environ.get("TAILRACE_FAST_FLAGS", "-O2 -g0")),
                *("--quiet", "build_ext", "--build-lib", "out", "--build-temp", "tmp"),
            ],
            cwd=directory,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        made = []
        for name in _MODULES:
            new = target / f"{name}.new"
            shutil.copy(Path(directory, "out", "tailrace", f"{name}{suffix}"), new)
            # Processes that run keep the file that they have loaded.
            made.append(new.replace(target / f"{name}{suffix}"))
    record = (target / f"_fast{suffix}").with_suffix(".built")
    source = f"{crc32(b''.join(sources)):08x}" if is_editable else "-"
    record.write_text(" ".join([source, *needed]) + "\n")
    return [*made, record]
