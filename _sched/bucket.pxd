# cython: language_level=3
"""The memory of the token buckets."""
from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef struct Bucket:
    double level           # tokens at `taken_ns`; less than 0 is debt
    double rate_per_s
    double burst           # the most it holds
    int64_t taken_ns       # when the level was last set; it is told from there on
    uint32_t generation
    uint32_t next_free     # of a free slot


cdef class BucketArray:
    cdef Bucket* _buckets
    cdef uint32_t _size
    cdef uint32_t _slots   # how many were ever used
    cdef uint32_t _room    # how many there is memory for
    cdef uint32_t _free    # the first free slot; NOWHERE if none

    cdef Bucket* _bucket(self, uint64_t handle) except NULL
    cdef int _grow(self) except -1
