# cython: language_level=3
"""What would be served next, and after that, if nobody else came: a copy of the flows at play.

Numbers are copied, requests are not: a lane knows its first one only, and is told the next.
"""
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from _sched.pairing cimport Links, Order, pairing_push, pairing_remove, pairing_scatter
from _sched.vtc cimport COUNTER_MAX, grade_of, width_of

cdef struct Lane:            # a flow
    Links links              # in its class's heap of lanes: served least first
    Links claim_links        # in its class's other heap: the oldest claim first
    uint32_t of
    uint32_t request         # its first; 0: none is left
    int64_t counter
    int64_t grade
    int64_t stand_ns         # 0 where there are no grades: then it plays no part
    int64_t units            # what one more request adds to the counter
    uint64_t charged
    uint64_t sequence
    int64_t claim_ns
    uint64_t owner           # breaks ties of claims: the older flow first

cdef struct Candidate:       # a class
    Links links
    uint32_t lanes           # the heap of those that have something
    uint32_t claims          # the same, by their claims
    uint8_t priority
    int64_t largest          # what was charged at once at most
    int64_t width            # of a grade; 0: there are none
    int64_t handicap_ns
    int64_t key_ns
    uint64_t sequence

cdef struct Forecast:
    Lane* lanes
    Candidate* candidates
    uint32_t best            # the heap of candidates
    uint64_t charges
    int64_t grain_units      # how wide a grade is at most; 0: there are none


cdef inline bint lane_is_before(const void* a, const void* b) noexcept nogil:
    cdef const Lane* x = <const Lane*> a
    cdef const Lane* y = <const Lane*> b
    if x.grade != y.grade:
        return x.grade < y.grade
    if x.stand_ns != y.stand_ns:
        return x.stand_ns < y.stand_ns
    if x.charged != y.charged:
        return x.charged < y.charged
    return x.sequence < y.sequence


cdef inline bint lane_claims_before(const void* a, const void* b) noexcept nogil:
    cdef const Lane* x = <const Lane*> a
    cdef const Lane* y = <const Lane*> b
    return x.claim_ns < y.claim_ns or (x.claim_ns == y.claim_ns and x.owner < y.owner)


cdef inline bint candidate_is_before(const void* a, const void* b) noexcept nogil:
    cdef const Candidate* x = <const Candidate*> a
    cdef const Candidate* y = <const Candidate*> b
    if x.key_ns != y.key_ns:
        return x.key_ns < y.key_ns
    if x.priority != y.priority:
        return x.priority < y.priority
    return x.sequence < y.sequence


cdef inline int forecast_open(
    Forecast* all, size_t lanes, size_t candidates, int64_t grain_units
) except -1:
    """Memory for that many, numbered from 1. `forecast_close` ends it, also after a MemoryError."""
    all.best = 0
    all.charges = 0
    all.grain_units = grain_units
    all.lanes = <Lane*> PyMem_RawCalloc(lanes + 1, sizeof(Lane))
    all.candidates = <Candidate*> PyMem_RawCalloc(candidates + 1, sizeof(Candidate))
    if all.lanes == NULL or all.candidates == NULL:
        raise MemoryError("no room for the flows of a forecast")
    return 0


cdef inline void forecast_close(Forecast* all) noexcept nogil:
    PyMem_RawFree(all.lanes)
    PyMem_RawFree(all.candidates)


cdef inline void _enter(Forecast* all, uint32_t of) noexcept nogil:
    cdef Candidate* candidate = &all.candidates[of]
    cdef Order order = Order(<char*> all.candidates, sizeof(Candidate), 0, candidate_is_before)
    candidate.key_ns = all.lanes[candidate.claims].claim_ns + candidate.handicap_ns
    pairing_push(&order, &all.best, of)


cdef inline void forecast_join(Forecast* all, uint32_t slot) noexcept nogil:
    """The lane of this slot, filled in, is one of its class."""
    cdef Lane* lane = &all.lanes[slot]
    cdef Order order = Order(<char*> all.lanes, sizeof(Lane), 0, lane_is_before)
    cdef Order claims = Order(<char*> all.lanes, sizeof(Lane), sizeof(Links), lane_claims_before)
    all.charges = max(all.charges, lane.charged)
    pairing_push(&order, &all.candidates[lane.of].lanes, slot)
    pairing_push(&claims, &all.candidates[lane.of].claims, slot)


cdef inline void forecast_start(Forecast* all, uint32_t candidates) noexcept nogil:
    cdef uint32_t of
    for of in range(1, candidates + 1):
        if all.candidates[of].lanes != 0:
            _enter(all, of)


cdef inline uint32_t forecast_first(const Forecast* all) noexcept nogil:
    """The lane that is served next; 0: none."""
    return 0 if all.best == 0 else all.candidates[all.best].lanes


cdef inline void _widen(Forecast* all, uint32_t of, int64_t units) noexcept nogil:
    """So much was charged in this class. Where its grades are wider now, its lanes are put in order
    anew."""
    cdef Candidate* candidate = &all.candidates[of]
    cdef Order order = Order(<char*> all.lanes, sizeof(Lane), 0, lane_is_before)
    cdef uint32_t rest = candidate.lanes
    cdef uint32_t each
    candidate.largest = max(candidate.largest, units)
    if candidate.width == width_of(all.grain_units, candidate.largest):
        return
    candidate.width = width_of(all.grain_units, candidate.largest)
    candidate.lanes = 0
    each = pairing_scatter(&order, &rest)
    while each != 0:
        all.lanes[each].grade = grade_of(all.lanes[each].counter, candidate.width)
        pairing_push(&order, &candidate.lanes, each)
        each = pairing_scatter(&order, &rest)


cdef inline void forecast_serve(
    Forecast* all, uint32_t request, int64_t stand_back_ns, int64_t now_ns
) noexcept nogil:
    """The first lane is served, and has `request` as its first from now on."""
    cdef uint32_t of = all.best
    cdef Candidate* candidate = &all.candidates[of]
    cdef uint32_t slot = candidate.lanes
    cdef Lane* lane = &all.lanes[slot]
    cdef Order classes = Order(<char*> all.candidates, sizeof(Candidate), 0, candidate_is_before)
    cdef Order lanes = Order(<char*> all.lanes, sizeof(Lane), 0, lane_is_before)
    pairing_remove(&classes, &all.best, of)
    cdef Order claims = Order(<char*> all.lanes, sizeof(Lane), sizeof(Links), lane_claims_before)
    pairing_remove(&lanes, &candidate.lanes, slot)
    cdef uint32_t oldest = candidate.claims
    pairing_remove(&claims, &candidate.claims, slot)
    if oldest != slot:
        pairing_remove(&claims, &candidate.claims, oldest)
        all.lanes[oldest].claim_ns = lane.claim_ns
        pairing_push(&claims, &candidate.claims, oldest)
    all.charges += 1
    lane.charged = all.charges
    lane.counter = min(lane.counter + lane.units, COUNTER_MAX)
    lane.stand_ns = now_ns + stand_back_ns if all.grain_units != 0 else 0
    _widen(all, of, lane.units)
    lane.grade = grade_of(lane.counter, candidate.width)
    lane.claim_ns = now_ns
    lane.request = request
    if request != 0:
        pairing_push(&lanes, &candidate.lanes, slot)
        pairing_push(&claims, &candidate.claims, slot)
    if candidate.lanes != 0:
        _enter(all, of)
