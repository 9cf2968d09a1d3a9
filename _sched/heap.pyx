# cython: language_level=3, binding=False, always_allow_keywords=False
"""A double-ended heap with handles: both ends at hand, and anything in between can leave or move.

An interval heap (van Leeuwen and Wood 1993) with eight children to a node. Each node holds a best
and a worst entry, and all entries below it lie between the two. So the best entries of all nodes
form a heap, and so do the worst ones, each in an array of its own: `_ends[BEST]`, `_ends[WORST]`.
The last node may hold one entry alone, which counts as its best.

A gap anywhere is filled in one way: it falls to a leaf, the better child moving up each time. The
entry that fills it goes in there, changes sides if it is beyond the other entry of the node, and
rises as far as it must, beyond where the gap was too. Sinking alone, as one peer does, breaks the
order whenever the entry that fills a gap is better than the parent of the gap.
"""
cimport cython
from libc.stdint cimport UINT32_MAX, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc

from _sched.types cimport SCHED_CHECKS, SLOTS_MAX, handle_of, is_current, slot_of

cdef enum:
    BEST = 0
    WORST = 1
    CHILDREN = 8  # two cache lines of entries; fewer levels to fall than with two or four
    ROOM_MIN = 16

cdef extern from *:
    bint unlikely(bint condition) noexcept nogil  # of the C that Cython writes

cdef uint32_t NOWHERE = UINT32_MAX


cdef bint _resize(void** memory, size_t size) noexcept nogil:
    """False, and the memory stays as it is, where there is no more."""
    cdef void* larger = realloc(memory[0], size)
    if larger == NULL:
        return False
    memory[0] = larger
    return True


