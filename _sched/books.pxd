# cython: language_level=3
"""The memory of the queue: requests in flows, flows of agents and in classes, classes in groups."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from _sched.arena cimport Block, Blocks, block_at
from _sched.pairing cimport Links, Order
from _sched.vtc cimport VirtualTokenCounters

cdef enum:
    COMPARTMENT_MAX = 53     # the lower bits of a mask, and above them one for each of so many
    PRIORITY_BITS = 10       # priorities from the best on


cdef struct Request:
    Block block
    Links links              # in its flow's heap: the lowest rank first, then the first come
    Links worst_links        # in its agent's heap: the worst first
    int64_t rank
    uint64_t sequence
    int64_t arrived_ns
    int64_t stand_back_ns    # how much younger it counts as, for its size
    uint32_t flow
    uint8_t priority

cdef struct Flow:            # one agent in one class
    Block block
    Links links              # while active, in its class's heap: the oldest claim first
    uint32_t counter         # its slot among the virtual token counters
    uint32_t agent
    uint32_t of              # the class
    uint32_t next_of_agent   # the flows of an agent are a list
    uint32_t prev_of_agent
    uint32_t requests        # the heap of what waits
    uint32_t size
    int64_t head_since_ns
    int64_t claim_ns         # since when its head has had a claim to a turn of the class
    uint64_t sequence        # breaks ties: the older first
    uint64_t arrivals_ns     # added up over what waits, modulo 2**64

cdef struct Class:           # a priority and a compartment within a group
    Block block
    uint32_t counters        # its slot among the classes of counters
    uint32_t group
    uint32_t next_of_group   # the classes of a group are a list
    uint32_t claims          # the heap of its active flows, the oldest claim first
    uint32_t busy            # what waits or is in flight; at 0 its busy period is over
    uint32_t eligible        # what waits of agents that are not paused
    uint8_t priority
    uint8_t compartment
    uint64_t bits            # of a mask that close it: its compartment's and its priority's
    uint64_t arrivals_ns     # added up over what is eligible, modulo 2**64
    uint64_t sequence

cdef struct Agent:
    Block block
    Links links              # in the heap of all agents: the largest backlog first
    uint32_t flows           # the first of its list
    uint32_t requests        # the heap of what waits, worst first
    uint32_t backlog
    uint64_t sequence
    double weight
    uint8_t paused

cdef struct Group:
    Block block
    uint32_t classes         # the first of its list
    uint32_t size


cdef inline bint is_earlier(const void* a, const void* b) noexcept nogil:
    cdef const Request* x = <const Request*> a
    cdef const Request* y = <const Request*> b
    return x.rank < y.rank or (x.rank == y.rank and x.sequence < y.sequence)


cdef inline bint claims_before(const void* a, const void* b) noexcept nogil:
    cdef const Flow* x = <const Flow*> a
    cdef const Flow* y = <const Flow*> b
    return x.claim_ns < y.claim_ns or (x.claim_ns == y.claim_ns and x.sequence < y.sequence)


cdef inline bint is_worse(const void* a, const void* b) noexcept nogil:
    cdef const Request* x = <const Request*> a
    cdef const Request* y = <const Request*> b
    return x.priority > y.priority or (x.priority == y.priority and is_earlier(b, a))


cdef inline bint has_more(const void* a, const void* b) noexcept nogil:
    """The larger backlog first; among equals the newer agent."""
    cdef const Agent* x = <const Agent*> a
    cdef const Agent* y = <const Agent*> b
    return x.backlog > y.backlog or (x.backlog == y.backlog and x.sequence > y.sequence)


cdef class Books:
    cdef Blocks request_blocks
    cdef Blocks flow_blocks
    cdef Blocks class_blocks
    cdef Blocks agent_blocks
    cdef Blocks group_blocks
    cdef VirtualTokenCounters counters
    cdef uint32_t by_backlog     # the heap of all agents
    cdef uint64_t sequence
    cdef int64_t handicap_ns     # per priority
    cdef uint32_t _unchecked     # changes since the last check of a debug build

    cdef int reserve(self) except -1
    cdef void add_agent_at(self, uint32_t slot, double weight) noexcept nogil
    cdef void drop_agent(self, uint32_t slot) noexcept nogil
    cdef uint32_t flow_of(
        self, uint32_t group, long priority, long compartment, uint32_t agent
    ) noexcept nogil
    cdef uint32_t find_flow(
        self, uint32_t group, long priority, long compartment, uint32_t agent
    ) noexcept nogil
    cdef int64_t stand_ns(self, uint32_t flow) noexcept nogil
    cdef void put_in(
        self, uint32_t slot, int64_t now_ns, int64_t head_since_ns, bint lift
    ) noexcept nogil
    cdef void take_out(self, uint32_t slot, int64_t now_ns) noexcept nogil
    cdef void set_eligible(self, uint32_t flow, bint eligible) noexcept nogil
    cdef void activate(self, uint32_t flow, bint lift) noexcept nogil
    cdef void deactivate(self, uint32_t flow) noexcept nogil
    cdef void set_head_since(self, uint32_t flow, int64_t head_since_ns) noexcept nogil
    cdef void use_claim(self, uint32_t flow) noexcept nogil
    cdef void _claim(self, uint32_t flow, int64_t claim_ns) noexcept nogil
    cdef void let_go(self, uint32_t flow) noexcept nogil
    cdef uint32_t candidate(self, uint32_t of) noexcept nogil
    cdef int64_t key_ns(self, uint32_t of) noexcept nogil
    cdef bint comes_before(self, uint32_t of, uint32_t other) noexcept nogil
    cdef int changed(self) except -1
    cdef bint _is_class(self, uint32_t of, long priority, long compartment) noexcept nogil
    cdef uint32_t _open_class(self, uint32_t group, long priority, long compartment) noexcept nogil
    cdef void _end_class(self, uint32_t of) noexcept nogil
    cdef void _drop(self, uint32_t flow) noexcept nogil
    cdef void _count(self, uint32_t slot, int by) noexcept nogil
    cdef int _check(self) except -1
    cdef int _check_flow(self, uint32_t slot) except -1
    cdef int _check_class(self, uint32_t slot) except -1
    cdef int _check_agent(self, uint32_t slot) except -1


cdef inline Request* request_at(Books all, uint32_t slot) noexcept nogil:
    return <Request*> block_at(&all.request_blocks, slot)


cdef inline Flow* flow_at(Books all, uint32_t slot) noexcept nogil:
    return <Flow*> block_at(&all.flow_blocks, slot)


cdef inline Class* class_at(Books all, uint32_t slot) noexcept nogil:
    return <Class*> block_at(&all.class_blocks, slot)


cdef inline Agent* agent_at(Books all, uint32_t slot) noexcept nogil:
    return <Agent*> block_at(&all.agent_blocks, slot)


cdef inline Group* group_at(Books all, uint32_t slot) noexcept nogil:
    return <Group*> block_at(&all.group_blocks, slot)


cdef inline Order by_rank(Books all) noexcept nogil:
    return Order(all.request_blocks.memory, sizeof(Request), sizeof(Block), is_earlier)


cdef inline Order by_claim(Books all) noexcept nogil:
    return Order(all.flow_blocks.memory, sizeof(Flow), sizeof(Block), claims_before)


cdef inline Order by_badness(Books all) noexcept nogil:
    cdef size_t links_at = sizeof(Block) + sizeof(Links)
    return Order(all.request_blocks.memory, sizeof(Request), links_at, is_worse)


cdef inline Order agents_by_backlog(Books all) noexcept nogil:
    return Order(all.agent_blocks.memory, sizeof(Agent), sizeof(Block), has_more)
