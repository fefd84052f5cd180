"""The documentation; ``docs.generate`` writes those of its pages that are made from the code."""
