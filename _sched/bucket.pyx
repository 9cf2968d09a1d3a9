# cython: language_level=3, binding=False
"""Token buckets in one array, by handle, the clock passed in.

A bucket is refilled when it is looked at, not by a timer. Its level is told from the moment of the
last change by one product, and looking changes nothing: so however often somebody asks, no rounding
adds up, and who waits as long as it was told finds what it was told. What rounding is left between
changes is covered by `TOLERANCE`.
"""
cimport cython
from libc.float cimport DBL_MAX
from libc.math cimport ceil, fabs
from libc.stdint cimport INT64_MAX, UINT32_MAX, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc

from _sched.types cimport SLOTS_MAX, handle_of, is_current, slot_of

cdef enum:
    ROOM_MIN = 16

cdef uint32_t NOWHERE = UINT32_MAX

# Of the burst and the debt: far above the rounding of a double (1e-16 a change), far below a token.
# What is granted too early by it is missing from the level after, so it never adds up.
cdef double TOLERANCE = 1e-12

cdef double INT64_MAX_AS_DOUBLE = 9223372036854775808.0  # one more, in truth


cdef int _need_positive(str name, double value) except -1:
    if not 0 < value <= DBL_MAX:
        raise ValueError(f"{name} must be above 0 and finite, not {value}")
    return 0


cdef inline int _need_amount(str name, double value) except -1:
    if not 0 <= value <= DBL_MAX:
        raise ValueError(f"{name} must be at least 0 and finite, not {value}")
    return 0


cdef inline double _level(Bucket* bucket, int64_t now_ns) noexcept nogil:
    if now_ns <= bucket.taken_ns:
        return bucket.level
    # Unsigned, as the difference of two int64 can be more than one holds.
    cdef uint64_t elapsed_ns = <uint64_t> now_ns - <uint64_t> bucket.taken_ns
    return min(bucket.burst, bucket.level + <double> elapsed_ns * 1e-9 * bucket.rate_per_s)


cdef inline void _set_level(Bucket* bucket, double level, int64_t now_ns) noexcept nogil:
    bucket.level = max(-DBL_MAX, min(bucket.burst, level))
    bucket.taken_ns = max(bucket.taken_ns, now_ns)


cdef inline int64_t _wait_ns(Bucket* bucket, double amount, int64_t now_ns) noexcept nogil:
    """0 if it holds the amount now, else how long until it does; -1 if it never will."""
    if amount > bucket.burst:
        return -1
    cdef double missing = amount - _level(bucket, now_ns)
    if missing <= TOLERANCE * (bucket.burst + fabs(bucket.level)):
        return 0
    cdef double wait_ns = ceil(missing / bucket.rate_per_s * 1e9)
    if now_ns < bucket.taken_ns:  # the clock went back: nothing flows in before it has caught up
        wait_ns += <double> (<uint64_t> bucket.taken_ns - <uint64_t> now_ns)
    return <int64_t> wait_ns if wait_ns < INT64_MAX_AS_DOUBLE else INT64_MAX


