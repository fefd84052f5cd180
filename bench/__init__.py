"""The benchmark of tailrace: real processes side by side, in one run, on one machine.

``python -m bench --help`` says how; README.md beside this file says what is measured.
"""
