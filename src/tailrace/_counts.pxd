cdef class Meter:
    cdef public long long sent, mark


cdef class TurnMeter:
    cdef public long long left, mark
    cdef public bint heard


cdef class Tally:
    cdef public long long messages, bytes
