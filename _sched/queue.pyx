# cython: language_level=3
"""The queue: which request of a group is next, by class, by agent, by rank.

First which class (a priority and a compartment), the one with the oldest claim, handicaps counted;
then which agent of it: of those whose virtual token counters are about the least the one with the
oldest head, sizes considered; then which of its requests, the lowest rank. `reference_queue.py`
says the same in plain Python and is the specification.

All sums that are asked for are kept in the books: nothing here looks at a backlog. What Python code
could run in between (an allocation may collect garbage, a conversion may call `__index__`) runs
before anything is changed, or after all of it.
"""
cimport cython
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from _sched.arena cimport (
    blocks_give_back, blocks_reserve, blocks_take, handle_of, next_handle, slot_of,
)
from _sched.books cimport (
    COMPARTMENT_MAX, Request, agent_at, by_rank, class_at, flow_at, group_at, request_at,
)
from _sched.forecast cimport (
    Candidate, forecast_close, forecast_open, forecast_start, forecast_widen,
)
from _sched.lanes cimport copy_flows, tell, times_at
from _sched.pairing cimport Order, pairing_walk
from _sched.vtc cimport check_cost, check_weight, counter_at
from _sched.vtc cimport class_at as counters_at

cdef extern from *:
    """
    #define TIME_NS_MAX (INT64_C(1) << 62)
    #define HANDICAP_NS_MAX (INT64_C(1) << 54)
    """
    const int64_t TIME_NS_MAX  # a century and a half, so that no order key overflows
    const int64_t HANDICAP_NS_MAX

cdef enum:
    PRIORITY_MAX = 255


