"""Soak: many tunnels under mixed load and random faults, every byte checked.

``python -m soak --help`` tells how; CONTRIBUTING.md tells when.
"""
