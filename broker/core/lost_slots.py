"""When a backend runs fewer at once than its slots, though it says nothing of it.

Ollama may lose a slot of a runner until that is unloaded (OLLAMA.md §3.6): calls then wait for
another one there, though never more are in flight than slots. That wait is what its own figures
leave of the time that a call took.
"""

from __future__ import annotations

from typing import Final

from broker.core.record import Attempt

# Waits this short, or shorter than half of what a call took, have other reasons.
WAIT_NS_MIN: Final = 1_000_000_000
WAIT_SHARE_MIN: Final = 0.5

# One such call may have met work that had been cut off and was not over yet.
WAITS_MIN: Final = 2

# For so long what was cut off may still compute, beyond the grace of its slot.
CUT_OFF_NS: Final = 2_000_000_000


def has_lost_slot(attempt: Attempt, slot_wait_ns: int, now_ns: int, *, is_whole: bool) -> bool:
    """Takes note of a call that is over. True where it is, after others, the proof of a lost
    slot."""
    residency = attempt.residency
    if not is_whole:
        residency.cut_off_ns = now_ns
        return False
    service_ns = now_ns - attempt.started_ns
    if slot_wait_ns <= max(WAIT_NS_MIN, WAIT_SHARE_MIN * service_ns):
        residency.slot_waits = 0
        return False
    if residency.cut_off_ns >= 0 and attempt.started_ns < residency.cut_off_ns + CUT_OFF_NS:
        return False
    residency.slot_waits += 1
    return residency.slot_waits >= WAITS_MIN
