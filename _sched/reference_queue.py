"""The queue in plain Python, obviously right rather than fast: the oracle of the tests.

Rules (docs/scheduling.md): within a group, first which class (priority and compartment), the one
with the oldest claim, handicaps counted; then which agent of that class: of those whose virtual
token counters are less than `grain`, and than the largest request, above the least the one whose
head is the oldest, counted as so much younger as it stands back for its size; then which of its
requests, the one of the lowest rank.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

from _sched.reference_books import Agent, Class, Entry, Flow
from _sched.reference_vtc import (
    COMPARTMENT_MAX,
    COST_MAX,
    HANDICAP_NS_MAX,
    TIME_NS_MAX,
    check_range,
    check_weight,
    clamped_counter,
    virtual_units,
    window_end,
    window_width,
)


class FairQueue:
    """As `_sched.queue.FairQueue`. Handles are drawn by it alone."""

    def __init__(
        self, handicap_ns_per_priority: int, parked_max: int = 1024, grain: int = 0
    ) -> None:
        self.handicap_ns_per_priority = handicap_ns_per_priority
        self.grain = grain  # how far apart counters may be and count as alike, as a cost
        self.parked_max = parked_max  # idle flows of one class whose counters are remembered
        self._sequence = count(1)
        self._takes = count(1)
        self._agents: dict[int, Agent] = {}
        self._groups: dict[int, list[Class]] = {}
        self._entries: dict[int, Entry] = {}
        self._flows: dict[int, Flow] = {}

    def __len__(self) -> int:
        return len(self._entries)

    # Agents

    def add_agent(self, weight: float) -> int:
        check_weight(weight)
        handle = next(self._sequence)
        self._agents[handle] = Agent(handle, weight)
        return handle

    def remove_agent(self, agent: int) -> bool:
        """Forgets an agent. False where it has something waiting or in flight, or is unknown."""
        known = self._agents.get(agent)
        if known is None or any(each.entries or each.in_flight for each in known.flows):
            return False
        for flow in list(known.flows):
            self._drop(flow)
        del self._agents[agent]
        return True

    def set_weight(self, agent: int, weight: float) -> bool:
        check_weight(weight)
        if agent not in self._agents:
            return False
        for flow in self._agents[agent].flows:  # what is in flight is charged by the new weight
            old, new = (virtual_units(flow.cost_in_flight, w) for w in (flow.agent.weight, weight))
            flow.counter = clamped_counter(flow.counter + new - old)
        self._agents[agent].weight = weight
        return True

    def pause(self, agent: int, paused: bool) -> bool:
        """Nothing of a paused agent is a candidate. What returns is lifted, as after idling."""
        known = self._agents.get(agent)
        if known is None:
            return False
        for flow in known.flows:
            if known.paused and not paused and flow.entries:
                self._lift(flow)
        for flow in [each for each in known.flows if paused and each.is_active()]:
            flow.of.last = flow
        known.paused = paused
        return True

    def backlog(self, agent: int) -> int:
        known = self._agents.get(agent)
        return 0 if known is None else known.backlog()

    def largest_backlog(self) -> tuple[int, int] | None:
        """(agent, how many wait) of the largest; the newest agent among equals. None: no agent."""
        if not self._agents:
            return None
        best = max(self._agents.values(), key=lambda each: (each.backlog(), each.handle))
        return best.handle, best.backlog()

    def worst(self, agent: int) -> int:
        """What this agent would miss least: its worst priority, of that the last. 0: none."""
        known = self._agents.get(agent)
        entries = [each for flow in known.flows for each in flow.entries] if known else []
        if not entries:
            return 0
        return max(entries, key=lambda e: (e.flow.of.priority, e.rank, e.handle)).handle

    # Groups

    def open_group(self) -> int:
        handle = next(self._sequence)
        self._groups[handle] = []
        return handle

    def close_group(self, group: int) -> bool:
        """Forgets a group. False while something of it waits or is in flight."""
        if self._groups.get(group) != []:
            return False
        del self._groups[group]
        return True

    def size(self, group: int) -> int:
        """How many wait, those of paused agents too."""
        return sum(len(flow.entries) for each in self._groups[group] for flow in each.flows)

    def demand(self, group: int, closed: int, now_ns: int) -> tuple[int, int]:
        """(how many, their waits in ns added up) of what may run: not paused, not closed."""
        entries = [
            entry
            for each in self._groups[group]
            if not each.is_closed(closed)
            for flow in each.active()
            for entry in flow.entries
        ]
        return len(entries), sum(now_ns - each.arrived_ns for each in entries)

    # Requests

    def push(
        self,
        group: int,
        priority: int,
        compartment: int,
        agent: int,
        rank: int,
        arrived_ns: int,
        now_ns: int,
        head_since_ns: int = -1,
        stand_back_ns: int = 0,
        lift: bool = False,
    ) -> int:
        """Adds a request and returns its handle. `head_since_ns`, as `take` returned it: it was
        taken and comes back to its old place, without a lift. `stand_back_ns`: for its size.
        `lift`: it comes from another group with its age as a head, and is lifted all the same."""
        check_range("time", now_ns, 0, TIME_NS_MAX)
        check_range("handicap", stand_back_ns, 0, HANDICAP_NS_MAX)
        check_range("time", max(0, head_since_ns), 0, TIME_NS_MAX)
        check_range("priority", priority, 1, 255)
        check_range("compartment", compartment, 0, COMPARTMENT_MAX)
        flow = self._flow(group, priority, compartment, agent)
        was_idle, old_head = not flow.entries, flow.sorted()[:1]
        entry = Entry(next(self._sequence), flow, rank, arrived_ns, stand_back_ns)
        self._entries[entry.handle] = entry
        flow.entries.append(entry)
        if was_idle and (lift or head_since_ns < 0) and not flow.agent.paused:
            self._lift(flow)
        if flow.sorted()[:1] != old_head:
            flow.head_since_ns = flow.claim_ns = head_since_ns if head_since_ns >= 0 else now_ns
        return entry.handle

    def take(self, entry: int, cost: int, now_ns: int) -> tuple[int, int] | None:
        """Takes a request out to serve it and charges its agent: (flow, since when it was head; for
        one that was not head, now). `settle` ends it. None where the handle is stale."""
        check_range("cost", cost, 0, COST_MAX)
        check_range("time", now_ns, 0, TIME_NS_MAX)
        found = self._entries.get(entry)
        if found is None:
            return None
        flow = found.flow
        is_head = flow.sorted()[0] is found
        head_since_ns = flow.head_since_ns if is_head else now_ns
        units = virtual_units(cost, flow.agent.weight)
        flow.counter = clamped_counter(flow.counter + units)
        flow.of.largest = max(flow.of.largest, units)
        flow.taken = next(self._takes)
        flow.in_flight += 1
        flow.cost_in_flight += cost
        # The turn uses up the oldest claim; whose it was has this one's instead.
        if flow.is_active():
            min(flow.of.active(), key=lambda x: (x.claim_ns, x.handle)).claim_ns = flow.claim_ns
        self._take_out(found, now_ns)
        for each in list(flow.of.flows):
            self._let_go(each)
        return flow.handle, head_since_ns

    def settle(self, flow: int, charged: int, actual: int) -> bool:
        """What was taken from this flow is over: it cost `actual` instead of `charged`."""
        check_range("cost", charged, 0, COST_MAX)
        check_range("cost", actual, 0, COST_MAX)
        found = self._flows.get(flow)
        if found is None or found.in_flight == 0:
            return False
        weight = found.agent.weight
        units = virtual_units(actual, weight)
        found.counter = clamped_counter(found.counter + units - virtual_units(charged, weight))
        found.of.largest = max(found.of.largest, units)
        found.in_flight -= 1
        found.cost_in_flight = max(0, found.cost_in_flight - charged) if found.in_flight else 0
        self._let_go(found)
        return True

    def remove(self, entry: int, now_ns: int) -> bool:
        """A request leaves from wherever it stands. False where the handle is stale."""
        check_range("time", now_ns, 0, TIME_NS_MAX)
        found = self._entries.get(entry)
        if found is None:
            return False
        self._take_out(found, now_ns)
        self._let_go(found.flow)
        return True

    def ease(self, entry: int, stand_back_ns: int) -> bool:
        """A request stands back by no more than this from now on. False where it is stale."""
        check_range("handicap", stand_back_ns, 0, HANDICAP_NS_MAX)
        found = self._entries.get(entry)
        if found is not None:
            found.stand_back_ns = min(found.stand_back_ns, stand_back_ns)
        return found is not None

    def head_since(self, entry: int) -> int:
        """Since when it is its agent's head; -1 where it is not, or the handle is stale."""
        found = self._entries.get(entry)
        if found is None or found.flow.sorted()[0] is not found:
            return -1
        return found.flow.head_since_ns

    def best(self, group: int, closed: int) -> tuple[int, int, int] | None:
        """(order key in ns, priority, request) of what is next, what is closed left out."""
        candidates = []
        for each in self._groups[group]:
            flows = each.active()
            if flows and not each.is_closed(closed):
                key_ns = min(flow.claim_ns for flow in flows) + self._handicap_ns(each)
                following = each.next(self.grain)
                assert following is not None
                head = following.sorted()[0].handle
                candidates.append((key_ns, each.priority, each.sequence, head))
        if not candidates:
            return None
        key_ns, priority, _, head = min(candidates)
        return key_ns, priority, head

    def forward(
        self, groups: Iterable[int], cost: int, now_ns: int, limit: int, closed: int = 0
    ) -> list[int]:
        """The first `limit` requests of these groups in the order in which they would be taken from
        now on, were they served together, each at this cost, and nobody else came. Who is not yet
        head is taken to become so now. Paused agents and closed classes are left out."""
        check_range("cost", cost, 0, COST_MAX)
        check_range("time", now_ns, 0, TIME_NS_MAX)
        counter, taken, rest, since, head_since = {}, {}, {}, {}, {}
        classes = [each for group in set(groups) for each in self._groups[group]]
        classes = [each for each in classes if not each.is_closed(closed)]
        largest = {each.sequence: each.largest for each in classes}
        for flow in (flow for each in classes for flow in each.active()):
            counter[flow.handle], taken[flow.handle] = flow.counter, flow.taken
            rest[flow.handle], since[flow.handle] = flow.sorted(), flow.claim_ns
            head_since[flow.handle] = flow.head_since_ns

        def first(flows: list[int], of: Class) -> int:
            in_flight = (each.in_flight for each in of.flows)
            width = window_width(self.grain, largest[of.sequence], in_flight)
            end = window_end((counter[f] for f in flows), width)

            def place(f: int) -> tuple[int, int, int]:
                return head_since[f] + rest[f][0].stand_back_ns if width else 0, taken[f], f

            return min((f for f in flows if counter[f] < end), key=place)

        order: list[int] = []
        takes = max(taken.values(), default=0)
        while len(order) < limit:
            candidates = []
            for each in classes:
                flows = [f.handle for f in each.active() if rest[f.handle]]
                if flows:
                    best = first(flows, each)
                    key_ns = min(since[f] for f in flows) + self._handicap_ns(each)
                    oldest = min(flows, key=lambda f: (since[f], f))
                    candidates.append((key_ns, each.priority, each.sequence, best, oldest))
            if not candidates:
                break
            _, _, _, best, oldest = min(candidates)
            since[oldest] = since[best]
            order.append(rest[best].pop(0).handle)
            takes += 1
            charge, of = virtual_units(cost, self._flows[best].agent.weight), self._flows[best].of
            largest[of.sequence] = max(largest[of.sequence], charge)
            counter[best] = clamped_counter(counter[best] + charge)
            taken[best], since[best], head_since[best] = takes, now_ns, now_ns
        return order

    # Flows

    def counter_of(self, group: int, priority: int, compartment: int, agent: int) -> int | None:
        """The virtual token counter of an agent in a class; None where none is kept."""
        for each in self._groups[group]:
            if (each.priority, each.compartment) == (priority, compartment):
                return next((f.counter for f in each.flows if f.agent.handle == agent), None)
        return None

    def end_of(self, group: int, priority: int, compartment: int) -> int:
        """Below which counter the agents that wait in a class count as served alike."""
        for each in self._groups[group]:
            if (each.priority, each.compartment) == (priority, compartment):
                return each.end(self.grain)
        return 0

    def waiting_of(self, group: int, priority: int, compartment: int, agent: int) -> int:
        """How many requests of an agent wait in a class."""
        for each in self._groups[group]:
            if (each.priority, each.compartment) == (priority, compartment):
                return sum(len(f.entries) for f in each.flows if f.agent.handle == agent)
        return 0

    def standing_of(
        self, group: int, priority: int, compartment: int, agent: int, stand_ns: int
    ) -> int:
        """How many of those came by then, counted as later as they stand back."""
        return sum(
            each.arrived_ns + each.stand_back_ns <= stand_ns
            for each in self._entries.values()
            if each.flow.of.group == group
            and (each.flow.of.priority, each.flow.of.compartment) == (priority, compartment)
            and each.flow.agent.handle == agent
        )

    def flows(self) -> int:
        return len(self._flows)

    def _handicap_ns(self, of: Class) -> int:
        return (of.priority - 1) * self.handicap_ns_per_priority

    def _flow(self, group: int, priority: int, compartment: int, agent: int) -> Flow:
        classes, owner = self._groups[group], self._agents[agent]
        for of in classes:
            if (of.priority, of.compartment) == (priority, compartment):
                break
        else:
            of = Class(next(self._sequence), group, priority, compartment)
            classes.append(of)
        for flow in of.flows:
            if flow.agent is owner:
                return flow
        flow = Flow(next(self._sequence), owner, of)
        of.flows.append(flow)
        owner.flows.append(flow)
        self._flows[flow.handle] = flow
        return flow

    def _lift(self, flow: Flow) -> None:
        """Who was idle has no claim on the time it did not use (VTC, arXiv 2401.00588)."""
        flow.counter = max(flow.counter, flow.of.floor(self.grain, besides=flow) or 0)

    def _take_out(self, entry: Entry, now_ns: int) -> None:
        flow = entry.flow
        if flow.sorted()[0] is entry:
            flow.head_since_ns = flow.claim_ns = now_ns
        flow.entries.remove(entry)
        del self._entries[entry.handle]
        if not flow.entries and not flow.agent.paused:
            flow.of.last = flow

    def _let_go(self, flow: Flow) -> None:
        """Forgets an idle flow whose counter a lift would give it anyway, and a class of which
        nothing waits or is in flight: its busy period is over, and all start alike in the next."""
        of = flow.of
        if not any(each.entries or each.in_flight for each in of.flows):
            for each in list(of.flows):
                self._drop(each)
            self._groups[of.group].remove(of)
            return
        idle = [each for each in of.flows if not each.entries and not each.in_flight]
        spent = of.spent(self.grain)
        for rank, each in enumerate(sorted(idle, key=Flow.idle_order)):
            is_spent = spent is not None and each.counter <= spent
            if is_spent or len(idle) - rank > self.parked_max:
                self._drop(each)

    def _drop(self, flow: Flow) -> None:
        flow.of.flows.remove(flow)
        flow.agent.flows.remove(flow)
        del self._flows[flow.handle]
