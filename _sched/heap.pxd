# cython: language_level=3
"""The heap's memory and its leaf functions."""
from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef struct Node:
    int64_t key            # smallest first
    uint64_t sequence      # breaks ties: first pushed, first popped
    uint32_t generation    # of the slot; a handle of an older one is stale
    uint32_t place         # where this slot stands in `order`; NOWHERE if free


cdef class IndexedHeap:
    cdef Node* _nodes          # one per slot
    cdef uint32_t* _order      # the binary heap: slots, best first
    cdef uint32_t* _free       # stack of free slots
    cdef uint32_t _size
    cdef uint32_t _capacity
    cdef uint64_t _sequence

    cdef bint _is_before(self, uint32_t a, uint32_t b) noexcept nogil
    cdef void _rise(self, uint32_t place) noexcept nogil
    cdef void _sink(self, uint32_t place) noexcept nogil
    cdef void _take_out(self, uint32_t place) noexcept nogil
    cdef int64_t _slot_of(self, uint64_t handle) noexcept nogil
    cdef int _check(self) except -1
