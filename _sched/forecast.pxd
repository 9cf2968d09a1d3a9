# cython: language_level=3
"""What would be served next, and after that, if nobody else came: a copy of the flows at play.

Numbers are copied, requests are not: a lane knows its first one only, and is told the next.
"""
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from _sched.pairing cimport Links, Order, pairing_push, pairing_remove
from _sched.vtc cimport COUNTER_MAX, width_of
from _sched.window cimport (
    Place, Places, Window, window_put, window_take, window_widen,
)

cdef struct Lane:            # a flow
    Place place              # in the window of its class
    Links claim_links        # in its class's other heap: the oldest claim first
    uint32_t of
    uint32_t request         # its first; 0: none is left
    int64_t units            # what one more request adds to the counter
    int64_t claim_ns
    uint64_t owner           # breaks ties of claims: the older flow first

cdef struct Candidate:       # a class
    Links links
    Window window            # the lanes that have something
    uint32_t claims          # the heap of the same, by their claims
    uint8_t priority
    int64_t largest          # what was charged at once at most
    int64_t times            # how many of these the window holds
    int64_t handicap_ns
    int64_t key_ns
    uint64_t sequence

cdef struct Forecast:
    Lane* lanes
    Candidate* candidates
    uint32_t best            # the heap of candidates
    uint64_t charges
    int64_t grain_units      # how wide a window is at most; 0: there are none


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


cdef inline Order _claims(Forecast* all) noexcept nogil:
    cdef size_t links_at = <size_t> (<char*> &all.lanes.claim_links - <char*> all.lanes)
    return Order(<char*> all.lanes, sizeof(Lane), links_at, lane_claims_before)


cdef inline Places _places(Forecast* all) noexcept nogil:
    return Places(<char*> all.lanes, sizeof(Lane))


cdef inline void forecast_widen(Forecast* all, uint32_t of, int64_t times) noexcept nogil:
    """The window of this class holds so many of the largest charges."""
    cdef Places places = _places(all)
    cdef Candidate* candidate = &all.candidates[of]
    candidate.times = times
    window_widen(&places, &candidate.window, width_of(all.grain_units, candidate.largest, times))


cdef inline void forecast_join(Forecast* all, uint32_t slot) noexcept nogil:
    """The lane of this slot, filled in, is one of its class."""
    cdef Lane* lane = &all.lanes[slot]
    cdef Places places = _places(all)
    cdef Order claims = _claims(all)
    all.charges = max(all.charges, lane.place.charged)
    window_put(&places, &all.candidates[lane.of].window, slot)
    pairing_push(&claims, &all.candidates[lane.of].claims, slot)


cdef inline void forecast_start(Forecast* all, uint32_t candidates) noexcept nogil:
    cdef uint32_t of
    for of in range(1, candidates + 1):
        if all.candidates[of].claims != 0:
            _enter(all, of)


cdef inline uint32_t forecast_first(const Forecast* all) noexcept nogil:
    """The lane that is served next; 0: none."""
    return 0 if all.best == 0 else all.candidates[all.best].window.next


cdef inline void forecast_serve(
    Forecast* all, uint32_t request, int64_t stand_back_ns, int64_t now_ns
) noexcept nogil:
    """The first lane is served, and has `request` as its first from now on."""
    cdef uint32_t of = all.best
    cdef Candidate* candidate = &all.candidates[of]
    cdef uint32_t slot = candidate.window.next
    cdef Lane* lane = &all.lanes[slot]
    cdef Order classes = Order(<char*> all.candidates, sizeof(Candidate), 0, candidate_is_before)
    cdef Order claims = _claims(all)
    cdef Places places = _places(all)
    cdef uint32_t oldest = candidate.claims
    pairing_remove(&classes, &all.best, of)
    window_take(&places, &candidate.window, slot)
    pairing_remove(&claims, &candidate.claims, slot)
    if oldest != slot:
        pairing_remove(&claims, &candidate.claims, oldest)
        all.lanes[oldest].claim_ns = lane.claim_ns
        pairing_push(&claims, &candidate.claims, oldest)
    all.charges += 1
    lane.place.charged = all.charges
    lane.place.counter = min(lane.place.counter + lane.units, COUNTER_MAX)
    lane.place.stand_ns = now_ns + stand_back_ns
    lane.claim_ns = now_ns
    lane.request = request
    candidate.largest = max(candidate.largest, lane.units)
    forecast_widen(all, of, candidate.times)
    if request != 0:
        window_put(&places, &candidate.window, slot)
        pairing_push(&claims, &candidate.claims, slot)
    if candidate.claims != 0:
        _enter(all, of)
