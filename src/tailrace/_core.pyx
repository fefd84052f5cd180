# cython: language_level=3, nonecheck=True, cdivision=True
"""Numbers that C and Python share, and the bytes of local sockets.

This knows sockets and the form of messages, and no WebSocket. It is a module of its own because it is
imported where there may never be a link. ``common/counts.py`` has what stands in for it.
"""

from cpython.buffer cimport PyBUF_READ
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #include <sys/socket.h>
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0  /* Python ignores SIGPIPE */
    #endif
    """
    ctypedef int socklen_t
    int MSG_NOSIGNAL, SOL_SOCKET, SO_ERROR
    ssize_t recv(int fd, void* data, size_t size, int flags)
    ssize_t send(int fd, const void* data, size_t size, int flags)
    int getsockopt(int fd, int level, int option, void* value, socklen_t* size)

cdef enum:
    MAX_PAYLOAD = 64512
    MAX_LENGTHS = 5  # bytes of a length prefix and of the length of a payload
    LARGE = 32768  # as in replay.py

cdef class Meter:
    """Bytes sent, and the mark at which Python is called: SendWindow."""
cdef class TurnMeter:
    """What a link may do in this turn, and the mark below which Python is called: TurnBudget."""
cdef class Tally:
    """Messages and bytes that have passed: Traffic."""
cdef class ByteCounts:
    """The bytes of a connection, and their mark: Counts."""
cdef class Way:
    """What all local sockets read into, how much, and the link they send it on: Outbound."""

cdef class Outlet:
    """A link that messages can be sent on."""

    cdef put(self, char* data, Py_ssize_t size):
        """Send one frame; the memory may be reused on return."""
        raise NotImplementedError

cdef class Pump:
    """The socket of a LocalPump, which inherits from this."""

    def readable(self):
        """Read and send a turn's worth; where nothing may be sent, Python decides what follows."""
        cdef Way way = self._outbound
        cdef Py_ssize_t limit = min(way.budget, self._counts.room), gap = way.gap, size, header
        cdef object block = way.block
        cdef bytearray memory = block.memory, tail
        cdef bytes prefix = self.connection.header.prefix
        cdef Outlet outlet = way.outlet
        if (
            outlet is None
            or not self.connection.is_open
            or not 0 < limit <= min(MAX_PAYLOAD, PyByteArray_GET_SIZE(memory) - gap)
            or gap < PyBytes_GET_SIZE(prefix) + MAX_LENGTHS
        ):
            self._readable()
            return
        cdef char* payload = PyByteArray_AS_STRING(memory) + gap
        size = recv(self.fd, payload, limit, 0)
        if size <= 0:
            if size == 0 or not passes_by(errno):
                self.nothing_read(errno if size else 0)
            return
        cdef int error = pending_error(self.fd)
        if error:
            self.note_broken(error)
        self._counts.room -= size
        header = write_header(<uint8_t*>payload, size, prefix)
        outlet.put(payload - header, header + size)
        if self._replay is not None:
            if size < LARGE:
                tail = self._replay.tail
                tail += PyMemoryView_FromMemory(payload - header, header + size, PyBUF_READ)
                self._counts.small_room -= header + size
                if self._counts.small_room < 0:
                    self._counts.count_small()
            else:
                self.keep(block, block.view[gap - header : gap + size], size)

    cdef take(self, char* data, Py_ssize_t size):
        """Write what has come to the socket; only while :attr:`takes` is true."""
        cdef Py_ssize_t sent
        self._counts.received += size
        sent = send(self.fd, data, size, MSG_NOSIGNAL)
        if sent < 0:
            if not passes_by(errno):
                self.writing_failed(errno)
                return
            sent = 0
        if sent < size:
            self.rest_received(PyMemoryView_FromMemory(data + sent, size - sent, PyBUF_READ))
        elif self._counts.received >= self._counts.ack_at:
            self.mark_reached()

cdef bint passes_by(int error) noexcept:
    return error == EAGAIN or error == EINTR

cdef int pending_error(int fd) noexcept:
    cdef int error = 0
    cdef socklen_t size = sizeof(error)
    return error if getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 else 0

cdef Py_ssize_t write_header(uint8_t* payload, Py_ssize_t size, bytes prefix):
    """Write what DataHeader.build returns in front of a payload; return how long it is."""
    cdef uint8_t* at = payload - (1 if size <= 0x7F else 2 if size <= 0x3FFF else 3)
    cdef Py_ssize_t body
    at[0] = size & 0x7F | (0x80 if size > 0x7F else 0)
    if size > 0x7F:
        at[1] = size >> 7 & 0x7F | (0x80 if size > 0x3FFF else 0)
    if size > 0x3FFF:
        at[2] = size >> 14
    at -= PyBytes_GET_SIZE(prefix)
    memcpy(at, PyBytes_AS_STRING(prefix), PyBytes_GET_SIZE(prefix))
    body = payload - at + size
    at -= 2
    at[0] = body >> 8
    at[1] = body & 0xFF
    return payload - at
