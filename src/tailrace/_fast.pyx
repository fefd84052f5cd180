# cython: language_level=3, boundscheck=False, wraparound=False, nonecheck=True, cdivision=True
"""Move the bytes of known messages without the interpreter; everything else is Python's.

What is known, and what may pass, Python decides beforehand: it opens a gate when everything that came
before is dealt with, and the first frame that is anything else shuts it and goes to Python. So each
rule stands in Python alone, and no state is kept twice. Numbers are shared (``_core``), so that both
see every byte at once, and Python is called where one reaches its mark.

Memory: a frame is read, and written to, only until the call returns that brought it. No pointer is
kept, and what is called is held meanwhile. Sizes are checked before a byte is looked at.

What knows picows and aiofastnet: ``on_ws_``... of the gates, ``put``, and the last two classes.
"""

from aiofastnet.transport cimport Protocol
from aiofastnet.utils cimport NoResult
from cpython.buffer cimport Py_buffer, PyBUF_READ
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_Check, PyMemoryView_FromMemory, PyMemoryView_GET_BUFFER
from cpython.pyport cimport PY_SSIZE_T_MAX
from libc.stdint cimport uint8_t
from picows.picows cimport WSFrame, WSListener, WSMsgType, WSTransport

from tailrace._core cimport Meter, Outlet, Pump, Tally, TurnMeter

cdef enum:
    PREFIX = 2  # bytes of a length prefix
    MAX_PAYLOAD = 64512
    FRAME_COST = 8  # as in turn_budget.py

cdef class Heads:
    """An index of known connections (wire/fastpath.py), looked into without the interpreter."""

    cdef dict prefixes
    cdef list readers

    def __init__(self, known):
        self.prefixes = known.prefixes
        self.readers = known.readers

    cdef find(self, const uint8_t* body, Py_ssize_t size, Py_ssize_t* start, Py_ssize_t* stop):
        """Return what belongs to a message, and where its payload is; None if it is unknown.

        The same as ConnectionIndex.find, which explains it.
        """
        cdef Py_ssize_t at = 0, length
        cdef dict tails = None
        for reader in self.readers:
            at = (<tuple?>reader)[0]
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
        at += length
        return tails.get(PyBytes_FromStringAndSize(<const char*>body + at, size - at))

    def look_up(self, bytes body not None):
        """Do as ConnectionIndex.find; for tests, which compare the two."""
        cdef Py_ssize_t start, stop
        value = self.find(<const uint8_t*>body, len(body), &start, &stop)
        return None if value is None else (value, start, stop)

    cdef Py_ssize_t count(self, const uint8_t* data, Py_ssize_t size, Py_ssize_t most):
        """Return how many messages a frame has, all whole and known; 0 if not, or if too many."""
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
    """Between picows and a link of the service: frames of known messages go to the other side's."""

    cdef object link
    cdef WSTransport transport
    cdef Heads heads
    cdef RelayGate outlet
    cdef TurnMeter budget
    cdef Tally tally
    cdef Meter window
    cdef bint whole, sends

    def __init__(self, link):
        self.link = link
        self.whole = True

    def begin(self, WSTransport transport not None, TurnMeter budget not None,
              Tally tally not None, Meter window, known):
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

    cpdef on_ws_frame(self, WSTransport transport, WSFrame frame):
        cdef Py_ssize_t size = frame.payload_size, count, most
        if frame.msg_type <= WSMsgType.BINARY:
            if (
                self.outlet is not None
                and self.outlet.sends
                and frame.msg_type == WSMsgType.BINARY
                and frame.fin
                and not (frame.rsv1 or frame.rsv2 or frame.rsv3)
            ):
                most = self.budget.left - FRAME_COST
                count = self.heads.count(<const uint8_t*>frame.payload_ptr, size, most)
                if count:
                    self.pass_on(frame.payload_ptr, size, count)
                    return
            self.whole = frame.fin
            self.outlet = None
        self.link.on_ws_frame(transport, frame)

    cdef pass_on(self, char* data, Py_ssize_t size, Py_ssize_t count):
        cdef TurnMeter budget = self.budget
        cdef RelayGate outlet = self.outlet
        budget.heard = True
        budget.left -= FRAME_COST + count
        self.tally.messages += count
        self.tally.bytes += size
        outlet.put(data, size)
        if budget.left < budget.mark:
            self.link.budget_low()

    cdef put(self, char* data, Py_ssize_t size):
        """Send a frame, with its header written over that of the frame it came in.

        That was longer: clients mask what they send (RFC 6455 section 5.1), which servers do not.
        What does not leave at once is copied.
        """
        cdef WSTransport transport = self.transport
        transport.send_reuse_external_buffer(WSMsgType.BINARY, data, size)
        if self.window is not None:
            self.window.sent += size
            if self.window.sent >= self.window.mark:
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

