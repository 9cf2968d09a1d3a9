# cython: language_level=3
"""What the queue keeps: requests, flows, agents, classes and groups, and the sums over them.

All by slot; handles are the business of `queue.pyx`. A request lies in two heaps, that of its flow
and that of its agent. A flow is active among the counters, and has a claim in its class, where
something of it waits and its agent is not paused; it is parked where it idles.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from _sched.arena cimport (
    blocks_close, blocks_give_back, blocks_open, blocks_reserve, blocks_take, bytes_held,
    slot_is_live,
)
from _sched.pairing cimport check_order, pairing_push, pairing_remove, pairing_walk
from _sched.types cimport SCHED_CHECKS, SLOTS_MAX
from _sched.vtc cimport ACTIVE, OUT, PARKED, counter_at
from _sched.vtc cimport class_at as counters_at


cdef class Books:
    """The memory of a `FairQueue`, and the laws that hold in it."""

    def __cinit__(self, handicap_ns_per_priority, uint32_t parked_max=1024, int64_t grain=0):
        blocks_open(&self.request_blocks, sizeof(Request), SLOTS_MAX)
        blocks_open(&self.flow_blocks, sizeof(Flow), SLOTS_MAX)
        blocks_open(&self.class_blocks, sizeof(Class), SLOTS_MAX)
        blocks_open(&self.agent_blocks, sizeof(Agent), SLOTS_MAX)
        blocks_open(&self.group_blocks, sizeof(Group), SLOTS_MAX)
        self.counters = VirtualTokenCounters(parked_max, grain)

    def __dealloc__(self):
        blocks_close(&self.request_blocks)
        blocks_close(&self.flow_blocks)
        blocks_close(&self.class_blocks)
        blocks_close(&self.agent_blocks)
        blocks_close(&self.group_blocks)

    def __sizeof__(self):
        return (type(self).__basicsize__ + self.counters.__sizeof__()
                + bytes_held(&self.request_blocks) + bytes_held(&self.flow_blocks)
                + bytes_held(&self.class_blocks) + bytes_held(&self.agent_blocks)
                + bytes_held(&self.group_blocks))

    def check(self):
        """Raises AssertionError where an inner law is broken. O(n)."""
        self._check()

    cdef int reserve(self) except -1:
        """One more of everything but agents and groups will find room."""
        blocks_reserve(&self.request_blocks)
        blocks_reserve(&self.flow_blocks)
        blocks_reserve(&self.class_blocks)
        return self.counters.reserve()

    cdef void add_agent_at(self, uint32_t slot, double weight) noexcept nogil:
        cdef Agent* agent = agent_at(self, slot)
        cdef Order order = agents_by_backlog(self)
        self.sequence += 1
        agent.sequence = self.sequence
        agent.weight = weight
        pairing_push(&order, &self.by_backlog, slot)

    cdef void drop_agent(self, uint32_t slot) noexcept nogil:
        """Forgets an agent of which nothing waits or is in flight."""
        cdef Order order = agents_by_backlog(self)
        while agent_at(self, slot).flows != 0:
            self._drop(agent_at(self, slot).flows)
        pairing_remove(&order, &self.by_backlog, slot)
        blocks_give_back(&self.agent_blocks, slot)

    cdef uint32_t find_flow(self, uint32_t group, long priority, long compartment,
                            uint32_t agent) noexcept nogil:
        cdef uint32_t slot = agent_at(self, agent).flows
        cdef uint32_t of
        while slot != 0:
            of = flow_at(self, slot).of
            if class_at(self, of).group == group and self._is_class(of, priority, compartment):
                return slot
            slot = flow_at(self, slot).next_of_agent
        return 0

    cdef bint _is_class(self, uint32_t of, long priority, long compartment) noexcept nogil:
        return (class_at(self, of).priority == priority
                and class_at(self, of).compartment == compartment)

    cdef uint32_t flow_of(self, uint32_t group, long priority, long compartment,
                          uint32_t agent) noexcept nogil:
        """The flow of an agent in a class; both are made where they are missing."""
        cdef uint32_t of = group_at(self, group).classes
        cdef uint32_t slot = self.find_flow(group, priority, compartment, agent)
        if slot != 0:
            return slot
        while of != 0 and not self._is_class(of, priority, compartment):
            of = class_at(self, of).next_of_group
        if of == 0:
            of = self._open_class(group, priority, compartment)
        slot = blocks_take(&self.flow_blocks)
        cdef Flow* flow = flow_at(self, slot)
        flow.counter = self.counters.add(class_at(self, of).counters, agent_at(self, agent).weight)
        counter_at(self.counters, flow.counter).owner = slot
        self.sequence += 1
        flow.sequence = self.sequence
        flow.agent = agent
        flow.of = of
        flow.next_of_agent = agent_at(self, agent).flows
        if flow.next_of_agent != 0:
            flow_at(self, flow.next_of_agent).prev_of_agent = slot
        agent_at(self, agent).flows = slot
        return slot

    cdef int64_t stand_ns(self, uint32_t flow) noexcept nogil:
        """How old what is first of a flow counts as, its size considered; 0 where nothing is."""
        cdef Flow* found = flow_at(self, flow)
        if found.requests == 0:
            return 0
        return found.head_since_ns + request_at(self, found.requests).stand_back_ns

    cdef void put_in(
        self, uint32_t slot, int64_t now_ns, int64_t head_since_ns, bint lift
    ) noexcept nogil:
        """A request whose fields are filled in begins to wait. `head_since_ns` of at least 0: it
        comes back, or from another group, and was its flow's head since then."""
        cdef Request* request = request_at(self, slot)
        cdef Flow* flow = flow_at(self, request.flow)
        cdef Agent* agent = agent_at(self, flow.agent)
        cdef Order order = by_rank(self)
        cdef Order worst = by_badness(self)
        pairing_push(&order, &flow.requests, slot)
        if flow.requests == slot:
            self.set_head_since(request.flow, now_ns if head_since_ns < 0 else head_since_ns)
        if flow.size == 0 and agent.paused:
            self.counters.leave(flow.counter)
        elif flow.size == 0:
            self.activate(request.flow, lift)
        elif flow.requests == slot:
            self.counters.stand(flow.counter, self.stand_ns(request.flow))
        pairing_push(&worst, &agent.requests, slot)
        self._count(slot, 1)

    cdef void take_out(self, uint32_t slot, int64_t now_ns) noexcept nogil:
        """A request waits no longer; its slot is free. That the counters hear of the stand of what
        is now first of its flow, and `let_go`, are to follow."""
        cdef Request* request = request_at(self, slot)
        cdef Flow* flow = flow_at(self, request.flow)
        cdef Order order = by_rank(self)
        cdef Order worst = by_badness(self)
        if flow.requests == slot:
            self.set_head_since(request.flow, now_ns)
        pairing_remove(&order, &flow.requests, slot)
        pairing_remove(&worst, &agent_at(self, flow.agent).requests, slot)
        self._count(slot, -1)
        if flow.size == 0:
            self.deactivate(request.flow)
        blocks_give_back(&self.request_blocks, slot)

    cdef void set_eligible(self, uint32_t flow, bint eligible) noexcept nogil:
        """What waits of a flow may be served from now on, or may not."""
        cdef Flow* found = flow_at(self, flow)
        cdef Class* of = class_at(self, found.of)
        if found.size != 0 and eligible:
            of.eligible += found.size
            of.arrivals_ns += found.arrivals_ns
            self.activate(flow, True)
        elif found.size != 0:
            of.eligible -= found.size
            of.arrivals_ns -= found.arrivals_ns
            self.deactivate(flow)

    cdef void activate(self, uint32_t flow, bint lift) noexcept nogil:
        cdef Order order = by_claim(self)
        self.counters.enter(flow_at(self, flow).counter, lift, self.stand_ns(flow))
        pairing_push(&order, &class_at(self, flow_at(self, flow).of).claims, flow)

    cdef void deactivate(self, uint32_t flow) noexcept nogil:
        cdef Order order = by_claim(self)
        if counter_at(self.counters, flow_at(self, flow).counter).state == ACTIVE:
            pairing_remove(&order, &class_at(self, flow_at(self, flow).of).claims, flow)
        self.counters.leave(flow_at(self, flow).counter)

    cdef void set_head_since(self, uint32_t flow, int64_t head_since_ns) noexcept nogil:
        flow_at(self, flow).head_since_ns = head_since_ns
        self._claim(flow, head_since_ns)

    cdef void use_claim(self, uint32_t flow) noexcept nogil:
        """A turn of its class goes to this flow and uses up the oldest claim; whose that was has
        this one's instead, so that an old head which is not due gives its class one turn."""
        if counter_at(self.counters, flow_at(self, flow).counter).state == ACTIVE:
            self._claim(class_at(self, flow_at(self, flow).of).claims, flow_at(self, flow).claim_ns)

    cdef void _claim(self, uint32_t flow, int64_t claim_ns) noexcept nogil:
        cdef Order order = by_claim(self)
        cdef Flow* found = flow_at(self, flow)
        cdef bint is_active = counter_at(self.counters, found.counter).state == ACTIVE
        cdef uint32_t* claims = &class_at(self, found.of).claims
        if is_active:
            pairing_remove(&order, claims, flow)
        found.claim_ns = claim_ns
        if is_active:
            pairing_push(&order, claims, flow)

    cdef void let_go(self, uint32_t flow) noexcept nogil:
        """Forgets idle flows whose counters a lift would give them anyway, and a class of which
        nothing waits or is in flight: its busy period is over, and all start alike in the next."""
        cdef Flow* found = flow_at(self, flow)
        cdef Class* of = class_at(self, found.of)
        if found.size == 0 and counter_at(self.counters, found.counter).in_flight == 0:
            self.counters.put_by(found.counter)
        if of.busy == 0:
            self._end_class(found.of)
            return
        cdef uint32_t spent = self.counters.spent(of.counters)
        while spent != 0:
            self._drop(counter_at(self.counters, spent).owner)
            spent = self.counters.spent(of.counters)

    cdef uint32_t candidate(self, uint32_t of) noexcept nogil:
        """The flow of a class that is served next; 0: none."""
        cdef uint32_t first = counters_at(self.counters, class_at(self, of).counters).window.next
        return 0 if first == 0 else counter_at(self.counters, first).owner

    cdef int64_t key_ns(self, uint32_t of) noexcept nogil:
        """The order key of a class that has a candidate: its oldest claim, handicapped. By that of
        the candidate, newcomers served least would keep the class young."""
        cdef int64_t handicap_ns = (class_at(self, of).priority - 1) * self.handicap_ns
        return flow_at(self, class_at(self, of).claims).claim_ns + handicap_ns

    cdef bint comes_before(self, uint32_t of, uint32_t other) noexcept nogil:
        cdef Class* x = class_at(self, of)
        cdef Class* y = class_at(self, other)
        if self.key_ns(of) != self.key_ns(other):
            return self.key_ns(of) < self.key_ns(other)
        return x.sequence < y.sequence if x.priority == y.priority else x.priority < y.priority

    cdef int changed(self) except -1:
        if SCHED_CHECKS:
            self._unchecked += 1
            if self._unchecked > (self.request_blocks.live + self.agent_blocks.live) >> 8:
                self._unchecked = 0
                self._check()
        return 0

    cdef uint32_t _open_class(self, uint32_t group, long priority, long compartment) noexcept nogil:
        cdef uint32_t slot = blocks_take(&self.class_blocks)
        cdef Class* of = class_at(self, slot)
        self.sequence += 1
        of.sequence = self.sequence
        of.counters = self.counters.open()
        of.group = group
        of.priority = <uint8_t> priority
        of.compartment = <uint8_t> compartment
        of.bits = <uint64_t> 1 << compartment
        if priority <= PRIORITY_BITS:
            of.bits |= <uint64_t> 1 << (COMPARTMENT_MAX + priority)
        of.next_of_group = group_at(self, group).classes
        group_at(self, group).classes = slot
        return slot

    cdef void _end_class(self, uint32_t of) noexcept nogil:
        cdef Class* found = class_at(self, of)
        cdef uint32_t* place = &group_at(self, found.group).classes
        while counters_at(self.counters, found.counters).parked != 0:
            self._drop(counter_at(
                self.counters, counters_at(self.counters, found.counters).parked
            ).owner)
        while place[0] != of:
            place = &class_at(self, place[0]).next_of_group
        place[0] = found.next_of_group
        self.counters.close(found.counters)
        blocks_give_back(&self.class_blocks, of)

    cdef void _drop(self, uint32_t flow) noexcept nogil:
        cdef Flow* found = flow_at(self, flow)
        if found.prev_of_agent != 0:
            flow_at(self, found.prev_of_agent).next_of_agent = found.next_of_agent
        else:
            agent_at(self, found.agent).flows = found.next_of_agent
        if found.next_of_agent != 0:
            flow_at(self, found.next_of_agent).prev_of_agent = found.prev_of_agent
        self.counters.drop(found.counter)
        blocks_give_back(&self.flow_blocks, flow)

    cdef void _count(self, uint32_t slot, int by) noexcept nogil:
        """Adds a request to all sums (`by` 1), or takes it out of them (-1)."""
        cdef Flow* flow = flow_at(self, request_at(self, slot).flow)
        cdef Class* of = class_at(self, flow.of)
        cdef Agent* agent = agent_at(self, flow.agent)
        cdef Order order = agents_by_backlog(self)
        cdef uint64_t arrived_ns = request_at(self, slot).arrived_ns
        cdef uint64_t arrivals_ns = arrived_ns * <uint64_t> (<int64_t> by)
        flow.size += by
        flow.arrivals_ns += arrivals_ns
        of.busy += by
        group_at(self, of.group).size += by
        if not agent.paused:
            of.eligible += by
            of.arrivals_ns += arrivals_ns
        pairing_remove(&order, &self.by_backlog, flow.agent)
        agent.backlog += by
        pairing_push(&order, &self.by_backlog, flow.agent)

    cdef int _check(self) except -1:
        cdef uint32_t slot = self.by_backlog
        cdef uint32_t agents = 0
        cdef uint64_t waiting = 0
        cdef Order order = agents_by_backlog(self)
        self.counters.check()
        check_order(&order, slot)
        while slot != 0:
            self._check_agent(slot)
            agents += 1
            waiting += agent_at(self, slot).backlog
            slot = pairing_walk(&order, slot)
        assert agents == self.agent_blocks.live, "an agent is not among those with a backlog"
        assert waiting == self.request_blocks.live, "a request is of no agent"
        assert self.flow_blocks.live == self.counters.flows.live, "a flow has no counter"
        assert self.class_blocks.live == self.counters.classes.live, "a class has no counters"
        for slot in range(1, self.class_blocks.used):
            if slot_is_live(&self.class_blocks, slot):
                self._check_class(slot)
        return 0

    cdef int _check_agent(self, uint32_t slot) except -1:
        cdef Agent* agent = agent_at(self, slot)
        cdef Flow* flow
        cdef Order worst = by_badness(self)
        cdef uint32_t backlog = 0
        cdef uint32_t before = 0
        cdef uint32_t each = agent.flows
        check_order(&worst, agent.requests)
        while each != 0:
            flow = flow_at(self, each)
            assert flow.agent == slot and flow.prev_of_agent == before, "its flows are no list"
            self._check_flow(each)
            backlog, before, each = backlog + flow.size, each, flow.next_of_agent
        assert backlog == agent.backlog, "a backlog is miscounted"
        each = agent.requests
        while each != 0:
            assert flow_at(self, request_at(self, each).flow).agent == slot, "not its own request"
            backlog -= 1
            each = pairing_walk(&worst, each)
        assert backlog == 0, "what waits is not in the heap of its agent"
        return 0

    cdef int _check_flow(self, uint32_t slot) except -1:
        cdef Flow* flow = flow_at(self, slot)
        cdef Order order = by_rank(self)
        cdef uint32_t size = 0, each = flow.requests
        cdef uint64_t arrivals_ns = 0
        cdef int state = PARKED if counter_at(self.counters, flow.counter).in_flight == 0 else OUT
        check_order(&order, flow.requests)
        while each != 0:
            assert request_at(self, each).flow == slot, "a request is of another flow"
            size += 1
            arrivals_ns += <uint64_t> request_at(self, each).arrived_ns
            each = pairing_walk(&order, each)
        assert size == flow.size and arrivals_ns == flow.arrivals_ns, "a flow is miscounted"
        if size != 0:
            state = OUT if agent_at(self, flow.agent).paused else ACTIVE
        assert counter_at(self.counters, flow.counter).owner == slot, "a counter is not its own"
        assert counter_at(self.counters, flow.counter).state == state, "a flow is misplaced"
        if state == ACTIVE:
            assert counter_at(self.counters, flow.counter).place.stand_ns == self.stand_ns(slot), (
                "a flow stands where its first request does not"
            )
        return 0

    cdef int _check_class(self, uint32_t slot) except -1:
        cdef Class* of = class_at(self, slot)
        cdef Flow* flow
        cdef uint32_t busy = 0
        cdef uint32_t eligible = 0
        cdef uint64_t arrivals_ns = 0
        cdef uint32_t actives = counters_at(self.counters, of.counters).actives
        cdef Order order = by_claim(self)
        cdef uint32_t each = of.claims
        check_order(&order, each)
        while each != 0:
            assert flow_at(self, each).of == slot and flow_at(self, each).size, "another's claim"
            actives -= 1
            each = pairing_walk(&order, each)
        assert actives == 0, "a claim is missing"
        for each in range(1, self.flow_blocks.used):
            if slot_is_live(&self.flow_blocks, each) and flow_at(self, each).of == slot:
                flow = flow_at(self, each)
                busy += flow.size + counter_at(self.counters, flow.counter).in_flight
                if not agent_at(self, flow.agent).paused:
                    eligible += flow.size
                    arrivals_ns += flow.arrivals_ns
        assert busy != 0, "a class outlived its busy period"
        assert busy == of.busy and eligible == of.eligible, "a class is miscounted"
        assert arrivals_ns == of.arrivals_ns, "the waits of a class are miscounted"
        assert counters_at(self.counters, of.counters).parks <= self.counters.parked_max, "too many"
        each = group_at(self, of.group).classes
        while each != slot:
            assert each != 0, "a class is not in its group"
            each = class_at(self, each).next_of_group
        return 0
