# cython: language_level=3
"""The memory of the virtual token counters, and what other modules of the package may call."""
cimport cython
from libc.math cimport isfinite
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from _sched.arena cimport Block, Blocks, block_at
from _sched.window cimport Place, Places, Window, window_widen

cdef enum:
    UNITS_PER_COST = 1000    # virtual units per unit of cost at weight 1
    OUT = 0                  # a flow that neither waits nor is parked
    ACTIVE = 1
    PARKED = 2
    NEVER = -1               # instead of a counter
    TIMES_MAX = 1024         # so that no width overflows

cdef extern from *:
    """
    #define COST_MAX (INT64_C(1) << 40)
    #define UNITS_MAX (INT64_C(1) << 60)
    #define COUNTER_MAX (INT64_C(1) << 62)
    """
    const int64_t COST_MAX       # far beyond any request, and exact in a double
    const int64_t UNITS_MAX      # what a charge amounts to at most, however small the weight
    const int64_t COUNTER_MAX    # where a counter stays, so that no sum overflows

cdef struct FlowCounter:
    Block block
    Place place              # in its class's window while it is active; parked, in that heap
    uint32_t of              # the class
    double weight
    uint32_t in_flight       # how many charges are not settled
    int64_t cost_in_flight   # what they add up to
    uint32_t owner           # whatever the caller keeps there
    uint8_t state

cdef struct CounterClass:
    Block block
    Window window            # its active flows
    uint32_t parked          # the heap of its parked ones, least counter first
    uint32_t last            # the flow that was the last to leave the active ones, while it is kept
    int64_t last_counter     # its counter when it was forgotten; NEVER: none has left yet
    int64_t largest          # what was charged at once at most
    uint32_t flows
    uint32_t actives
    uint32_t parks
    uint32_t in_flight       # charges that are not settled
    uint32_t doubles         # flows that have more than one of them


cdef inline int64_t units_of(int64_t cost, double weight) noexcept nogil:
    """Virtual units of a cost, truncated."""
    cdef double units = <double> (cost * UNITS_PER_COST) / weight
    return <int64_t> min(units, <double> UNITS_MAX)


cdef inline int check_weight(double weight) except -1:
    if not (weight > 0 and isfinite(weight)):
        raise ValueError(f"a weight must be positive and finite, not {weight}")
    return 0


cdef inline int64_t check_grain(int64_t grain) except -1:
    if not 0 <= grain <= COST_MAX:
        raise ValueError(f"a grain must be 0 to {COST_MAX}, not {grain}")
    return grain


cdef inline int check_cost(int64_t cost) except -1:
    if not 0 <= cost <= COST_MAX:
        raise ValueError(f"a cost must be 0 to {COST_MAX}, not {cost}")
    return 0


@cython.final
cdef class VirtualTokenCounters:
    cdef Blocks flows
    cdef Blocks classes
    cdef readonly uint32_t parked_max
    cdef int64_t grain_units     # how wide a window is at most; 0: there are none
    cdef uint64_t _sequence
    cdef uint64_t _charges
    cdef uint32_t _unchecked     # changes since the last check of a debug build

    cdef int reserve(self) except -1
    cdef uint32_t open(self) noexcept nogil
    cdef void close(self, uint32_t of) noexcept nogil
    cdef uint32_t add(self, uint32_t of, double weight) noexcept nogil
    cdef void drop(self, uint32_t slot) noexcept nogil
    cdef void enter(self, uint32_t slot, bint lift, int64_t stand_ns) noexcept nogil
    cdef void leave(self, uint32_t slot) noexcept nogil
    cdef void stand(self, uint32_t slot, int64_t stand_ns) noexcept nogil
    cdef void bill(self, uint32_t slot, int64_t cost, int64_t stand_ns) noexcept nogil
    cdef void end(self, uint32_t slot, int64_t charged, int64_t actual) noexcept nogil
    cdef void reweigh(self, uint32_t slot, double weight) noexcept nogil
    cdef void put_by(self, uint32_t slot) noexcept nogil
    cdef uint32_t spent(self, uint32_t of) noexcept nogil
    cdef void _rekey(self, uint32_t slot, int64_t counter, int64_t stand_ns) noexcept nogil
    cdef int64_t floor(self, uint32_t of) noexcept nogil
    cdef int _changed(self) except -1
    cdef int _check(self) except -1
    cdef int _check_class(self, uint32_t of) except -1


cdef inline FlowCounter* counter_at(VirtualTokenCounters all, uint32_t slot) noexcept nogil:
    return <FlowCounter*> block_at(&all.flows, slot)


cdef inline CounterClass* class_at(VirtualTokenCounters all, uint32_t slot) noexcept nogil:
    return <CounterClass*> block_at(&all.classes, slot)


cdef inline Places places_of(VirtualTokenCounters all) noexcept nogil:
    return Places(all.flows.memory + sizeof(Block), sizeof(FlowCounter))


cdef inline int64_t times_of(uint32_t in_flight, uint32_t doubles) noexcept nogil:
    """How many of the largest charges a window holds: as many as leave the promise of fairness,
    which grows with what is in flight, true whatever flows have of that (docs/scheduling.md)."""
    return 1 if doubles != 0 or in_flight < 2 else min(in_flight - 1, <uint32_t> TIMES_MAX)


cdef inline int64_t width_of(int64_t grain_units, int64_t largest, int64_t times) noexcept nogil:
    """So many of the largest charge, and the grain at most."""
    if largest >= grain_units:
        return grain_units
    return min(grain_units, max(largest, <int64_t> 1) * times)


cdef inline void rewiden(VirtualTokenCounters all, uint32_t slot) noexcept nogil:
    """The window of a class is as wide as it should be."""
    cdef CounterClass* of = class_at(all, slot)
    cdef Places places = places_of(all)
    cdef int64_t times = times_of(of.in_flight, of.doubles)
    window_widen(&places, &of.window, width_of(all.grain_units, of.largest, times))


cdef inline void flies(
    VirtualTokenCounters all, FlowCounter* flow, int by, int64_t units
) noexcept nogil:
    """One more of this flow is in flight (`by` 1), or one less (-1): a charge of so much."""
    cdef CounterClass* of = class_at(all, flow.of)
    of.in_flight += by
    if flow.in_flight == 2 and by == 1:
        of.doubles += 1
    elif flow.in_flight == 1 and by == -1:
        of.doubles -= 1
    of.largest = max(of.largest, units)
    rewiden(all, flow.of)


cdef inline void forget(VirtualTokenCounters all, uint32_t slot) noexcept nogil:
    """A flow that is in no heap is no more of its class."""
    cdef FlowCounter* flow = counter_at(all, slot)
    cdef CounterClass* of = class_at(all, flow.of)
    if of.last == slot:
        of.last = 0
        of.last_counter = flow.place.counter
    of.flows -= 1
    of.in_flight -= flow.in_flight
    of.doubles -= flow.in_flight > 1
    rewiden(all, flow.of)
