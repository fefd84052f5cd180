"""Fuzzing: inputs of every kind that comes from outside, and what may come of them.

``python -m fuzz --help`` tells how; CONTRIBUTING.md tells when.
"""
