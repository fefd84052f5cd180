"""What is made of the sources for those who install them: packages, one file, manuals, completions.

Nothing here is part of the package; what the hook of the wheel takes of it,
:mod:`release.build_hook`, takes the standard library and the sources only.
"""