@cython.final
cdef class IndexedHeap:
    """Entries ordered by an integer key, ties by order of arrival."""

    def __cinit__(self, capacity):
        if not 1 <= capacity <= SLOTS_MAX:
            raise ValueError(f"capacity must be 1 to {SLOTS_MAX}, not {capacity}")
        self._capacity = capacity
        self._free = NOWHERE

    def __dealloc__(self):
        free(self._ends[BEST])
        free(self._ends[WORST])
        free(self._place)
        free(self._generation)
        free(self._sequence)

    def __len__(self):
        return self._size

    def __sizeof__(self):
        cdef size_t per_slot = sizeof(Entry) + 2 * sizeof(uint32_t) + sizeof(uint64_t)
        return IndexedHeap.__basicsize__ + self._room * per_slot

    @property
    def capacity(self):
        return self._capacity

    def push(self, int64_t key):
        """Adds an entry and returns its handle; 0 if the heap is full."""
        return self.c_push(key)

    def peek_best(self):
        """(key, handle) of the best entry, or None."""
        cdef int64_t key
        cdef uint64_t handle = self.c_peek_best(&key)
        return (key, handle) if handle else None

    def peek_worst(self):
        """(key, handle) of the worst entry, or None."""
        cdef int64_t key
        cdef uint64_t handle = self.c_peek_worst(&key)
        return (key, handle) if handle else None

    def pop_best(self):
        """Takes the best entry out and returns its (key, handle), or None."""
        cdef int64_t key
        cdef uint64_t handle = self.c_peek_best(&key)
        if not handle:
            return None
        self._take_out(slot_of(handle))
        if SCHED_CHECKS:
            self._check()
        return key, handle

    def pop_worst(self):
        """Takes the worst entry out and returns its (key, handle), or None."""
        cdef int64_t key
        cdef uint64_t handle = self.c_peek_worst(&key)
        if not handle:
            return None
        self._take_out(slot_of(handle))
        if SCHED_CHECKS:
            self._check()
        return key, handle

    def pop_due(self, int64_t now):
        """Handle of the best entry if its key is at most `now`, taken out; else 0."""
        cdef int64_t key
        cdef uint64_t handle = self.c_peek_best(&key)
        if not handle or key > now:
            return 0
        self.c_remove(handle)
        return handle

    def remove(self, uint64_t handle):
        """Takes this entry out. False, and nothing happens, if the handle is stale."""
        return self.c_remove(handle)

    def rekey(self, uint64_t handle, int64_t key):
        """Moves this entry to another key; among equals it keeps its age. False if stale."""
        return self.c_rekey(handle, key)

    def key_of(self, uint64_t handle):
        """This entry's key, or None if the handle is stale."""
        if not self._holds(handle):
            return None
        cdef uint32_t place = self._place[slot_of(handle)]
        return self._ends[place & 1][place >> 1].key

    def check(self):
        """Raises AssertionError if the heap is not in order. O(n)."""
        self._check()

    cdef uint64_t c_push(self, int64_t key) except? 0:
        if self._size == self._capacity:
            return 0
        cdef Entry entry
        entry.key = key
        entry.slot = self._free
        if entry.slot != NOWHERE:
            self._free = self._place[entry.slot]
        else:
            if self._slots == self._room:
                self._grow()
            entry.slot = self._slots
            self._generation[entry.slot] = 0
            self._slots += 1
        self._generation[entry.slot] += 1
        self._pushes += 1
        self._sequence[entry.slot] = self._pushes
        cdef uint32_t place = self._size
        self._size += 1
        self._enter(place & 1, place >> 1, entry)
        if SCHED_CHECKS:
            self._check()
        return handle_of(entry.slot, self._generation[entry.slot])

    cdef uint64_t c_peek_best(self, int64_t* key) noexcept nogil:
        if self._size == 0:
            return 0
        cdef Entry* best = self._ends[BEST]
        key[0] = best.key
        return handle_of(best.slot, self._generation[best.slot])

    cdef uint64_t c_peek_worst(self, int64_t* key) noexcept nogil:
        if self._size == 0:
            return 0
        cdef Entry* worst = self._ends[WORST] if self._size > 1 else self._ends[BEST]
        key[0] = worst.key
        return handle_of(worst.slot, self._generation[worst.slot])

    cdef bint c_remove(self, uint64_t handle) except -1:
        if not self._holds(handle):
            return False
        self._take_out(slot_of(handle))
        if SCHED_CHECKS:
            self._check()
        return True

    cdef bint c_rekey(self, uint64_t handle, int64_t key) except -1:
        if not self._holds(handle):
            return False
        cdef Entry entry
        entry.key = key
        entry.slot = slot_of(handle)
        cdef uint32_t place = self._place[entry.slot]
        self._fill(place & 1, place >> 1, entry)
        if SCHED_CHECKS:
            self._check()
        return True

    cdef inline bint _leads(self, Entry a, Entry b, uint32_t side) noexcept nogil:
        """Whether `a` is nearer than `b` to this side's end of the order."""
        if a.key != b.key:
            return (a.key < b.key) != side
        return (self._sequence[a.slot] < self._sequence[b.slot]) != side

    cdef inline void _set(self, uint32_t side, size_t node, Entry entry) noexcept nogil:
        self._ends[side][node] = entry
        self._place[entry.slot] = <uint32_t> (2 * node + side)

    cdef inline void _rise(self, uint32_t side, size_t node, Entry entry) noexcept nogil:
        """Puts an entry there or as far above as it belongs; there is a gap."""
        cdef size_t parent
        while node > 0:
            parent = (node - 1) // CHILDREN
            if not self._leads(entry, self._ends[side][parent], side):
                break
            self._set(side, node, self._ends[side][parent])
            node = parent
        self._set(side, node, entry)

    cdef inline size_t _leading(
        self, Entry* ends, size_t a, size_t b, uint32_t side
    ) noexcept nogil:
        """Which of two nodes of this side has the entry nearer to its end of the order. Without a
        branch on which, as that is anybody's guess; equal keys are the rarer case."""
        if unlikely(ends[a].key == ends[b].key):
            return a if self._leads(ends[a], ends[b], side) else b
        return a if (ends[a].key < ends[b].key) != side else b

    cdef inline size_t _leading_of_four(
        self, Entry* ends, size_t first, uint32_t side
    ) noexcept nogil:
        return self._leading(
            ends,
            self._leading(ends, first, first + 1, side),
            self._leading(ends, first + 2, first + 3, side),
            side,
        )

    cdef inline size_t _fall(self, uint32_t side, size_t node) noexcept nogil:
        """Lets a gap fall to a leaf of this side, which it returns."""
        cdef Entry* ends = self._ends[side]
        cdef uint32_t* places = self._place
        cdef size_t nodes = (<size_t> self._size + 1 - side) >> 1
        cdef size_t child, leading
        cdef Entry entry
        while True:
            leading = CHILDREN * node + 1
            if leading + CHILDREN > nodes:
                break
            leading = self._leading(
                ends,
                self._leading_of_four(ends, leading, side),
                self._leading_of_four(ends, leading + 4, side),
                side,
            )
            entry = ends[leading]
            ends[node] = entry
            places[entry.slot] = <uint32_t> (2 * node + side)
            node = leading
        if leading >= nodes:
            return node
        for child in range(leading + 1, nodes):  # fewer children than elsewhere, which are leaves
            leading = self._leading(ends, leading, child, side)
        self._set(side, node, ends[leading])
        return leading

    cdef inline void _enter(self, uint32_t side, size_t node, Entry entry) noexcept nogil:
        """Puts an entry into a gap that is a leaf of this side."""
        cdef uint32_t other = 1 - side
        cdef size_t across = node
        if 2 * node + 1 >= self._size:  # the last node, alone in it: the parent's interval bounds
            if node == 0:
                self._set(side, node, entry)
                return
            across = (node - 1) // CHILDREN
        if self._leads(self._ends[other][across], entry, side):
            self._set(side, node, self._ends[other][across])
            self._rise(other, across, entry)
        else:
            self._rise(side, node, entry)

    cdef inline void _fill(self, uint32_t side, size_t node, Entry entry) noexcept nogil:
        """Puts an entry into the gap at this place, or wherever it belongs."""
        self._enter(side, self._fall(side, node), entry)
        if side == BEST or self._size < 3 or not self._size & 1:
            return
        # An entry alone in the last node is in no array of worst ones: the gap fell past it.
        cdef size_t last = self._size >> 1
        cdef size_t parent = (last - 1) // CHILDREN
        cdef Entry lone = self._ends[BEST][last]
        if self._leads(lone, self._ends[WORST][parent], WORST):
            self._set(BEST, last, self._ends[WORST][parent])
            self._set(WORST, parent, lone)

    cdef inline void _take_out(self, uint32_t slot) noexcept nogil:
        cdef uint32_t place = self._place[slot]
        self._size -= 1
        if place != self._size:
            if place & 1:
                self._fill(WORST, place >> 1, self._ends[self._size & 1][self._size >> 1])
            else:
                self._fill(BEST, place >> 1, self._ends[self._size & 1][self._size >> 1])
        self._generation[slot] += 1
        self._place[slot] = self._free
        self._free = slot

    cdef inline bint _holds(self, uint64_t handle) noexcept nogil:
        cdef uint32_t slot = slot_of(handle)
        return slot < self._slots and is_current(handle, self._generation[slot])

    cdef int _grow(self) except -1:
        """Doubles the memory, up to the capacity. What there is stays valid if there is no more."""
        cdef uint64_t room = 2 * <uint64_t> self._room
        room = min(max(room, <uint64_t> ROOM_MIN), <uint64_t> self._capacity)
        cdef size_t nodes = (room + 1) // 2
        if not (
            _resize(<void**> &self._ends[BEST], nodes * sizeof(Entry))
            and _resize(<void**> &self._ends[WORST], nodes * sizeof(Entry))
            and _resize(<void**> &self._place, room * sizeof(uint32_t))
            and _resize(<void**> &self._generation, room * sizeof(uint32_t))
            and _resize(<void**> &self._sequence, room * sizeof(uint64_t))
        ):
            raise MemoryError(f"no memory for {room} entries of a heap")
        self._room = room
        return 0

    cdef int _check(self) except -1:
        cdef uint32_t place, node, parent, slot
        cdef Entry entry
        for place in range(self._size):
            node = place >> 1
            entry = self._ends[place & 1][node]
            assert self._place[entry.slot] == place, "an entry is misplaced"
            assert self._generation[entry.slot] & 1, "an entry's slot is free"
            if place & 1:
                assert self._leads(self._ends[BEST][node], entry, BEST), (
                    "a node's worst entry is before its best"
                )
            if node > 0:
                parent = (node - 1) // CHILDREN
                assert self._leads(self._ends[BEST][parent], entry, BEST), (
                    "an entry is before the best of the node above"
                )
                assert self._leads(self._ends[WORST][parent], entry, WORST), (
                    "an entry is after the worst of the node above"
                )
        slot = self._free
        for place in range(self._slots - self._size):
            assert slot < self._slots, "a free slot is lost"
            assert not self._generation[slot] & 1, "a free slot is in use"
            slot = self._place[slot]
        assert slot == NOWHERE, "the free slots do not end"
        return 0
