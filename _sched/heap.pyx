# cython: language_level=3
"""A binary min-heap with handles: anything in it can be removed or re-keyed, from the middle too.

Removal puts the last entry into the gap and then lets it rise *or* sink: sinking alone, as one peer
does, breaks the order whenever the gap's parent is larger than the entry that fills it.
"""
from libc.stdint cimport UINT32_MAX, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

cdef enum:
    CAPACITY_MAX = 0x7FFFFFFF

cdef uint32_t NOWHERE = UINT32_MAX

cdef extern from *:
    """
    #ifdef SCHED_DEBUG
    #define HEAP_CHECKS 1
    #else
    #define HEAP_CHECKS 0
    #endif
    """
    const bint HEAP_CHECKS  # a debug build checks the whole heap after every change


cdef class IndexedHeap:
    """Entries ordered by an integer key, ties by order of arrival."""

    def __cinit__(self, capacity):
        if not 1 <= capacity <= CAPACITY_MAX:
            raise ValueError(f"capacity must be 1 to {CAPACITY_MAX}, not {capacity}")
        self._capacity = capacity
        self._nodes = <Node*> calloc(capacity, sizeof(Node))
        self._order = <uint32_t*> malloc(capacity * sizeof(uint32_t))
        self._free = <uint32_t*> malloc(capacity * sizeof(uint32_t))
        if self._nodes == NULL or self._order == NULL or self._free == NULL:
            raise MemoryError()
        cdef uint32_t slot
        for slot in range(self._capacity):
            self._nodes[slot].place = NOWHERE
            self._free[slot] = self._capacity - 1 - slot

    def __dealloc__(self):
        free(self._nodes)
        free(self._order)
        free(self._free)

    def __len__(self):
        return self._size

    @property
    def capacity(self):
        return self._capacity

    def push(self, int64_t key):
        """Adds an entry and returns its handle; 0 if the heap is full."""
        if self._size == self._capacity:
            return 0
        cdef uint32_t slot = self._free[self._capacity - self._size - 1]
        cdef Node* node = &self._nodes[slot]
        node.generation += 1
        if node.generation == 0:  # a handle is never 0, also after 2**32 uses of one slot
            node.generation = 1
        node.key = key
        self._sequence += 1
        node.sequence = self._sequence
        node.place = self._size
        self._order[self._size] = slot
        self._size += 1
        self._rise(self._size - 1)
        if HEAP_CHECKS:
            self._check()
        return (<uint64_t> node.generation << 32) | slot

    def peek(self):
        """(key, handle) of the best entry, or None."""
        if self._size == 0:
            return None
        cdef uint32_t slot = self._order[0]
        return self._nodes[slot].key, (<uint64_t> self._nodes[slot].generation << 32) | slot

    def pop(self):
        """Takes the best entry out and returns its (key, handle), or None."""
        best = self.peek()
        if best is not None:
            self._take_out(0)
            if HEAP_CHECKS:
                self._check()
        return best

    def pop_due(self, int64_t now):
        """Handle of the best entry if its key is at most `now`, taken out; else 0."""
        if self._size == 0 or self._nodes[self._order[0]].key > now:
            return 0
        return self.pop()[1]

    def remove(self, uint64_t handle):
        """Takes this entry out. False, and nothing happens, if the handle is stale."""
        cdef int64_t slot = self._slot_of(handle)
        if slot < 0:
            return False
        self._take_out(self._nodes[slot].place)
        if HEAP_CHECKS:
            self._check()
        return True

    def rekey(self, uint64_t handle, int64_t key):
        """Moves this entry to another key; among equals it keeps its age. False if stale."""
        cdef int64_t slot = self._slot_of(handle)
        if slot < 0:
            return False
        self._nodes[slot].key = key
        self._rise(self._nodes[slot].place)
        self._sink(self._nodes[slot].place)
        if HEAP_CHECKS:
            self._check()
        return True

    def key_of(self, uint64_t handle):
        """This entry's key, or None if the handle is stale."""
        cdef int64_t slot = self._slot_of(handle)
        return None if slot < 0 else self._nodes[slot].key

    def check(self):
        """Raises AssertionError if the heap is not in order. O(n)."""
        self._check()

    cdef bint _is_before(self, uint32_t a, uint32_t b) noexcept nogil:
        cdef Node* x = &self._nodes[a]
        cdef Node* y = &self._nodes[b]
        return x.key < y.key or (x.key == y.key and x.sequence < y.sequence)

    cdef void _rise(self, uint32_t place) noexcept nogil:
        cdef uint32_t slot = self._order[place]
        cdef uint32_t parent
        while place > 0:
            parent = (place - 1) >> 1
            if not self._is_before(slot, self._order[parent]):
                break
            self._order[place] = self._order[parent]
            self._nodes[self._order[place]].place = place
            place = parent
        self._order[place] = slot
        self._nodes[slot].place = place

    cdef void _sink(self, uint32_t place) noexcept nogil:
        cdef uint32_t slot = self._order[place]
        cdef uint32_t child
        while True:
            child = 2 * place + 1
            if child >= self._size:
                break
            if child + 1 < self._size:
                if self._is_before(self._order[child + 1], self._order[child]):
                    child += 1
            if not self._is_before(self._order[child], slot):
                break
            self._order[place] = self._order[child]
            self._nodes[self._order[place]].place = place
            place = child
        self._order[place] = slot
        self._nodes[slot].place = place

    cdef void _take_out(self, uint32_t place) noexcept nogil:
        cdef uint32_t slot = self._order[place]
        self._size -= 1
        cdef uint32_t last = self._order[self._size]
        if place != self._size:
            self._order[place] = last
            self._nodes[last].place = place
            self._rise(place)
            self._sink(self._nodes[last].place)
        self._nodes[slot].place = NOWHERE
        self._free[self._capacity - self._size - 1] = slot

    cdef int64_t _slot_of(self, uint64_t handle) noexcept nogil:
        cdef uint64_t slot = handle & <uint64_t> UINT32_MAX
        if slot >= self._capacity:
            return -1
        if self._nodes[slot].generation != handle >> 32 or self._nodes[slot].place == NOWHERE:
            return -1
        return <int64_t> slot

    cdef int _check(self) except -1:
        cdef uint32_t place
        for place in range(self._size):
            assert self._nodes[self._order[place]].place == place, "an entry is misplaced"
            if place > 0:
                assert not self._is_before(self._order[place], self._order[(place - 1) >> 1]), (
                    "a child is before its parent"
                )
        for place in range(self._capacity - self._size):
            assert self._nodes[self._free[place]].place == NOWHERE, "a free slot is in the heap"
        return 0