@cython.final
@cython.cdivision(True)
cdef class BucketArray:
    """Token buckets, each of a rate and a burst of its own."""

    def __cinit__(self):
        self._free = NOWHERE

    def __dealloc__(self):
        free(self._buckets)

    def __len__(self):
        return self._size

    def __sizeof__(self):
        return BucketArray.__basicsize__ + self._room * sizeof(Bucket)

    def add(self, double rate_per_s, double burst, int64_t now_ns):
        """Adds a full bucket and returns its handle."""
        _need_positive("rate_per_s", rate_per_s)
        _need_positive("burst", burst)
        cdef uint32_t slot = self._free
        if slot != NOWHERE:
            self._free = self._buckets[slot].next_free
        else:
            if self._slots == self._room:
                self._grow()
            slot = self._slots
            self._buckets[slot].generation = 0
            self._slots += 1
        cdef Bucket* bucket = &self._buckets[slot]
        bucket.generation += 1
        bucket.rate_per_s = rate_per_s
        bucket.level = bucket.burst = burst
        bucket.taken_ns = now_ns
        self._size += 1
        return handle_of(slot, bucket.generation)

    def remove(self, uint64_t handle, /):
        """Forgets a bucket. False, and nothing happens, if the handle is stale."""
        cdef uint32_t slot = slot_of(handle)
        if slot >= self._slots or not is_current(handle, self._buckets[slot].generation):
            return False
        self._buckets[slot].generation += 1
        self._buckets[slot].next_free = self._free
        self._free = slot
        self._size -= 1
        return True

    def acquire(self, uint64_t handle, double amount, int64_t now_ns, /):
        """Takes the amount and returns 0, or takes nothing and returns the ns to wait, or -1."""
        cdef Bucket* bucket = self._bucket(handle)
        _need_amount("amount", amount)
        cdef int64_t wait_ns = _wait_ns(bucket, amount, now_ns)
        if wait_ns == 0:
            _set_level(bucket, _level(bucket, now_ns) - amount, now_ns)
        return wait_ns

    def refund(self, uint64_t handle, double amount, int64_t now_ns, /):
        """Gives back what was taken and not used, up to the burst."""
        cdef Bucket* bucket = self._bucket(handle)
        _need_amount("amount", amount)
        _set_level(bucket, _level(bucket, now_ns) + amount, now_ns)

    def settle(self, uint64_t handle, double reserved, double used, int64_t now_ns, /):
        """What was taken as `reserved` came to `used`; more than there was leaves a debt."""
        cdef Bucket* bucket = self._bucket(handle)
        _need_amount("reserved", reserved)
        _need_amount("used", used)
        _set_level(bucket, _level(bucket, now_ns) + (reserved - used), now_ns)

    def configure(self, uint64_t handle, double rate_per_s, double burst, int64_t now_ns, /):
        """From now on another rate and burst; what was gathered by now stays, up to the burst."""
        cdef Bucket* bucket = self._bucket(handle)
        _need_positive("rate_per_s", rate_per_s)
        _need_positive("burst", burst)
        cdef double level = _level(bucket, now_ns)
        bucket.rate_per_s = rate_per_s
        bucket.burst = burst
        _set_level(bucket, level, now_ns)

    def level(self, uint64_t handle, int64_t now_ns, /):
        """What it holds; below 0 it is in debt."""
        return _level(self._bucket(handle), now_ns)

    def time_until(self, uint64_t handle, double amount, int64_t now_ns, /):
        """What `acquire` would answer, with nothing taken."""
        cdef Bucket* bucket = self._bucket(handle)
        _need_amount("amount", amount)
        return _wait_ns(bucket, amount, now_ns)

    def is_full(self, uint64_t handle, int64_t now_ns, /):
        """Whether it holds its burst: then it is as one that was just added."""
        cdef Bucket* bucket = self._bucket(handle)
        return _wait_ns(bucket, bucket.burst, now_ns) == 0

    def rate_of(self, uint64_t handle, /):
        return self._bucket(handle).rate_per_s

    def burst_of(self, uint64_t handle, /):
        return self._bucket(handle).burst

    cdef inline Bucket* _bucket(self, uint64_t handle) except NULL:
        cdef uint32_t slot = slot_of(handle)
        if slot >= self._slots or not is_current(handle, self._buckets[slot].generation):
            raise KeyError(handle)
        return &self._buckets[slot]

    cdef int _grow(self) except -1:
        """Doubles the memory. What there is stays valid if there is no more."""
        cdef uint64_t room = 2 * <uint64_t> self._room
        room = min(max(room, <uint64_t> ROOM_MIN), <uint64_t> SLOTS_MAX)
        cdef void* larger = NULL
        if self._room < SLOTS_MAX:
            larger = realloc(self._buckets, room * sizeof(Bucket))
        if larger == NULL:
            raise MemoryError(f"no memory for {room} token buckets")
        self._buckets = <Bucket*> larger
        self._room = room
        return 0
