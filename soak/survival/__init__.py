"""Soak of connections that outlive links: one shell and one transfer through every cut.

``python -m soak.survival --help`` tells how; CONTRIBUTING.md tells when.
"""
