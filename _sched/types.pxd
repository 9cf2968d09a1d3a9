# cython: language_level=3
"""What all of `_sched` agrees on: what a handle is, and how a debug build is told."""
from libc.stdint cimport uint32_t, uint64_t

cdef extern from *:
    """
    #ifdef SCHED_DEBUG
    #define SCHED_CHECKS 1
    #else
    #define SCHED_CHECKS 0
    #endif
    """
    const bint SCHED_CHECKS  # a debug build checks a whole structure after every change

cdef enum:
    SLOTS_MAX = 0x7FFFFFFF

# A handle is generation << 32 | slot. The generation of a slot is odd while the slot is in use and
# even while it is free: taking and freeing add one each. So no handle is 0, and a stale one is told
# by one comparison until its slot has been used 2**31 times more.

cdef inline uint64_t handle_of(uint32_t slot, uint32_t generation) noexcept nogil:
    return (<uint64_t> generation << 32) | slot

cdef inline uint32_t slot_of(uint64_t handle) noexcept nogil:
    return <uint32_t> handle

cdef inline uint32_t generation_of(uint64_t handle) noexcept nogil:
    return <uint32_t> (handle >> 32)

cdef inline bint is_current(uint64_t handle, uint32_t generation) noexcept nogil:
    """Whether a handle is of the entry that its slot, now of this generation, holds."""
    return generation & 1 and generation_of(handle) == generation
