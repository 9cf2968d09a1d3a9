# cython: language_level=3
"""The queue as Python sees it; what it keeps is in the books."""
cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

from _sched.books cimport Books
from _sched.forecast cimport Forecast


@cython.final
cdef class FairQueue(Books):
    cdef uint32_t _group(self, uint64_t handle) except 0
    cdef uint32_t _flow(
        self, uint64_t group, long priority, long compartment, uint64_t agent
    ) except? 0
    cdef uint32_t _open(self, uint32_t of, uint64_t closed) noexcept nogil
    cdef size_t _weigh(self, list groups, uint64_t closed, Forecast* forecast) except? 0
    cdef int _serve(
        self, list groups, uint64_t closed, Forecast* forecast, int64_t cost
    ) except -1
