# cython: language_level=3, boundscheck=False, wraparound=False, nonecheck=True, cdivision=True
"""Move the bytes of known DATA messages without the interpreter; everything else is Python's.

What is known, and what may pass, Python decides beforehand: a gate is opened by Python when a
message has passed there that began with known bytes, and shut by the first frame that is anything
else, which goes to Python. So each rule stands in Python alone, and no state is kept twice.

Counts are shared: Python's own objects inherit their numbers from the classes of ``_counts``, so
both see every byte at once. Where a number reaches its mark, Python is called.

Memory: a frame is read, and written to, only until the call returns that brought it. Nothing here
keeps a pointer. All sizes are checked against the frame before a byte is looked at.

The only lines that know picows are the listeners' ``on_ws_`` methods and :meth:`RelayGate.put`.
"""

from aiofastnet.transport cimport Protocol
from aiofastnet.utils cimport NoResult
from cpython.buffer cimport Py_buffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_Check, PyMemoryView_GET_BUFFER
from libc.stdint cimport uint8_t
from picows.picows cimport WSFrame, WSListener, WSMsgType, WSTransport

from tailrace._counts cimport Meter, Tally, TurnMeter

cdef enum:
    PREFIX = 2  # bytes of a length prefix
    MAX_PAYLOAD = 64512
    FRAME_COST = 8  # as in turn_budget.py


cdef class Heads:
    """An index of known connections (wire/fastpath.py), looked into without the interpreter."""

    cdef:
        dict prefixes
        list sizes

    def __init__(self, known):
        self.prefixes = known.prefixes
        self.sizes = known.sizes

    cdef object find(
        self, const uint8_t* body, Py_ssize_t size, Py_ssize_t* start, Py_ssize_t* stop
    ):
        """Return what belongs to a message, and where its payload is; None if it is unknown.

        The same as ConnectionIndex.find, which explains it.
        """
        cdef Py_ssize_t at = 0, length
        cdef object number, tails = None
        for number in self.sizes:
            at = number
            if at >= size:
                continue
            tails = self.prefixes.get(PyBytes_FromStringAndSize(<const char*>body, at))
            if tails is not None:
                break
        if tails is None:
            return None
        length = body[at]
        at += 1
        if length > 0x7F:
            if at >= size:
                return None
            length = length & 0x7F | body[at] << 7
            at += 1
            if length > 0x3FFF:
                if at >= size:
                    return None
                length = length & 0x3FFF | body[at] << 14
                at += 1
        if not 0 < length <= MAX_PAYLOAD or length > size - at:
            return None
        start[0] = at
        stop[0] = at + length
        return (<dict>tails).get(
            PyBytes_FromStringAndSize(<const char*>body + at + length, size - at - length)
        )

    def look_up(self, bytes body not None):
        """Do as ConnectionIndex.find; for tests, which compare the two."""
        cdef Py_ssize_t start, stop
        value = self.find(<const uint8_t*>body, len(body), &start, &stop)
        return None if value is None else (value, start, stop)

    cdef Py_ssize_t count(self, const uint8_t* data, Py_ssize_t size, Py_ssize_t most):
        """Return how many messages a frame has, all of them whole and known; 0 if not or too many.
        """
        cdef Py_ssize_t count = 0, length, start, stop
        while size > PREFIX:
            length = data[0] << 8 | data[1]
            data += PREFIX
            size -= PREFIX
            if length > size or count >= most:
                return 0
            if self.find(data, length, &start, &stop) is None:
                return 0
            data += length
            size -= length
            count += 1
        return 0 if size else count


