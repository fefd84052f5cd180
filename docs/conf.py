"""Sphinx: the site is built from the repository's root, so that links are the same in both."""

from __future__ import annotations

from tailrace import __version__

project = "tailrace"
author = "The tailrace developers"
project_copyright = "The tailrace developers"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
source_suffix = {".md": "markdown"}
include_patterns = [
    "docs/**.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "bench/README.md",
    "bench/results/latest.md",
    "examples/README.md",
]
suppress_warnings = [
    # Blocks of configuration in languages that no highlighter knows.
    "misc.highlighting_failure",
]
highlight_language = "sh"

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"exclude-members": "__init__, __new__"}
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"tailrace {release}"
html_copy_source = False
html_show_sourcelink = False
html_additional_pages = {"index": "redirect.html"}
templates_path = ["templates"]
html_theme_options = {"navigation_with_keys": True}

# External links are looked at by `make docs-links` alone: it needs a network.
linkcheck_timeout = 15
linkcheck_ignore = [r"https?://(localhost|127\.0\.0\.1|HOST|tunnel\.example)\b.*"]
