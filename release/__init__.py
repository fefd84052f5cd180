"""What is made of the sources for those who install them: packages, one file, manuals, completions.

Nothing here is part of the package; what builds it, :mod:`release.build_hook`, takes the standard
library, hatchling and the sources only.
"""
