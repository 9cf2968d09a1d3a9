# cython: language_level=3
"""Between the books and a forecast: the flows of a class as lanes, and whom the forecast serves."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from _sched.arena cimport handle_of
from _sched.books cimport Books, by_rank, class_at, flow_at, request_at
from _sched.forecast cimport Forecast, Lane, forecast_first, forecast_join, forecast_serve
from _sched.pairing cimport Order, pairing_after, pairing_walk
from _sched.vtc cimport CounterClass, FlowCounter, counter_at, places_of, times_of, units_of
from _sched.vtc cimport class_at as counters_at
from _sched.window cimport Places, least_order


cdef inline int64_t times_at(Books all, uint32_t of) noexcept nogil:
    """How many of the largest charges the window of a class holds."""
    cdef CounterClass* found = counters_at(all.counters, class_at(all, of).counters)
    return times_of(found.in_flight, found.doubles)


cdef inline uint32_t copy_flows(
    Books all, uint32_t of, Forecast* forecast, uint32_t candidate, uint32_t lanes, int64_t cost
) noexcept nogil:
    """Copies the active flows of a class behind these lanes, the least served first, so that their
    window need not slide back; how many there are now."""
    cdef Places places = places_of(all.counters)
    cdef Order order = least_order(&places)
    cdef uint32_t each = counters_at(all.counters, class_at(all, of).counters).window.least
    cdef FlowCounter* counter
    cdef Lane* lane
    while each != 0:
        lanes += 1
        lane = &forecast.lanes[lanes]
        counter = counter_at(all.counters, each)
        lane.of = candidate
        lane.place.counter = counter.place.counter
        lane.place.stand_ns = counter.place.stand_ns
        lane.place.charged = counter.place.charged
        lane.place.sequence = counter.place.sequence
        lane.units = units_of(cost, counter.weight)
        lane.claim_ns = flow_at(all, counter.owner).claim_ns
        lane.owner = flow_at(all, counter.owner).sequence
        lane.request = flow_at(all, counter.owner).requests
        forecast_join(forecast, lanes)
        each = pairing_walk(&order, each)
    return lanes


cdef inline void tell(
    Books all, Forecast* forecast, uint64_t* handles, size_t served, int64_t now_ns
) noexcept nogil:
    """Runs a forecast and writes down whom it serves."""
    cdef Order order = by_rank(all)
    cdef uint32_t request
    cdef int64_t stand_back_ns
    cdef size_t place
    for place in range(served):
        request = forecast.lanes[forecast_first(forecast)].request
        handles[place] = handle_of(&all.request_blocks, request)
        request = pairing_after(&order, request)
        stand_back_ns = request_at(all, request).stand_back_ns if request != 0 else 0
        forecast_serve(forecast, request, stand_back_ns, now_ns)
