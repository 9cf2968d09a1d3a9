"""The life of a model on a backend, as a table, and what the engine knows of it there."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from broker.core.requests import RequestKey
from broker.core.state_machine import Machine, Symbol


class ResidencyState(Symbol):
    ABSENT = "absent"  # on disk only; no record is kept of such a one
    LOADING = "loading"  # the broker's own load call is under way
    RESIDENT = "resident"  # ready; gets work
    DRAINING = "draining"  # gated: gets no new work, leaves when the running work has ended
    UNLOADING = "unloading"  # told to leave; not yet proven gone
    FREEING = "freeing"  # not listed any more; its memory has not been seen to come back


class ResidencyTrigger(Symbol):
    LOAD = "load"
    LOADED = "loaded"
    LOAD_FAILED = "load_failed"
    GATE = "gate"
    UNGATE = "ungate"  # nobody waits any more for what was to take its place
    DRAINED = "drained"
    UNLISTED = "unlisted"
    GONE = "gone"
    STAYED = "stayed"  # the unload could not be proven: it is still there
    APPEARED = "appeared"  # somebody else loaded it
    VANISHED = "vanished"  # its keep_alive ran out, its runner died, the server restarted


class SwitchStep(Symbol):
    """What happened on the way from one model to another, as operators are told."""

    LOADED_AHEAD = "loaded_ahead"  # beside the others, one of which leaves now
    DRAIN_GIVEN_UP = "drain_given_up"  # its last requests did not end: it serves on for a while
    MEMORY_HELD = "memory_held"  # it is not listed any more, and its memory did not come back
    VANISHED = "vanished"  # nobody here told it to leave
    CONTESTED = "contested"  # that again and again: it is not loaded for a while
    PRELOADED = "preloaded"  # before anybody has asked for it


# Of prompts that were read lately it is remembered when: more than run at once on any runner.
READINGS_KEPT: Final = 64


_S, _T = ResidencyState, ResidencyTrigger

RESIDENCY: Final = Machine(
    "residency",
    {
        (_S.ABSENT, _T.LOAD): _S.LOADING,
        (_S.ABSENT, _T.APPEARED): _S.RESIDENT,
        (_S.LOADING, _T.LOADED): _S.RESIDENT,
        (_S.LOADING, _T.LOAD_FAILED): _S.ABSENT,
        (_S.RESIDENT, _T.GATE): _S.DRAINING,
        (_S.RESIDENT, _T.VANISHED): _S.ABSENT,
        (_S.DRAINING, _T.UNGATE): _S.RESIDENT,
        (_S.DRAINING, _T.DRAINED): _S.UNLOADING,
        (_S.DRAINING, _T.VANISHED): _S.ABSENT,
        (_S.UNLOADING, _T.GONE): _S.ABSENT,
        (_S.UNLOADING, _T.STAYED): _S.RESIDENT,
        (_S.UNLOADING, _T.UNLISTED): _S.FREEING,
        (_S.FREEING, _T.GONE): _S.ABSENT,
    },
)


@dataclass(slots=True, kw_only=True)
class Residency:
    """One runner that occupies a backend, or is about to.

    `model` is the name it is known by there (it may be an alias of the one asked for).
    `num_ctx_sent` goes with every request to it, None where the backend chose by itself.
    `num_ctx` is what it really has per slot, 0 while unknown. `running` counts slots held.
    """

    runner: str
    model: str
    state: ResidencyState
    managed: bool
    slots: int
    num_ctx_sent: int | None
    num_ctx: int
    running: int = 0
    memory_bytes: int = 0
    gpu_memory_bytes: int = 0
    expires_unix_s: float | None = None  # when the backend lets it go by itself, as it last said
    changed_ns: int = 0
    used_ns: int = 0
    load_started_ns: int = 0
    is_aborting: bool = False  # its load was told to end, as nobody waits for it
    replaced_by: str = ""  # the runner that is there in its place already: it leaves whoever comes
    is_wished: bool = False  # somebody waits for its load who has no request
    wished_ns: int | None = None  # when such a wish was last answered by it
    is_dismissed: bool = False  # somebody asked for it to leave: it does, whoever comes
    is_kept: bool = False  # it could not be drained: it is not told to leave again for a while
    drain_timer: int = 0
    loaded_ns: int = 0
    is_ahead_of_need: bool = False  # loaded before anybody asked for it, and nobody has since
    ahead_because: str = ""  # why that was done, in words
    ahead_for: RequestKey | None = None  # the first that found it there
    is_large: bool = False  # loaded with more than the usual context, for work that needed it
    large_used_ns: int = 0  # when such work last started or ended
    renew_timer: int = 0
    renewed_ns: int = -1  # when its keep_alive was last asked to be renewed
    listed_ns: int = -1  # when the backend was last asked for a list that had it
    # What its load still costs those that it serves, and how many it has served (load_charges.py):
    load_owed: int = 0
    load_share: int = 0
    load_served: int = 0
    # What calls on it have shown, for `silence.py` and `lost_slots.py`:
    readings: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=READINGS_KEPT))
    cut_off_ns: int = -1  # when a call was last closed or broken before its end
    slot_waits: int = 0  # calls that waited for a slot there that should have been free
    mute_since_ns: int = -1  # since when a call got no first token in time, and none other did

    @property
    def gpu_share(self) -> float:
        """The part of it that lies on GPUs, from 0 to 1; 0 where its memory is not told."""
        if not self.memory_bytes:
            return 0.0
        return min(1.0, self.gpu_memory_bytes / self.memory_bytes)

    def move(self, trigger: ResidencyTrigger, now_ns: int) -> None:
        self.state = RESIDENCY.step(self.state, trigger)
        self.changed_ns = now_ns

    @property
    def leaves_anyhow(self) -> bool:
        """Does it leave even where nothing that waits wants it to?"""
        return bool(self.replaced_by) or self.is_dismissed

    def use(self, now_ns: int, *, is_large: bool) -> None:
        """Work starts or ends on it; `is_large`: work that needs more than the usual context."""
        self.used_ns = now_ns
        if is_large:
            self.large_used_ns = now_ns

    @property
    def has_free_slot(self) -> bool:
        return self.state is ResidencyState.RESIDENT and self.running < self.slots

    def fits(self, num_ctx: int) -> bool:
        """May work of this context size run on it? Sizes of 0 mean the usual one.

        What was asked for counts even where the backend says it gave less: asking once more would
        give no more, and be one more load.
        """
        return num_ctx == 0 or max(self.num_ctx, self.num_ctx_sent or 0) >= num_ctx

    def may_have_vanished(self, asked_ns: int) -> bool:
        """Does its absence from an answer asked for at `asked_ns` mean that it is gone? Not while
        something runs on it, nor where we have changed it since."""
        is_settled = self.state in (ResidencyState.RESIDENT, ResidencyState.DRAINING)
        return is_settled and self.running == 0 and self.changed_ns < asked_ns
