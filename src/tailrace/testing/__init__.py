"""Tunnels in tests: a pytest plugin, loaded by its entry point.

Each run of pytest imports this package and :mod:`.plugin`, used or not, so that neither may import
anything else of the package before a fixture is asked for.
"""
