# cython: language_level=3
"""Who was served alike: of many, each with a counter, those within a width of the least.

A window of that width begins at the least counter and slides with it. Who is inside is next by
another key; who is outside waits for the window to come. Both what is kept and what is only played
forward begin with a `Place`, so that one set of steps does for both.

Whoever is outside has a counter beyond the window; of those inside only the first is sure to have
one within it: where the least has fallen, the others are put out when they come first. A step is
O(log n) amortised as long as the least does not fall.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from _sched.pairing cimport (
    Links, Order, check_order, pairing_push, pairing_remove, pairing_scatter, pairing_walk,
)

cdef struct Place:
    Links links              # inside: who is next first; outside: the least counter first
    Links by_counter         # among all of the window: the least counter first
    int64_t counter
    int64_t stand_ns         # of those inside the least is next
    uint64_t charged         # the number of its last charge; 0: never
    uint64_t sequence        # breaks ties: the older first
    bint is_inside

cdef struct Places:          # where they lie, by slot; slot 0 is none
    char* memory
    size_t block_bytes

cdef struct Window:
    uint32_t next            # the heap of those inside, who is next first
    uint32_t outside         # the heap of the others, the least counter first
    uint32_t least           # the heap of all, the least counter first
    int64_t width            # 0: none but equals are inside, and stands play no part


cdef inline bint is_less_served(const void* a, const void* b) noexcept nogil:
    """Least counter first; among equals the one not served for longest, then the older."""
    cdef const Place* x = <const Place*> a
    cdef const Place* y = <const Place*> b
    if x.counter != y.counter:
        return x.counter < y.counter
    if x.charged != y.charged:
        return x.charged < y.charged
    return x.sequence < y.sequence


cdef inline bint is_older(const void* a, const void* b) noexcept nogil:
    """Least stand first; among equals the one not served for longest, then the older."""
    cdef const Place* x = <const Place*> a
    cdef const Place* y = <const Place*> b
    if x.stand_ns != y.stand_ns:
        return x.stand_ns < y.stand_ns
    if x.charged != y.charged:
        return x.charged < y.charged
    return x.sequence < y.sequence


cdef inline Place* place_at(const Places* all, uint32_t slot) noexcept nogil:
    return <Place*> (all.memory + slot * all.block_bytes)


cdef inline Order next_order(const Places* all, const Window* window) noexcept nogil:
    """Of those inside."""
    if window.width == 0:
        return Order(all.memory, all.block_bytes, 0, is_less_served)
    return Order(all.memory, all.block_bytes, 0, is_older)


cdef inline Order outside_order(const Places* all) noexcept nogil:
    """Of what is outside a window, or in none."""
    return Order(all.memory, all.block_bytes, 0, is_less_served)


cdef inline Order least_order(const Places* all) noexcept nogil:
    return Order(all.memory, all.block_bytes, sizeof(Links), is_less_served)


cdef inline int64_t window_end(const Places* all, const Window* window) noexcept nogil:
    """Where it ends, that is first outside. Somebody is in it."""
    return place_at(all, window.least).counter + max(window.width, <int64_t> 1)


cdef inline void window_slide(const Places* all, Window* window) noexcept nogil:
    """To where it should be."""
    if window.least == 0:
        return
    cdef Order inside = next_order(all, window)
    cdef Order outside = outside_order(all)
    cdef int64_t end = window_end(all, window)
    cdef uint32_t slot = window.outside
    while slot != 0 and place_at(all, slot).counter < end:
        pairing_remove(&outside, &window.outside, slot)
        place_at(all, slot).is_inside = True
        pairing_push(&inside, &window.next, slot)
        slot = window.outside
    slot = window.next
    while place_at(all, slot).counter >= end:
        pairing_remove(&inside, &window.next, slot)
        place_at(all, slot).is_inside = False
        pairing_push(&outside, &window.outside, slot)
        slot = window.next


cdef inline void window_put(const Places* all, Window* window, uint32_t slot) noexcept nogil:
    """One more is of it."""
    cdef Order least = least_order(all)
    pairing_push(&least, &window.least, slot)
    cdef bint is_inside = place_at(all, slot).counter < window_end(all, window)
    cdef Order order = next_order(all, window) if is_inside else outside_order(all)
    place_at(all, slot).is_inside = is_inside
    pairing_push(&order, &window.next if is_inside else &window.outside, slot)
    window_slide(all, window)


cdef inline void window_take(const Places* all, Window* window, uint32_t slot) noexcept nogil:
    """One is of it no more, or is about to be put in anew; `window_slide` is to follow."""
    cdef bint is_inside = place_at(all, slot).is_inside
    cdef Order least = least_order(all)
    cdef Order order = next_order(all, window) if is_inside else outside_order(all)
    pairing_remove(&least, &window.least, slot)
    pairing_remove(&order, &window.next if is_inside else &window.outside, slot)


cdef inline void window_widen(const Places* all, Window* window, int64_t width) noexcept nogil:
    """It is so wide from now on. O(n) where stands begin to play a part, or end to."""
    cdef bint has_stands = window.width != 0
    cdef Order order = next_order(all, window)
    cdef uint32_t rest = window.next
    cdef uint32_t each
    window.width = width
    if (width != 0) != has_stands:
        each = pairing_scatter(&order, &rest)
        order = next_order(all, window)
        window.next = 0
        while each != 0:
            pairing_push(&order, &window.next, each)
            each = pairing_scatter(&order, &rest)
    window_slide(all, window)


cdef inline bint check_window(
    const Places* all, const Window* window, uint32_t count
) except False:
    """Raises AssertionError where an inner law is broken, or there are not so many. O(n)."""
    cdef Order least = least_order(all)
    cdef Order inside = next_order(all, window)
    cdef Order outside = outside_order(all)
    cdef uint32_t slot = window.least
    cdef uint32_t rest = 0
    check_order(&least, window.least)
    check_order(&inside, window.next)
    check_order(&outside, window.outside)
    while slot != 0:
        rest += 1
        slot = pairing_walk(&least, slot)
    assert rest == count, "those of a window are miscounted"
    assert (window.next == 0) == (count == 0), "some are there and none is next"
    slot = window.next
    assert slot == 0 or place_at(all, slot).counter < window_end(all, window), "next is outside"
    while slot != 0:
        assert place_at(all, slot).is_inside, "who is inside is not said to be"
        rest -= 1
        slot = pairing_walk(&inside, slot)
    slot = window.outside
    assert slot == 0 or place_at(all, slot).counter >= window_end(all, window), "one is left out"
    while slot != 0:
        assert not place_at(all, slot).is_inside, "who is outside is said to be inside"
        rest -= 1
        slot = pairing_walk(&outside, slot)
    assert rest == 0, "one is neither inside nor outside"
    return True
