# cython: language_level=3
"""The arena as a Python object, to see how it behaves; what others use is its header."""
from libc.stdint cimport uint32_t, uint64_t

from _sched.types cimport SCHED_CHECKS, SLOTS_MAX


cdef class Arena:
    """Blocks of one size, taken and given back by handle."""

    def __cinit__(self, size_t block_bytes, uint32_t live_max=SLOTS_MAX):
        if not sizeof(Block) <= block_bytes <= 4096:
            raise ValueError(f"block_bytes must be {sizeof(Block)} to 4096, not {block_bytes}")
        if not 1 <= live_max <= SLOTS_MAX:
            raise ValueError(f"live_max must be 1 to {SLOTS_MAX}, not {live_max}")
        blocks_open(&self._blocks, block_bytes, live_max)

    def __dealloc__(self):
        blocks_close(&self._blocks)

    def __len__(self):
        return self._blocks.live

    def __sizeof__(self):
        return sizeof(Arena) + bytes_held(&self._blocks)

    @property
    def capacity(self):
        """How many blocks there is room for before the memory has to grow."""
        return max(<uint32_t> 1, self._blocks.held) - 1

    def take(self):
        """Takes a block and returns its handle. MemoryError where there is no more room."""
        blocks_reserve(&self._blocks)
        # First, as a handle that cannot be told would be lost.
        cdef object handle = next_handle(&self._blocks)
        blocks_take(&self._blocks)
        if SCHED_CHECKS:
            self._check()
        return handle

    def give_back(self, uint64_t handle):
        """Gives this block back. False, and nothing happens, if the handle is stale."""
        cdef uint32_t slot = slot_of(&self._blocks, handle)
        if slot == 0:
            return False
        blocks_give_back(&self._blocks, slot)
        if SCHED_CHECKS:
            self._check()
        return True

    def is_live(self, uint64_t handle):
        """Whether this block is taken and not yet given back."""
        return slot_of(&self._blocks, handle) != 0

    def check(self):
        """Raises AssertionError if a slot is lost or free twice. O(n)."""
        self._check()

    cdef int _check(self) except -1:
        cdef uint32_t slot
        cdef uint32_t live = 0
        cdef uint32_t free = 0
        for slot in range(1, self._blocks.used):
            live += slot_is_live(&self._blocks, slot)
        slot = self._blocks.free
        while slot != 0 and free < self._blocks.used:
            assert not slot_is_live(&self._blocks, slot), "a free slot is taken"
            free += 1
            slot = block_at(&self._blocks, slot).next_free
        assert live == self._blocks.live, "the live blocks are miscounted"
        assert live + free == self._blocks.used - 1, "a slot is lost"
        assert self._blocks.used <= max(<uint32_t> 1, self._blocks.held), "a slot has no memory"
        return 0
