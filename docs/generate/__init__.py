"""Pages and pictures of the documentation that are made from the code.

``python -m docs.generate`` writes them all; tests/docs/test_generated.py fails when one of them is
older than the code it shows.
"""
