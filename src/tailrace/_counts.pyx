# cython: language_level=3
"""The numbers that ``_fast`` counts with Python: see ``common/counts.py``.

A module of its own, because it needs nothing else and is imported where there may never be a link.
"""


cdef class Meter:
    pass


cdef class TurnMeter:
    pass


cdef class Tally:
    pass
