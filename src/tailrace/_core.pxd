# What Python reads and writes, too: see common/counts.py.
cdef class Meter:
    cdef public long long sent, mark

cdef class TurnMeter:
    cdef public long long left, mark
    cdef public bint heard

cdef class Tally:
    cdef public long long messages, bytes

cdef class ByteCounts:
    cdef public long long room, limit, small_room, received, waiting, ack_at

cdef class Outlet:
    cdef put(self, char* data, Py_ssize_t size)

cdef class Way:
    cdef public long long budget
    cdef public Py_ssize_t gap
    cdef public object block
    cdef public Outlet outlet

cdef class Pump:
    cdef public object connection, _replay
    cdef public ByteCounts _counts
    cdef public Way _outbound
    cdef public int fd
    cdef public bint takes
    cdef take(self, char* data, Py_ssize_t size)
