# cython: language_level=3
"""Virtual token counters: who has been served least for the weight it has.

Each flow has a counter of what it was served, in virtual units: cost * 1000 / weight, truncated.
The next is the active flow with the least (VTC, arXiv 2401.00588). With a grain, all within so much
of the least count as served alike, and of those the one of the least stand is next; that window is
no wider than the largest charge, so that nobody gets two requests ahead by it. Who returns from
idling is lifted to the floor of the class: the counter of who is next there, or, where nobody is,
of the one that was the last to leave them, as it is now. (The highest counter ever served would not
do: charges are estimates, and a newcomer would pay for one that was too high. Nor the least of
those in flight: one long request would hold it back for as long as it runs.)
A flow that idles above the least counter is parked; at or below, a lift gives it all it had.
"""
cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

from _sched.arena cimport (
    blocks_close, blocks_give_back, blocks_open, blocks_reserve, blocks_take, bytes_held, handle_of,
    next_handle, slot_is_live, slot_of,
)
from _sched.pairing cimport Order, check_order, pairing_push, pairing_remove, pairing_walk
from _sched.types cimport SCHED_CHECKS, SLOTS_MAX
from _sched.window cimport (
    Places, check_window, least_order, outside_order, window_put, window_slide, window_take,
)


@cython.final
cdef class VirtualTokenCounters:
    """Flows in classes; within a class the one served least per weight is next."""

    def __cinit__(self, uint32_t parked_max=1024, int64_t grain=0):
        self.parked_max = parked_max
        self.grain_units = check_grain(grain) * UNITS_PER_COST
        blocks_open(&self.flows, sizeof(FlowCounter), SLOTS_MAX)
        blocks_open(&self.classes, sizeof(CounterClass), SLOTS_MAX)

    def __dealloc__(self):
        blocks_close(&self.flows)
        blocks_close(&self.classes)

    def __len__(self):
        return self.flows.live

    def __sizeof__(self):
        return sizeof(VirtualTokenCounters) + bytes_held(&self.flows) + bytes_held(&self.classes)

    def open_class(self):
        """A new class, without flows."""
        blocks_reserve(&self.classes)
        cdef object handle = next_handle(&self.classes)
        self.open()
        return handle

    def close_class(self, uint64_t of):
        """Forgets a class. False where it has flows, or is unknown."""
        cdef uint32_t slot = slot_of(&self.classes, of)
        if slot == 0 or class_at(self, slot).flows != 0:
            return False
        self.close(slot)
        return True

    def add_flow(self, uint64_t of, double weight):
        """A new flow, neither active nor parked, with a counter of 0."""
        check_weight(weight)
        cdef uint32_t slot = slot_of(&self.classes, of)
        if slot == 0:
            raise KeyError(of)
        blocks_reserve(&self.flows)
        cdef object handle = next_handle(&self.flows)
        self.add(slot, weight)
        self._changed()
        return handle

    def remove_flow(self, uint64_t flow):
        """Forgets a flow, whatever it does. False if the handle is stale, here and below."""
        cdef uint32_t slot = slot_of(&self.flows, flow)
        if slot == 0:
            return False
        self.drop(slot)
        self._changed()
        return True

    def set_weight(self, uint64_t flow, double weight):
        """What is charged or in flight counts by this weight from now on."""
        check_weight(weight)
        cdef uint32_t slot = slot_of(&self.flows, flow)
        if slot == 0:
            return False
        self.reweigh(slot, weight)
        self._changed()
        return True

    @property
    def grain(self):
        return self.grain_units // UNITS_PER_COST

    @grain.setter
    def grain(self, int64_t grain):
        cdef uint32_t of
        self.grain_units = check_grain(grain) * UNITS_PER_COST
        for of in range(1, self.classes.used):
            if slot_is_live(&self.classes, of):
                rewiden(self, of)
        self._changed()

    def activate(self, uint64_t flow, bint lift=True, int64_t stand_ns=0):
        """The flow has something to be served. False also where it is active."""
        cdef uint32_t slot = slot_of(&self.flows, flow)
        if slot == 0 or counter_at(self, slot).state == ACTIVE:
            return False
        self.enter(slot, lift, stand_ns)
        self._changed()
        return True

    def deactivate(self, uint64_t flow):
        """The flow has nothing to be served, or may not be. False also where it is not active."""
        cdef uint32_t slot = slot_of(&self.flows, flow)
        if slot == 0 or counter_at(self, slot).state != ACTIVE:
            return False
        self.leave(slot)
        self._changed()
        return True

    def restand(self, uint64_t flow, int64_t stand_ns):
        """The stand of an active flow is another one now. False also where it is not active."""
        cdef uint32_t slot = slot_of(&self.flows, flow)
        if slot == 0 or counter_at(self, slot).state != ACTIVE:
            return False
        self.stand(slot, stand_ns)
        self._changed()
        return True

    def charge(self, uint64_t flow, int64_t cost):
        """The flow is served from now until it is settled; its counter grows by the cost."""
        check_cost(cost)
        cdef uint32_t slot = slot_of(&self.flows, flow)
        if slot == 0:
            return False
        self.bill(slot, cost, counter_at(self, slot).place.stand_ns)
        self._changed()
        return True

    def settle(self, uint64_t flow, int64_t charged, int64_t actual):
        """What was charged is over and cost `actual`: the difference is charged or given back."""
        check_cost(charged)
        check_cost(actual)
        cdef uint32_t slot = slot_of(&self.flows, flow)
        if slot == 0 or counter_at(self, slot).in_flight == 0:
            return False
        self.end(slot, charged, actual)
        self._changed()
        return True

    def least(self, uint64_t of):
        """The active flow that is next; 0 where none is active."""
        cdef uint32_t slot = slot_of(&self.classes, of)
        if slot == 0:
            raise KeyError(of)
        slot = class_at(self, slot).window.next
        return 0 if slot == 0 else handle_of(&self.flows, slot)

    def counter_of(self, uint64_t flow):
        """This flow's counter, or None if the handle is stale."""
        cdef uint32_t slot = slot_of(&self.flows, flow)
        return None if slot == 0 else counter_at(self, slot).place.counter

    def floor_of(self, uint64_t of):
        """What a lift gives in this class; None where nobody is or was active."""
        cdef uint32_t slot = slot_of(&self.classes, of)
        if slot == 0:
            raise KeyError(of)
        cdef int64_t floor = self.floor(slot)
        return None if floor == NEVER else floor

    def park(self, uint64_t flow):
        """The flow idles; `pop_spent` says when it may be forgotten. False also unless idle."""
        cdef uint32_t slot = slot_of(&self.flows, flow)
        if slot == 0 or counter_at(self, slot).state != OUT:
            return False
        if counter_at(self, slot).in_flight != 0:
            return False
        self.put_by(slot)
        self._changed()
        return True

    def pop_spent(self, uint64_t of):
        """A parked flow that the floor has reached, or the least of too many; 0: none."""
        cdef uint32_t slot = slot_of(&self.classes, of)
        if slot == 0:
            raise KeyError(of)
        slot = self.spent(slot)
        if slot == 0:
            return 0
        cdef object handle = handle_of(&self.flows, slot)
        self.leave(slot)
        self._changed()
        return handle

    def check(self):
        """Raises AssertionError where an inner law is broken. O(n)."""
        self._check()

    cdef int reserve(self) except -1:
        """Makes sure that the next `open` and the next `add` succeed."""
        blocks_reserve(&self.classes)
        return blocks_reserve(&self.flows)

    cdef uint32_t open(self) noexcept nogil:
        cdef uint32_t slot = blocks_take(&self.classes)
        class_at(self, slot).last_counter = NEVER
        class_at(self, slot).window.width = width_of(self.grain_units, 0, 1)
        return slot

    cdef void close(self, uint32_t of) noexcept nogil:
        blocks_give_back(&self.classes, of)

    cdef uint32_t add(self, uint32_t of, double weight) noexcept nogil:
        cdef uint32_t slot = blocks_take(&self.flows)
        cdef FlowCounter* flow = counter_at(self, slot)
        self._sequence += 1
        flow.place.sequence = self._sequence
        flow.of = of
        flow.weight = weight
        class_at(self, of).flows += 1
        return slot

    cdef void drop(self, uint32_t slot) noexcept nogil:
        self.leave(slot)
        forget(self, slot)
        blocks_give_back(&self.flows, slot)

    cdef void enter(self, uint32_t slot, bint lift, int64_t stand_ns) noexcept nogil:
        """To the active ones, from wherever it is."""
        self.leave(slot)
        cdef FlowCounter* flow = counter_at(self, slot)
        cdef CounterClass* of = class_at(self, flow.of)
        cdef Places places = places_of(self)
        cdef int64_t least = self.floor(flow.of) if lift else NEVER
        self._rekey(slot, max(least, flow.place.counter), stand_ns)
        flow.state = ACTIVE
        of.actives += 1
        window_put(&places, &of.window, slot)

    cdef void leave(self, uint32_t slot) noexcept nogil:
        """Out of the active or parked ones, if it is among them."""
        cdef FlowCounter* flow = counter_at(self, slot)
        cdef CounterClass* of = class_at(self, flow.of)
        cdef Places places = places_of(self)
        cdef Order order = outside_order(&places)
        if flow.state == ACTIVE:
            of.actives -= 1
            of.last = slot
            window_take(&places, &of.window, slot)
            window_slide(&places, &of.window)
        elif flow.state == PARKED:
            of.parks -= 1
            pairing_remove(&order, &of.parked, slot)
        flow.state = OUT

    cdef void stand(self, uint32_t slot, int64_t stand_ns) noexcept nogil:
        cdef FlowCounter* flow = counter_at(self, slot)
        if flow.place.stand_ns != stand_ns:
            self._rekey(slot, flow.place.counter, stand_ns)

    cdef void bill(self, uint32_t slot, int64_t cost, int64_t stand_ns) noexcept nogil:
        """Charges, and sets the stand of what is next of it, in one go."""
        cdef FlowCounter* flow = counter_at(self, slot)
        if flow.state == PARKED:
            self.leave(slot)
        self._charges += 1
        flow.place.charged = self._charges
        cdef int64_t units = units_of(cost, flow.weight)
        self._rekey(slot, flow.place.counter + units, stand_ns)
        flow.cost_in_flight += cost
        flow.in_flight += 1
        flies(self, flow, 1, units)

    cdef void end(self, uint32_t slot, int64_t charged, int64_t actual) noexcept nogil:
        """Settles one charge. The flow has something in flight."""
        cdef FlowCounter* flow = counter_at(self, slot)
        cdef int64_t units = units_of(actual, flow.weight)
        cdef int64_t more = units - units_of(charged, flow.weight)
        flow.in_flight -= 1
        flow.cost_in_flight = max(flow.cost_in_flight - charged, <int64_t> 0)
        if flow.in_flight == 0:
            flow.cost_in_flight = 0
        if more != 0:
            self._rekey(slot, flow.place.counter + more, flow.place.stand_ns)
        flies(self, flow, -1, units)

    cdef void reweigh(self, uint32_t slot, double weight) noexcept nogil:
        """What is in flight is charged anew, so that it can be settled by this weight."""
        cdef FlowCounter* flow = counter_at(self, slot)
        cdef int64_t more = -units_of(flow.cost_in_flight, flow.weight)
        flow.weight = weight
        more += units_of(flow.cost_in_flight, weight)
        self._rekey(slot, flow.place.counter + more, flow.place.stand_ns)

    cdef void put_by(self, uint32_t slot) noexcept nogil:
        """To the parked ones, from those that are out."""
        cdef FlowCounter* flow = counter_at(self, slot)
        cdef CounterClass* of = class_at(self, flow.of)
        cdef Places places = places_of(self)
        cdef Order order = outside_order(&places)
        flow.state = PARKED
        of.parks += 1
        pairing_push(&order, &of.parked, slot)

    cdef uint32_t spent(self, uint32_t of) noexcept nogil:
        """The parked flow to be forgotten next, left where it is; 0: none."""
        cdef CounterClass* found = class_at(self, of)
        if found.parked == 0 or found.parks > self.parked_max:
            return found.parked
        cdef int64_t worth = self.floor(of)
        if found.window.least != 0:  # a lift gives this at least, whoever is next
            worth = counter_at(self, found.window.least).place.counter
        return found.parked if counter_at(self, found.parked).place.counter <= worth else 0

    cdef int64_t floor(self, uint32_t of) noexcept nogil:
        """The counter that a lift gives; NEVER where nobody is or was active."""
        cdef CounterClass* found = class_at(self, of)
        cdef uint32_t slot = found.window.next or found.last
        return counter_at(self, slot).place.counter if slot != 0 else found.last_counter

    cdef void _rekey(self, uint32_t slot, int64_t counter, int64_t stand_ns) noexcept nogil:
        cdef FlowCounter* flow = counter_at(self, slot)
        cdef CounterClass* of = class_at(self, flow.of)
        cdef Places places = places_of(self)
        cdef Order order = outside_order(&places)
        if flow.state == ACTIVE:
            window_take(&places, &of.window, slot)
        elif flow.state == PARKED:
            pairing_remove(&order, &of.parked, slot)
        flow.place.counter = min(max(counter, <int64_t> 0), COUNTER_MAX)
        flow.place.stand_ns = stand_ns
        if flow.state == ACTIVE:
            window_put(&places, &of.window, slot)
        elif flow.state == PARKED:
            pairing_push(&order, &of.parked, slot)

    cdef int _changed(self) except -1:
        if SCHED_CHECKS:
            self._unchecked += 1
            if self._unchecked > self.flows.live >> 8:
                self._unchecked = 0
                self._check()
        return 0

    cdef int _check(self) except -1:
        cdef uint32_t slot
        cdef uint32_t of
        cdef uint32_t flows = 0
        for of in range(1, self.classes.used):
            if slot_is_live(&self.classes, of):
                self._check_class(of)
                flows += class_at(self, of).flows
        assert flows == self.flows.live, "a flow has no class"
        for slot in range(1, self.flows.used):
            if slot_is_live(&self.flows, slot):
                assert 0 <= counter_at(self, slot).place.counter <= COUNTER_MAX, "it is absurd"
                assert slot_is_live(&self.classes, counter_at(self, slot).of), "its class is gone"
        return 0

    cdef int _check_class(self, uint32_t of) except -1:
        cdef CounterClass* found = class_at(self, of)
        cdef Places places = places_of(self)
        cdef Order parked = outside_order(&places)
        cdef Order least = least_order(&places)
        cdef uint32_t slot = found.window.least
        cdef uint32_t parks = 0
        assert found.window.width == width_of(
            self.grain_units, found.largest, times_of(found.in_flight, found.doubles)
        ), "a window is too wide"
        assert check_window(&places, &found.window, found.actives)
        check_order(&parked, found.parked)
        while slot != 0:
            assert counter_at(self, slot).of == of, "a flow is in another class's window"
            assert counter_at(self, slot).state == ACTIVE, "what is not active is among the active"
            slot = pairing_walk(&least, slot)
        slot = found.parked
        while slot != 0:
            assert counter_at(self, slot).of == of, "a flow is in another class's heap"
            assert counter_at(self, slot).state == PARKED, "what is not parked is among the parked"
            assert counter_at(self, slot).in_flight == 0, "what is being served is parked"
            parks += 1
            slot = pairing_walk(&parked, slot)
        assert found.last == 0 or counter_at(self, found.last).of == of, "the last is another's"
        assert parks == found.parks, "the parked are miscounted"
        assert found.actives + parks <= found.flows, "there are fewer flows than the heaps have"
        return 0
