"""Checks with a verdict each, for commands that say what is wrong and how to put it right.

No command, and nothing that only one of them checks: those know their own steps.
"""
