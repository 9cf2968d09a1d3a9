# cython: language_level=3
"""The heap's memory and its functions at C level."""
from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef struct Entry:
    int64_t key
    uint32_t slot


cdef class IndexedHeap:
    cdef Entry* _ends[2]       # by side: of each node, its best entry and its worst
    cdef uint32_t* _place      # by slot: 2 * node + side; of a free slot, the next free one
    cdef uint32_t* _generation # by slot
    cdef uint64_t* _sequence   # by slot: breaks ties, first pushed is better
    cdef uint32_t _size
    cdef uint32_t _slots       # how many were ever used
    cdef uint32_t _room        # how many there is memory for
    cdef uint32_t _capacity
    cdef uint32_t _free        # the first free slot; NOWHERE if none
    cdef uint64_t _pushes

    # 0 where the heap is full; MemoryError where it cannot grow.
    cdef uint64_t c_push(self, int64_t key) except? 0
    # The handle, and the key into `key`; 0 where the heap is empty.
    cdef uint64_t c_peek_best(self, int64_t* key) noexcept nogil
    cdef uint64_t c_peek_worst(self, int64_t* key) noexcept nogil
    # False where the handle is stale. They raise only what a debug build finds.
    cdef bint c_remove(self, uint64_t handle) except -1
    cdef bint c_rekey(self, uint64_t handle, int64_t key) except -1

    cdef bint _leads(self, Entry a, Entry b, uint32_t side) noexcept nogil
    cdef void _set(self, uint32_t side, size_t node, Entry entry) noexcept nogil
    cdef void _rise(self, uint32_t side, size_t node, Entry entry) noexcept nogil
    cdef size_t _leading(
        self, Entry* ends, size_t a, size_t b, uint32_t side
    ) noexcept nogil
    cdef size_t _leading_of_four(
        self, Entry* ends, size_t first, uint32_t side
    ) noexcept nogil
    cdef size_t _fall(self, uint32_t side, size_t node) noexcept nogil
    cdef void _enter(self, uint32_t side, size_t node, Entry entry) noexcept nogil
    cdef void _fill(self, uint32_t side, size_t node, Entry entry) noexcept nogil
    cdef void _take_out(self, uint32_t slot) noexcept nogil
    cdef bint _holds(self, uint64_t handle) noexcept nogil
    cdef int _grow(self) except -1
    cdef int _check(self) except -1