cdef class LinkOutlet(Outlet):
    """The link of an end of a tunnel, as what is read from sockets is sent on it."""

    cdef WSTransport transport
    cdef Meter window
    cdef object mark_reached

    def __init__(self, WSTransport transport not None, Meter window not None, mark_reached):
        self.transport = transport
        self.window = window
        self.mark_reached = mark_reached

    def close(self):
        """Send nothing more: the link is ending."""
        self.transport = None

    cdef put(self, char* data, Py_ssize_t size):
        # A copy is masked: what was sent may have to be sent again.
        cdef WSTransport transport = self.transport
        if transport is not None:
            transport.send(WSMsgType.BINARY, PyMemoryView_FromMemory(data, size, PyBUF_READ))
        self.window.sent += size
        if self.window.sent >= self.window.mark:
            self.mark_reached(size)

cdef class LinkGate(WSListener):
    """Between picows and the link of an end: known messages go to the sockets of connections.

    Where a frame ends in messages that are not known, the link is given the rest of it.
    """

    cdef object link
    cdef Heads heads
    cdef bint receives

    def __init__(self, link):
        self.link = link

    def open(self, known):
        """Let known messages pass: whole ones came so far, and the session may have more."""
        if self.heads is None or self.heads.prefixes is not known.prefixes:
            self.heads = Heads(known)
        self.receives = True

    def shut(self):
        """Let all frames go to Python."""
        self.receives = False

    def end(self):
        """Forget the link, which has ended."""
        self.receives = False
        self.link = None

    cpdef on_ws_frame(self, WSTransport transport, WSFrame frame):
        cdef Py_ssize_t at = 0, size = frame.payload_size
        cdef object link = self.link
        if link is None:
            return
        if frame.msg_type == WSMsgType.BINARY or frame.msg_type == WSMsgType.CONTINUATION:
            if self.receives and not (frame.rsv1 or frame.rsv2 or frame.rsv3):
                try:
                    at = self.take(frame.payload_ptr, size)
                except Exception as error:
                    link.handler_failed(error)
                    return
                if at == size:
                    return
            self.receives = False
            if at:
                link.bytes_arrived(
                    PyMemoryView_FromMemory(frame.payload_ptr + at, size - at, PyBUF_READ))
                return
        link.frame_arrived(transport, frame)

    cdef Py_ssize_t take(self, char* data, Py_ssize_t size) except -1:
        """Deliver known messages from the beginning of a frame; return where the rest begins."""
        cdef Py_ssize_t at = 0, length, start, stop
        cdef uint8_t* message
        cdef object sink
        while self.receives and size - at > PREFIX:
            message = <uint8_t*>data + at
            length = message[0] << 8 | message[1]
            message += PREFIX
            if not 0 < length <= size - at - PREFIX:
                break
            sink = self.heads.find(message, length, &start, &stop)
            if not isinstance(sink, Pump) or not (<Pump>sink).takes:
                break
            (<Pump>sink).take(<char*>message + start, stop - start)
            at += PREFIX + length
        return at

cdef class ReadLimiter(Protocol):
    """Stands between a transport and its protocol, and offers ``read_size`` bytes at a time.

    The same as in read_limiter.py, which explains it.
    """

    cdef object inner, free, updated
    cdef public Py_ssize_t read_size

    def __init__(self, inner, Py_ssize_t read_size):
        self.inner = inner
        self.free = inner.get_buffer
        self.updated = inner.buffer_updated
        self.read_size = read_size

    cpdef is_buffered_protocol(self):
        return True

    cpdef get_buffer(self, Py_ssize_t hint):
        return self.free(hint)[: self.read_size]

    cdef NoResult get_buffer_c(self, Py_ssize_t hint, char** buf, Py_ssize_t* buf_len) except NoResult.EXC:
        # The memory is the inner protocol's, which keeps it where it is until it is told of bytes.
        cdef object view = self.free(hint)
        if not PyMemoryView_Check(view) or PyMemoryView_GET_BUFFER(view).readonly:
            raise TypeError("a protocol has to offer a memoryview that may be written to")
        cdef Py_buffer* memory = PyMemoryView_GET_BUFFER(view)
        buf[0] = <char*>memory.buf
        buf_len[0] = min(memory.len, self.read_size)
        return NoResult.OK

    cpdef buffer_updated(self, Py_ssize_t bytes_read):
        self.updated(bytes_read)

    def __getattr__(self, name):
        return getattr(self.inner, name)  # what is called now and then

cdef class Wire(ReadLimiter):
    """The protocol of a link's transport: notes when bytes come, and when picows found a fault."""

    cdef object link
    cdef WSTransport websocket

    def __init__(self, inner, link, WSTransport websocket not None):
        ReadLimiter.__init__(self, inner, PY_SSIZE_T_MAX)
        self.link = link
        self.websocket = websocket

    cpdef buffer_updated(self, Py_ssize_t bytes_read):
        self.link._last_received = self.link._time()
        self.updated(bytes_read)
        if self.websocket.is_close_frame_sent:
            self.link.close_frame_sent()
