# cython: language_level=3
"""Fixed-size blocks in one growing array, known by slot within and by handle outside.

Nothing is allocated per block. The array moves when it grows, so what lasts is a slot, never a
pointer. Slot 0 is nobody's: 0 says "none" wherever a slot stands. What a handle is stands in
`types.pxd`. A block is all zeros when it is taken, its header aside.
"""
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from _sched.types cimport SLOTS_MAX, is_current
from _sched.types cimport handle_of as handle_from
from _sched.types cimport slot_of as slot_in

cdef enum:
    SLOTS_FIRST = 16         # what the first growth holds

cdef struct Block:           # how every block begins
    uint32_t generation      # odd while the slot is taken; a handle of another one is stale
    uint32_t next_free       # while it is free: the next free slot

cdef struct Blocks:
    char* memory
    size_t block_bytes
    uint32_t held            # slots that the memory has room for, slot 0 too
    uint32_t held_max
    uint32_t used            # slots below this one have been taken at least once, or are slot 0
    uint32_t free            # a list of those given back, the latest first
    uint32_t live


cdef inline void blocks_open(Blocks* blocks, size_t block_bytes, uint32_t live_max) noexcept nogil:
    memset(blocks, 0, sizeof(Blocks))
    blocks.block_bytes = block_bytes
    blocks.held_max = live_max + 1
    blocks.used = 1


cdef inline void blocks_close(Blocks* blocks) noexcept nogil:
    PyMem_RawFree(blocks.memory)
    blocks.memory = NULL


cdef inline Block* block_at(const Blocks* blocks, uint32_t slot) noexcept nogil:
    return <Block*> (blocks.memory + slot * blocks.block_bytes)


cdef inline int blocks_reserve(Blocks* blocks) except -1:
    """Makes sure that the next take succeeds. MemoryError: nothing has changed."""
    if blocks.free != 0 or blocks.used < blocks.held:
        return 0
    # Half as much again: at most a third lies idle, and growing stays O(1) per block.
    cdef uint64_t held = max(<uint64_t> SLOTS_FIRST, <uint64_t> blocks.held + (blocks.held >> 1))
    held = min(held, <uint64_t> blocks.held_max)
    cdef char* memory = NULL
    if held > blocks.held:
        memory = <char*> PyMem_RawRealloc(blocks.memory, held * blocks.block_bytes)
    if memory == NULL:
        raise MemoryError(f"no room for more than {blocks.live} blocks")
    if blocks.memory == NULL:
        memset(memory, 0, blocks.block_bytes)
    blocks.memory = memory
    blocks.held = <uint32_t> held
    return 0


cdef inline uint32_t blocks_take(Blocks* blocks) noexcept nogil:
    """A zeroed block's slot. `blocks_reserve` has been called."""
    cdef uint32_t slot = blocks.free
    cdef Block* block
    cdef uint32_t generation = 0
    if slot != 0:
        block = block_at(blocks, slot)
        blocks.free = block.next_free
        generation = block.generation
    else:
        slot = blocks.used
        blocks.used += 1
        block = block_at(blocks, slot)
    memset(block, 0, blocks.block_bytes)
    block.generation = generation + 1
    blocks.live += 1
    return slot


cdef inline void blocks_give_back(Blocks* blocks, uint32_t slot) noexcept nogil:
    cdef Block* block = block_at(blocks, slot)
    block.generation += 1
    block.next_free = blocks.free
    blocks.free = slot
    blocks.live -= 1


cdef inline uint64_t handle_of(const Blocks* blocks, uint32_t slot) noexcept nogil:
    return handle_from(slot, block_at(blocks, slot).generation)


cdef inline bint slot_is_live(const Blocks* blocks, uint32_t slot) noexcept nogil:
    return 0 < slot < blocks.used and block_at(blocks, slot).generation & 1


cdef inline uint32_t slot_of(const Blocks* blocks, uint64_t handle) noexcept nogil:
    """The slot of a handle; 0 where it is stale or never was."""
    cdef uint32_t slot = slot_in(handle)
    if 0 < slot < blocks.used and is_current(handle, block_at(blocks, slot).generation):
        return slot
    return 0


cdef inline uint64_t next_handle(const Blocks* blocks) noexcept nogil:
    """The handle of what the next take returns. `blocks_reserve` has been called."""
    cdef uint32_t slot = blocks.free
    if slot == 0:
        return handle_from(blocks.used, 1)
    return handle_from(slot, block_at(blocks, slot).generation + 1)


cdef inline size_t bytes_held(const Blocks* blocks) noexcept nogil:
    return blocks.held * blocks.block_bytes


cdef class Arena:
    cdef Blocks _blocks

    cdef int _check(self) except -1