cdef class RelayGate(WSListener):
    """Between picows and a link of the service: frames of known messages go to the other side's.

    It is picows' listener, and passes on to the link whatever it does not do itself.
    """

    cdef:
        object link
        WSTransport transport
        Heads heads
        RelayGate outlet
        TurnMeter budget
        Tally tally
        Meter window
        bint whole
        bint sends

    def __init__(self, link):
        self.link = link
        self.whole = True

    # -- for Python

    def begin(self, WSTransport transport not None, TurnMeter budget not None, Tally tally not None,
              Meter window, known):
        """Serve an open link, whose client is sent frames until :meth:`end`."""
        self.transport = transport
        self.budget = budget
        self.tally = tally
        self.window = window
        self.heads = Heads(known)
        self.sends = not transport.is_client_side

    def open(self, RelayGate outlet):
        """Let known messages pass to the other side's link from now on."""
        self.outlet = outlet if self.whole else None

    def shut(self):
        """Let all frames go to Python."""
        self.outlet = None

    def end(self):
        """Send nothing more."""
        self.sends = False
        self.outlet = None

    @property
    def is_open(self):
        return self.outlet is not None

    # -- for picows

    cpdef on_ws_frame(self, WSTransport transport, WSFrame frame):
        cdef Py_ssize_t size = frame.payload_size, count
        if frame.msg_type <= WSMsgType.BINARY:
            if (
                self.outlet is not None
                and self.outlet.sends
                and frame.msg_type == WSMsgType.BINARY
                and frame.fin
                and not (frame.rsv1 or frame.rsv2 or frame.rsv3)
            ):
                # The last message of a frame may overdraw the budget, as the first may.
                count = self.heads.count(
                    <const uint8_t*>frame.payload_ptr, size, self.budget.left - FRAME_COST
                )
                if count:
                    self.pass_on(frame.payload_ptr, size, count)
                    return
            self.whole = frame.fin
            self.outlet = None
        self.link.on_ws_frame(transport, frame)

    cdef pass_on(self, char* data, Py_ssize_t size, Py_ssize_t count):
        cdef TurnMeter budget = self.budget
        budget.heard = True
        budget.left -= FRAME_COST + count
        self.tally.messages += count
        self.tally.bytes += size
        self.outlet.put(data, size)
        if budget.left < budget.mark:
            self.link.budget_low()

    cdef put(self, char* data, Py_ssize_t size):
        """Send a frame; its header is written over that of the frame it came in.

        That one was longer: clients mask what they send (RFC 6455 section 5.1), and this is the
        header of a server. What does not leave at once is copied.
        """
        cdef Meter window = self.window
        self.transport.send_reuse_external_buffer(WSMsgType.BINARY, data, size)
        if window is not None:
            window.sent += size
            if window.sent >= window.mark:
                self.link.mark_reached(size)

    cpdef on_ws_connected(self, WSTransport transport):
        self.link.on_ws_connected(transport)

    cpdef on_ws_disconnected(self, WSTransport transport):
        self.link.on_ws_disconnected(transport)
        self.end()
        self.link = self.transport = self.heads = self.window = None

    cpdef pause_writing(self):
        self.link.pause_writing()

    cpdef resume_writing(self):
        self.link.resume_writing()


cdef class ReadLimiter(Protocol):
    """Stands between a transport and its protocol, and offers ``read_size`` bytes at a time.

    The same as in read_limiter.py, which explains it.
    """

    cdef:
        object inner, free, updated
        public Py_ssize_t read_size

    def __init__(self, inner, Py_ssize_t read_size):
        self.inner = inner
        self.free = inner.get_buffer
        self.updated = inner.buffer_updated
        self.read_size = read_size

    cpdef is_buffered_protocol(self):
        return True

    cpdef get_buffer(self, Py_ssize_t hint):
        return self.free(hint)[: self.read_size]

    cdef NoResult get_buffer_c(
        self, Py_ssize_t hint, char** buf, Py_ssize_t* buf_len
    ) except NoResult.EXC:
        # The memory is the inner protocol's, which keeps it where it is until it is told of bytes.
        cdef object view = self.free(hint)
        cdef Py_buffer* memory
        if not PyMemoryView_Check(view):
            raise TypeError("a protocol offers a memoryview")
        memory = PyMemoryView_GET_BUFFER(view)
        if memory.readonly:
            raise TypeError("a protocol offers memory that may not be written to")
        buf[0] = <char*>memory.buf
        buf_len[0] = min(memory.len, self.read_size)
        return NoResult.OK

    cpdef buffer_updated(self, Py_ssize_t bytes_read):
        self.updated(bytes_read)

    def eof_received(self):
        return self.inner.eof_received()

    def pause_writing(self):
        self.inner.pause_writing()

    def resume_writing(self):
        self.inner.resume_writing()

    def connection_lost(self, exc):
        self.inner.connection_lost(exc)
