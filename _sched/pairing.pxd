# cython: language_level=3
"""Intrusive pairing heaps: the links lie in the blocks themselves, so one block can be in several.

Pushing is O(1), removing the best or any other O(log n) amortised (Fredman, Sedgewick, Sleator,
Tarjan 1986). Nothing here recurses: a heap may be a chain of a hundred thousand. Slot 0 is none. A
block outside its heap has all links at 0.
"""
from libc.stdint cimport uint32_t

cdef struct Links:
    uint32_t child           # the first of the children
    uint32_t next            # the sibling to the right
    uint32_t prev            # the sibling to the left; a first child's parent; 0 for a root

ctypedef bint (*IsBefore)(const void* a, const void* b) noexcept nogil

cdef struct Order:           # where the blocks lie, where in them the links, and what comes first
    char* memory
    size_t block_bytes
    size_t links_at
    IsBefore is_before


cdef inline Links* links_of(const Order* order, uint32_t slot) noexcept nogil:
    return <Links*> (order.memory + slot * order.block_bytes + order.links_at)


cdef inline bint is_before(const Order* order, uint32_t a, uint32_t b) noexcept nogil:
    return order.is_before(
        order.memory + a * order.block_bytes, order.memory + b * order.block_bytes
    )


cdef inline uint32_t _meld(const Order* order, uint32_t a, uint32_t b) noexcept nogil:
    """The loser becomes the first child of the winner, whose own siblings are left as they are."""
    cdef uint32_t winner = a
    cdef uint32_t loser = b
    if is_before(order, b, a):
        winner = b
        loser = a
    cdef Links* over = links_of(order, winner)
    cdef Links* under = links_of(order, loser)
    under.prev = winner
    under.next = over.child
    if over.child != 0:
        links_of(order, over.child).prev = loser
    over.child = loser
    return winner


cdef inline uint32_t _combine(const Order* order, uint32_t first) noexcept nogil:
    """Makes one heap of a list of siblings: melds pairs from the left, then all from the right."""
    cdef uint32_t pairs = 0
    cdef uint32_t winner
    cdef uint32_t second
    while first != 0:
        winner = first
        second = links_of(order, first).next
        first = 0
        if second != 0:
            first = links_of(order, second).next
            winner = _meld(order, winner, second)
        links_of(order, winner).next = pairs
        pairs = winner
    if pairs == 0:
        return 0
    cdef uint32_t root = pairs
    pairs = links_of(order, root).next
    while pairs != 0:
        second = links_of(order, pairs).next
        root = _meld(order, root, pairs)
        pairs = second
    links_of(order, root).next = 0
    links_of(order, root).prev = 0
    return root


cdef inline void pairing_push(const Order* order, uint32_t* root, uint32_t slot) noexcept nogil:
    root[0] = slot if root[0] == 0 else _meld(order, root[0], slot)


cdef inline void pairing_remove(const Order* order, uint32_t* root, uint32_t slot) noexcept nogil:
    """Takes a block out from wherever it is."""
    cdef Links* links = links_of(order, slot)
    cdef uint32_t below = _combine(order, links.child)
    if slot == root[0]:
        root[0] = below
    else:
        if links_of(order, links.prev).child == slot:
            links_of(order, links.prev).child = links.next
        else:
            links_of(order, links.prev).next = links.next
        if links.next != 0:
            links_of(order, links.next).prev = links.prev
        if below != 0:
            root[0] = _meld(order, root[0], below)
    links.child = links.next = links.prev = 0


cdef inline uint32_t pairing_after(const Order* order, uint32_t slot) noexcept nogil:
    """What comes after this one, where `slot` is the root or was returned by this; 0: the last.

    It makes one heap of the children, as taking `slot` out would, but leaves it in. So the front of
    the heap becomes a sorted chain, and reading it again costs nothing until something is pushed.
    """
    cdef Links* links = links_of(order, slot)
    if links.child != 0 and links_of(order, links.child).next != 0:
        links.child = _combine(order, links.child)
        links_of(order, links.child).prev = slot
    return links.child


cdef inline uint32_t pairing_walk(const Order* order, uint32_t slot) noexcept nogil:
    """The block after this one in no order that matters, from the root on; 0: there is no more."""
    cdef uint32_t above
    if links_of(order, slot).child != 0:
        return links_of(order, slot).child
    while slot != 0:
        if links_of(order, slot).next != 0:
            return links_of(order, slot).next
        above = links_of(order, slot).prev
        while above != 0 and links_of(order, above).child != slot:
            slot = above
            above = links_of(order, slot).prev
        slot = above
    return 0


cdef inline uint32_t pairing_scatter(const Order* order, uint32_t* rest) noexcept nogil:
    """Takes a block of a heap that is given up, one after the other, in no order that matters; 0:
    none is left. What it leaves is no heap: `rest` is for this alone."""
    cdef uint32_t slot = rest[0]
    if slot == 0:
        return 0
    cdef Links* links = links_of(order, slot)
    cdef uint32_t last = links.child
    rest[0] = links.next
    if last != 0:
        while links_of(order, last).next != 0:
            last = links_of(order, last).next
        links_of(order, last).next = rest[0]
        rest[0] = links.child
    links.child = links.next = links.prev = 0
    return slot


cdef inline int check_order(const Order* order, uint32_t root) except -1:
    """Raises AssertionError where a link is broken or a child is before its parent. O(n)."""
    cdef uint32_t slot = root
    cdef uint32_t child
    cdef uint32_t after
    assert root == 0 or (links_of(order, root).prev == 0 and links_of(order, root).next == 0), (
        "a root has siblings"
    )
    while slot != 0:
        child = links_of(order, slot).child
        assert child == 0 or links_of(order, child).prev == slot, "a first child knows no parent"
        while child != 0:
            assert not is_before(order, child, slot), "a child is before its parent"
            after = links_of(order, child).next
            assert after == 0 or links_of(order, after).prev == child, (
                "a sibling is lost"
            )
            child = after
        slot = pairing_walk(order, slot)
    return 0