@cython.final
cdef class FairQueue(Books):
    """Requests by handle: who is next, who would be missed least, how many wait and how long."""

    def __init__(self, handicap_ns_per_priority, parked_max=1024, grain=0):
        self.handicap_ns_per_priority = handicap_ns_per_priority

    def __len__(self):
        return self.request_blocks.live

    @property
    def handicap_ns_per_priority(self):
        return self.handicap_ns

    @handicap_ns_per_priority.setter
    def handicap_ns_per_priority(self, int64_t handicap_ns):
        self.handicap_ns = _check_handicap(handicap_ns)

    @property
    def grain(self):
        return self.counters.grain

    @grain.setter
    def grain(self, grain):
        self.counters.grain = grain
        self.changed()

    def add_agent(self, double weight):
        """A new agent."""
        check_weight(weight)
        blocks_reserve(&self.agent_blocks)
        cdef object handle = next_handle(&self.agent_blocks)
        self.add_agent_at(blocks_take(&self.agent_blocks), weight)
        self.changed()
        return handle

    def remove_agent(self, uint64_t agent):
        """Forgets an agent. False where it has something waiting or in flight, or is unknown."""
        cdef uint32_t slot = slot_of(&self.agent_blocks, agent)
        if slot == 0 or agent_at(self, slot).backlog != 0:
            return False
        cdef uint32_t flow = agent_at(self, slot).flows
        while flow != 0:
            if counter_at(self.counters, flow_at(self, flow).counter).in_flight != 0:
                return False
            flow = flow_at(self, flow).next_of_agent
        self.drop_agent(slot)
        self.changed()
        return True

    def set_weight(self, uint64_t agent, double weight):
        """What is charged, settled or in flight counts by this weight from now on."""
        check_weight(weight)
        cdef uint32_t slot = slot_of(&self.agent_blocks, agent)
        if slot == 0:
            return False
        agent_at(self, slot).weight = weight
        cdef uint32_t flow = agent_at(self, slot).flows
        while flow != 0:
            self.counters.reweigh(flow_at(self, flow).counter, weight)
            flow = flow_at(self, flow).next_of_agent
        self.changed()
        return True

    def pause(self, uint64_t agent, bint paused):
        """Nothing of a paused agent is a candidate. What returns is lifted, as after idling."""
        cdef uint32_t slot = slot_of(&self.agent_blocks, agent)
        if slot == 0:
            return False
        cdef uint32_t flow = agent_at(self, slot).flows
        if agent_at(self, slot).paused != paused:
            agent_at(self, slot).paused = paused
            while flow != 0:
                self.set_eligible(flow, not paused)
                flow = flow_at(self, flow).next_of_agent
            self.changed()
        return True

    def backlog(self, uint64_t agent):
        """How many of this agent wait."""
        cdef uint32_t slot = slot_of(&self.agent_blocks, agent)
        return 0 if slot == 0 else agent_at(self, slot).backlog

    def largest_backlog(self):
        """(agent, how many wait) of the largest; the newest agent among equals."""
        if self.by_backlog == 0:
            return None
        cdef uint64_t handle = handle_of(&self.agent_blocks, self.by_backlog)
        return handle, agent_at(self, self.by_backlog).backlog

    def worst(self, uint64_t agent):
        """What this agent would miss least: its worst priority, of that the last. 0: none."""
        cdef uint32_t slot = slot_of(&self.agent_blocks, agent)
        if slot == 0 or agent_at(self, slot).requests == 0:
            return 0
        return handle_of(&self.request_blocks, agent_at(self, slot).requests)

    def open_group(self):
        """A new group."""
        blocks_reserve(&self.group_blocks)
        cdef object handle = next_handle(&self.group_blocks)
        blocks_take(&self.group_blocks)
        return handle

    def close_group(self, uint64_t group):
        """Forgets a group. False while something of it waits or is in flight."""
        cdef uint32_t slot = slot_of(&self.group_blocks, group)
        if slot == 0 or group_at(self, slot).classes != 0:
            return False
        blocks_give_back(&self.group_blocks, slot)
        return True

    def size(self, uint64_t group):
        """How many wait, those of paused agents too."""
        return group_at(self, self._group(group)).size

    def demand(self, uint64_t group, uint64_t closed, int64_t now_ns):
        """(how many, their waits in ns added up) of what may run."""
        cdef uint32_t of = self._open(group_at(self, self._group(group)).classes, closed)
        cdef uint64_t requests = 0
        cdef uint64_t arrivals_ns = 0
        while of != 0:
            requests += class_at(self, of).eligible
            arrivals_ns += class_at(self, of).arrivals_ns
            of = self._open(class_at(self, of).next_of_group, closed)
        return requests, <int64_t> (requests * <uint64_t> now_ns - arrivals_ns)

    def push(self, uint64_t group, long priority, long compartment, uint64_t agent, int64_t rank,
             int64_t arrived_ns, int64_t now_ns, int64_t head_since_ns=-1,
             int64_t stand_back_ns=0, bint lift=False):
        """Adds a request and returns its handle."""
        _check_time(max(now_ns, head_since_ns))
        _check_time(now_ns)
        _check_handicap(stand_back_ns)
        if not (1 <= priority <= PRIORITY_MAX and 0 <= compartment <= COMPARTMENT_MAX):
            raise ValueError(f"no such class: priority {priority}, compartment {compartment}")
        cdef uint32_t in_group = self._group(group)
        cdef uint32_t owner = slot_of(&self.agent_blocks, agent)
        if owner == 0:
            raise KeyError(agent)
        self.reserve()
        # First, as a handle that cannot be told would be lost.
        cdef object handle = next_handle(&self.request_blocks)
        cdef uint32_t slot = blocks_take(&self.request_blocks)
        cdef Request* request = request_at(self, slot)
        cdef uint32_t flow = self.flow_of(in_group, priority, compartment, owner)
        request.flow = flow
        request.priority = <uint8_t> priority
        request.rank = rank
        request.arrived_ns = arrived_ns
        request.stand_back_ns = stand_back_ns
        self.sequence += 1
        request.sequence = self.sequence
        self.put_in(slot, now_ns, head_since_ns, lift or head_since_ns < 0)
        self.changed()
        return handle

    def take(self, uint64_t entry, int64_t cost, int64_t now_ns):
        """Takes a request out to serve it and charges its agent: (flow, since when it was head)."""
        check_cost(cost)
        _check_time(now_ns)
        cdef uint32_t slot = slot_of(&self.request_blocks, entry)
        if slot == 0:
            return None
        cdef uint32_t flow = request_at(self, slot).flow
        cdef uint64_t flow_handle = handle_of(&self.flow_blocks, flow)
        is_head = flow_at(self, flow).requests == slot
        taken = flow_handle, flow_at(self, flow).head_since_ns if is_head else now_ns
        # The tuple comes first, as what cannot be told must not happen; but it may have collected
        # garbage, and a finalizer may have called us.
        if slot_of(&self.request_blocks, entry) == 0:
            return None
        self.use_claim(flow)
        self.take_out(slot, now_ns)
        self.counters.bill(flow_at(self, flow).counter, cost, self.stand_ns(flow))
        class_at(self, flow_at(self, flow).of).busy += 1
        self.let_go(flow)
        self.changed()
        return taken

    def settle(self, uint64_t flow, int64_t charged, int64_t actual):
        """What was taken from this flow is over: it cost `actual` instead of `charged`."""
        check_cost(charged)
        check_cost(actual)
        cdef uint32_t slot = slot_of(&self.flow_blocks, flow)
        if slot == 0 or counter_at(self.counters, flow_at(self, slot).counter).in_flight == 0:
            return False
        self.counters.end(flow_at(self, slot).counter, charged, actual)
        class_at(self, flow_at(self, slot).of).busy -= 1
        self.let_go(slot)
        self.changed()
        return True

    def remove(self, uint64_t entry, int64_t now_ns):
        """A request leaves from wherever it stands. False where the handle is stale."""
        _check_time(now_ns)
        cdef uint32_t slot = slot_of(&self.request_blocks, entry)
        if slot == 0:
            return False
        cdef uint32_t flow = request_at(self, slot).flow
        self.take_out(slot, now_ns)
        self.counters.stand(flow_at(self, flow).counter, self.stand_ns(flow))
        self.let_go(flow)
        self.changed()
        return True

    def ease(self, uint64_t entry, int64_t stand_back_ns):
        """A request stands back by no more than this from now on. False where it is stale."""
        _check_handicap(stand_back_ns)
        cdef uint32_t slot = slot_of(&self.request_blocks, entry)
        if slot != 0 and stand_back_ns < request_at(self, slot).stand_back_ns:
            request_at(self, slot).stand_back_ns = stand_back_ns
            slot = request_at(self, slot).flow
            self.counters.stand(flow_at(self, slot).counter, self.stand_ns(slot))
            self.changed()
        return slot != 0

    def head_since(self, uint64_t entry):
        """Since when it is its agent's head; -1 where it is not, or the handle is stale."""
        cdef uint32_t slot = slot_of(&self.request_blocks, entry)
        if slot == 0 or flow_at(self, request_at(self, slot).flow).requests != slot:
            return -1
        return flow_at(self, request_at(self, slot).flow).head_since_ns

    def best(self, uint64_t group, uint64_t closed):
        """(order key in ns, priority, request) of what is next, what is closed left out."""
        cdef uint32_t of = self._open(group_at(self, self._group(group)).classes, closed)
        cdef uint32_t best = 0
        while of != 0:
            if class_at(self, of).eligible != 0 and (best == 0 or self.comes_before(of, best)):
                best = of
            of = self._open(class_at(self, of).next_of_group, closed)
        if best == 0:
            return None
        cdef uint32_t head = flow_at(self, self.candidate(best)).requests
        cdef uint64_t handle = handle_of(&self.request_blocks, head)
        return self.key_ns(best), class_at(self, best).priority, handle

    def forward(self, groups, int64_t cost, int64_t now_ns, Py_ssize_t limit, uint64_t closed=0):
        """The first `limit` requests of these groups as they would be taken from now on."""
        check_cost(cost)
        _check_time(now_ns)
        cdef list known = list({<uint64_t> each for each in groups})
        cdef Forecast forecast
        cdef uint64_t* handles = NULL
        cdef size_t served = self._weigh(known, closed, &forecast)
        cdef size_t place
        served = min(served, <size_t> max(limit, <Py_ssize_t> 0))
        try:
            handles = <uint64_t*> PyMem_RawMalloc((served + 1) * sizeof(uint64_t))
            if handles == NULL:
                raise MemoryError("no room for the handles of a forecast")
            self._serve(known, closed, &forecast, cost)
            tell(self, &forecast, handles, served, now_ns)
            return [handles[place] for place in range(served)]
        finally:
            forecast_close(&forecast)
            PyMem_RawFree(handles)

    def counter_of(self, uint64_t group, long priority, long compartment, uint64_t agent):
        """The virtual token counter of an agent in a class; None where none is kept."""
        cdef uint32_t flow = self._flow(group, priority, compartment, agent)
        if flow == 0:
            return None
        return counter_at(self.counters, flow_at(self, flow).counter).place.counter

    def waiting_of(self, uint64_t group, long priority, long compartment, uint64_t agent):
        """How many requests of an agent wait in a class."""
        cdef uint32_t flow = self._flow(group, priority, compartment, agent)
        return 0 if flow == 0 else flow_at(self, flow).size

    def standing_of(self, uint64_t group, long priority, long compartment, uint64_t agent,
                    int64_t stand_ns):
        """How many of those came by then, counted as later as they stand back."""
        cdef uint32_t flow = self._flow(group, priority, compartment, agent)
        cdef uint32_t slot = 0 if flow == 0 else flow_at(self, flow).requests
        cdef Order order = by_rank(self)
        cdef uint32_t count = 0
        while slot != 0:
            if request_at(self, slot).arrived_ns + request_at(self, slot).stand_back_ns <= stand_ns:
                count += 1
            slot = pairing_walk(&order, slot)
        return count

    def flows(self):
        """How many flows are kept, the idle ones too."""
        return self.flow_blocks.live

    cdef uint32_t _group(self, uint64_t handle) except 0:
        cdef uint32_t slot = slot_of(&self.group_blocks, handle)
        if slot == 0:
            raise KeyError(handle)
        return slot

    cdef uint32_t _flow(
        self, uint64_t group, long priority, long compartment, uint64_t agent
    ) except? 0:
        """The flow of an agent in a class; 0: none is kept."""
        cdef uint32_t in_group = self._group(group)
        cdef uint32_t owner = slot_of(&self.agent_blocks, agent)
        return 0 if owner == 0 else self.find_flow(in_group, priority, compartment, owner)

    cdef uint32_t _open(self, uint32_t of, uint64_t closed) noexcept nogil:
        """This class of a group, or the next that is not closed; 0: none."""
        while of != 0 and closed & class_at(self, of).bits:
            of = class_at(self, of).next_of_group
        return of

    cdef size_t _weigh(self, list groups, uint64_t closed, Forecast* forecast) except? 0:
        """Opens a forecast with room for these groups; how many requests it is of."""
        cdef size_t lanes = 0
        cdef size_t candidates = 0
        cdef size_t eligible = 0
        cdef uint32_t of
        for group in groups:
            of = self._open(group_at(self, self._group(group)).classes, closed)
            while of != 0:
                candidates += 1
                lanes += counters_at(self.counters, class_at(self, of).counters).actives
                eligible += class_at(self, of).eligible
                of = self._open(class_at(self, of).next_of_group, closed)
        forecast_open(forecast, lanes, candidates, self.counters.grain_units)
        return eligible

    cdef int _serve(
        self, list groups, uint64_t closed, Forecast* forecast, int64_t cost
    ) except -1:
        """Copies all classes of these groups and their active flows."""
        cdef uint32_t of
        cdef uint32_t candidates = 0
        cdef uint32_t lanes = 0
        cdef Candidate* candidate
        for group in groups:
            of = self._open(group_at(self, self._group(group)).classes, closed)
            while of != 0:
                candidates += 1
                candidate = &forecast.candidates[candidates]
                candidate.priority = class_at(self, of).priority
                candidate.sequence = class_at(self, of).sequence
                candidate.largest = counters_at(self.counters, class_at(self, of).counters).largest
                forecast_widen(forecast, candidates, times_at(self, of))
                candidate.handicap_ns = (candidate.priority - 1) * self.handicap_ns
                lanes = copy_flows(self, of, forecast, candidates, lanes, cost)
                of = self._open(class_at(self, of).next_of_group, closed)
        forecast_start(forecast, candidates)
        return 0


cdef int64_t _check_handicap(int64_t handicap_ns) except -1:
    if not 0 <= handicap_ns <= HANDICAP_NS_MAX:
        raise ValueError(f"a handicap must be 0 to {HANDICAP_NS_MAX} ns, not {handicap_ns}")
    return handicap_ns


cdef int _check_time(int64_t now_ns) except -1:
    if not 0 <= now_ns <= TIME_NS_MAX:
        raise ValueError(f"a time must be 0 to {TIME_NS_MAX} ns, not {now_ns}")
    return 0
