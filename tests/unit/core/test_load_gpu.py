"""GPU memory that is not ours to plan with: three signs, and healthy reads as healthy."""

from __future__ import annotations

import pytest

from broker.core.gpu_load import REFUSED_LOAD, GpuMemory, lacks_memory
from broker.core.placement import BackendState
from broker.core.residency import Residency, ResidencyState
from broker.core.sensing import GpuReading, GpuSample, SensorState
from broker.core.views import LoadPart
from tests.unit.core.sensed import STALE_NS, backend, card, gpus, named, resident

SECOND_NS = 1_000_000_000
SETTLE_NS = 6 * SECOND_NS


def judged(
    *cards: GpuSample, backends: dict[str, BackendState], memory: GpuMemory | None = None
) -> LoadPart:
    """After one sample of these cards, where any are given, which counts at once."""
    memory = memory or GpuMemory()
    if cards:
        memory.sensed(gpus(*cards), backends, 0)
    memory.remember(backends)
    return memory.part(backends, STALE_NS, 0)


def share(part: LoadPart) -> float:
    assert part.share is not None, part.detail
    return part.share


# Used by others


@pytest.mark.parametrize("ours_gb", [None, 15.2], ids=["nobody may ask", "processes are told"])
def test_a_card_full_of_planned_models_is_healthy(ours_gb: float | None) -> None:
    backends = named(backend(resident("m", 9), resident("n", 5)))
    assert share(judged(card(15.5, ours_gb=ours_gb), backends=backends)) < 0.05


@pytest.mark.parametrize("ours_gb", [None, 3.5], ids=["nobody may ask", "processes are told"])
def test_what_others_use_of_a_card_counts_with_its_figures(ours_gb: float | None) -> None:
    backends = named(backend(resident("m", 3)))
    part = judged(card(16, ours_gb=ours_gb, others_gb=12.5), backends=backends)
    assert share(part) == pytest.approx(0.78, abs=0.02)
    assert part.detail.endswith("GB of 16.0 GB are used by others")


def test_processes_of_another_world_are_not_taken_for_others() -> None:
    """In a container the list may be empty, or hold numbers that mean nothing here."""
    backends = named(backend(resident("m", 14)))
    empty = card(15, ours_gb=0)
    assert empty.processes == ()
    assert share(judged(empty, backends=backends)) < 0.05


def test_a_process_of_ours_that_does_not_say_what_it_holds_is_counted_by_its_models() -> None:
    told = card(15, ours_gb=15)
    assert told.processes is not None
    [ours] = told.processes
    untold = GpuSample(
        index=0,
        uuid="u",
        name="n",
        memory_total_bytes=told.memory_total_bytes,
        memory_used_bytes=told.memory_used_bytes,
        processes=(type(ours)(pid=1, name="llama-server", memory_bytes=None, is_ours=True),),
    )
    assert share(judged(untold, backends=named(backend(resident("m", 14))))) < 0.05


# Whose cards


def test_only_cards_that_our_processes_are_on_are_judged() -> None:
    """Seven others that somebody trains on are no load, and seven empty ones no relief."""
    backends = named(backend(resident("m", 10)))
    busy = [card(16, ours_gb=0, others_gb=16, index=index) for index in range(1, 8)]
    assert share(judged(card(11, ours_gb=11), *busy, backends=backends)) == 0.0
    idle = [card(0, ours_gb=0, index=index) for index in range(1, 8)]
    crowded = card(16, ours_gb=11, others_gb=5)
    assert share(judged(crowded, *idle, backends=backends)) == pytest.approx(5 / 16)


def test_where_nobody_tells_which_cards_models_are_on_all_count_together() -> None:
    backends = named(backend(resident("m", 3)))
    two = (card(4), card(16, index=1))
    assert share(judged(*two, backends=backends)) == pytest.approx(0.5, abs=0.05)


def test_where_no_model_is_on_any_card_the_one_with_most_room_counts() -> None:
    two = (card(16, ours_gb=0, others_gb=16), card(4, ours_gb=0, others_gb=4, index=1))
    assert share(judged(*two, backends=named(backend()))) == pytest.approx(0.25)


# What lasts


class Watched:
    """A sensor that tells a sample each second."""

    def __init__(self, *residents: Residency, is_listed: bool = True) -> None:
        self.backend = backend(*residents, is_listed=is_listed)
        self.backends = named(self.backend)
        self.memory = GpuMemory()
        self.second = 0

    def samples(self, count: int, *cards: GpuSample) -> None:
        for _ in range(count):
            reading = gpus(*cards, at_ns=self.second * SECOND_NS)
            self.memory.sensed(reading, self.backends, SETTLE_NS)
            self.memory.remember(self.backends)
            self.second += 1

    def part(self) -> LoadPart:
        return self.memory.part(self.backends, STALE_NS, (self.second - 1) * SECOND_NS)


def test_what_others_use_counts_once_it_has_lasted_and_no_more_when_it_is_over() -> None:
    watched = Watched()
    watched.samples(6, card(15, ours_gb=0, others_gb=15))
    assert watched.part().share is None
    assert "not watched for 6 s yet" in watched.part().detail
    watched.samples(1, card(15, ours_gb=0, others_gb=15))
    assert share(watched.part()) == pytest.approx(15 / 16)
    watched.samples(1, card(1, ours_gb=0, others_gb=1))
    assert share(watched.part()) == pytest.approx(1 / 16)
    watched.samples(6, card(15, ours_gb=0, others_gb=15))
    assert share(watched.part()) == pytest.approx(1 / 16)
    watched.samples(1, card(15, ours_gb=0, others_gb=15))
    assert share(watched.part()) == pytest.approx(15 / 16)


def test_models_that_were_there_before_the_broker_are_not_taken_for_others() -> None:
    """Nobody tells processes, and the sensor is quicker than the first list."""
    watched = Watched(is_listed=False)
    watched.samples(20, card(15.3))
    assert watched.part().share is None
    assert "b1 has not told yet which models it holds" in watched.part().detail
    watched.backend.is_listed = True
    watched.backend.residents["blob-m"] = resident("m", 14)
    watched.samples(7, card(15.3))
    assert share(watched.part()) < 0.05


def test_where_processes_are_told_nobody_waits_for_a_list() -> None:
    watched = Watched(is_listed=False)
    watched.samples(7, card(15, ours_gb=3, others_gb=12))
    assert share(watched.part()) == pytest.approx(0.75)


def test_a_model_that_somebody_else_loads_is_no_load_until_it_is_listed() -> None:
    watched = Watched()
    watched.samples(7, card(0.3))
    watched.samples(5, card(14.5))
    assert share(watched.part()) < 0.05
    watched.backend.residents["blob-m"] = resident("m", 13.5)
    watched.samples(20, card(14.5))
    assert share(watched.part()) < 0.05


@pytest.mark.parametrize("next_gb", [0, 0.4], ids=["one leaves", "the next begins"])
def test_memory_of_a_model_that_has_just_left_is_not_that_of_others(next_gb: float) -> None:
    """Its process is gone, its memory not yet free."""
    watched = Watched(resident("m", 13), resident("n", 1))
    watched.samples(7, card(15, ours_gb=15))
    del watched.backend.residents["blob-m"]
    watched.samples(5, card(15, ours_gb=1.2 + next_gb))
    assert share(watched.part()) < 0.05
    watched.samples(20, card(1.5, ours_gb=1.2))
    assert share(watched.part()) < 0.05


def test_a_load_under_way_is_ours_however_much_it_takes_where_nobody_tells_processes() -> None:
    """A small file with a large context: how much that takes is known when it is there."""
    watched = Watched()
    watched.samples(7, card(2))
    watched.backend.residents["blob-m"] = resident("m", 0, state=ResidencyState.LOADING)
    watched.samples(60, card(15))
    assert share(watched.part()) == pytest.approx(2 / 16)
    watched.backend.residents["blob-m"] = resident("m", 0)
    watched.samples(3, card(15))
    watched.backend.residents["blob-m"] = resident("m", 12)
    watched.samples(20, card(15))
    assert share(watched.part()) < 0.15


def test_what_others_take_between_one_change_of_models_and_the_next_is_noticed() -> None:
    """A server that changes models all the time is blind only while it does."""
    watched = Watched(resident("m", 3))
    watched.samples(7, card(4))
    for _ in range(4):
        watched.backend.residents["blob-m"].state = ResidencyState.UNLOADING
        watched.samples(5, card(15))
        watched.backend.residents["blob-m"].state = ResidencyState.RESIDENT
        watched.samples(3, card(15))
    assert share(watched.part()) > 0.6


def test_of_processes_and_lists_the_larger_figure_counts() -> None:
    """Of two servers one is in another world."""
    backends = named(backend(resident("m", 4), resident("n", 9)))
    assert share(judged(card(14, ours_gb=4.5), backends=backends)) == pytest.approx(1 / 16)


# A smaller share in VRAM


def test_a_model_with_less_of_itself_on_the_gpu_than_before_is_pressure() -> None:
    memory = GpuMemory()
    assert share(judged(backends=named(backend(resident("m", 10))), memory=memory)) == 0.0
    part = judged(backends=named(backend(resident("m", 10, gpu_gb=4))), memory=memory)
    assert share(part) == pytest.approx(0.84)
    assert part.detail == "m has 40% of itself on the GPU and had 100%"
    gone = judged(backends=named(backend(resident("m", 10, gpu_gb=0))), memory=memory)
    assert share(gone) == pytest.approx(1.0)


def test_a_model_that_never_fitted_is_the_plan() -> None:
    part = judged(backends=named(backend(resident("m", 10, gpu_gb=4))))
    assert share(part) == 0.0


def test_a_little_less_and_a_larger_context_are_no_loss() -> None:
    memory = GpuMemory()
    judged(backends=named(backend(resident("m", 10))), memory=memory)
    little = named(backend(resident("m", 10, gpu_gb=9.6)))
    assert share(judged(backends=little, memory=memory)) == 0.0
    larger = named(backend(resident("m", 20, gpu_gb=12, num_ctx=32768)))
    assert share(judged(backends=larger, memory=memory)) == 0.0


def test_what_was_lost_counts_no_more_once_the_card_has_room_for_it() -> None:
    memory = GpuMemory()
    judged(backends=named(backend(resident("m", 10))), memory=memory)
    spilled = named(backend(resident("m", 10, gpu_gb=4)))
    crowded = card(16, ours_gb=4.5, others_gb=11.5)
    assert share(judged(crowded, backends=spilled, memory=memory)) == pytest.approx(0.84)
    roomy = card(5, ours_gb=4.5)
    assert share(judged(roomy, backends=spilled, memory=memory)) < 0.05


def test_what_a_model_had_is_forgotten_with_the_model() -> None:
    memory = GpuMemory()
    judged(backends=named(backend(resident("m", 10))), memory=memory)
    judged(backends=named(backend(models=("n",))), memory=memory)
    back = named(backend(resident("m", 10, gpu_gb=4)))
    assert share(judged(backends=back, memory=memory)) == 0.0


def test_what_its_models_had_is_forgotten_with_a_backend() -> None:
    memory = GpuMemory()
    here, there = backend(resident("m", 10)), backend(resident("m", 10), name="b2")
    judged(backends=named(here, there), memory=memory)
    judged(backends=named(here), memory=memory)
    again = backend(resident("m", 10, gpu_gb=4), name="b2")
    assert share(judged(backends=named(again), memory=memory)) == 0.0


# A refused load


def test_a_load_refused_for_lack_of_memory_counts_for_as_long_as_it_is_held_off() -> None:
    state, memory = backend(), GpuMemory()
    state.ever_loaded.add("blob-m")
    state.held_until_ns["blob-m"] = 100
    state.held_because["blob-m"] = "m could not be loaded on b1: CUDA error: out of memory"
    part = memory.part(named(state), STALE_NS, 99)
    assert share(part) == REFUSED_LOAD
    assert part.detail == "m was not loaded for lack of memory"
    assert memory.part(named(state), STALE_NS, 100).share is None


def test_a_model_that_has_never_been_there_may_be_too_large_whatever_is_free() -> None:
    state = backend()
    state.held_until_ns["blob-m"] = 100
    state.held_because["blob-m"] = "m could not be loaded on b1: CUDA error: out of memory"
    assert judged(backends=named(state)).share is None


def test_a_load_that_failed_for_another_reason_says_nothing_of_memory() -> None:
    state = backend()
    state.ever_loaded.add("blob-m")
    state.held_until_ns["blob-m"] = 100
    state.held_because["blob-m"] = "this model may be incompatible with your version of Ollama"
    assert judged(backends=named(state)).share is None


@pytest.mark.parametrize(
    "words",
    [
        "llama-server reported out-of-memory during startup: load",
        "cudaMalloc failed: out of memory",
        "model requires more system memory (9.1 GiB) than is available (4.0 GiB)",
        "model requires 12.0 GiB but only 8.0 GiB are available (after 0.5 GiB overhead)",
        "ErrorOutOfMemory",
    ],
)
def test_the_servers_words_for_lack_of_memory_are_known(words: str) -> None:
    assert lacks_memory(words)


# What is not known


@pytest.mark.parametrize(
    ("reading", "why"),
    [
        pytest.param(None, "has not answered yet", id="never"),
        pytest.param(gpus(card(16), at_ns=-STALE_NS - 1), "silent for 10 s", id="stale"),
        pytest.param(gpus(), "there is no GPU", id="none"),
        pytest.param(gpus(card(17)), "more memory than it has", id="too much"),
        pytest.param(gpus(card(1, total_gb=0)), "cannot be right", id="no memory"),
        pytest.param(
            GpuReading(at_ns=0, state=SensorState.ABSENT, problem="no driver"),
            "no driver",
            id="absent",
        ),
        pytest.param(
            GpuReading(
                at_ns=0, state=SensorState.FAILING, gpus=(card(16),), problem="lost", is_whole=False
            ),
            "lost",
            id="failing",
        ),
    ],
)
def test_a_sensor_that_cannot_be_believed_leaves_the_word_to_the_server(
    reading: GpuReading | None, why: str
) -> None:
    backends, memory = named(backend()), GpuMemory()
    if reading is not None:
        memory.sensed(reading, backends, 0)
    unknown = memory.part(backends, STALE_NS, 0)
    assert unknown.share is None
    assert why in unknown.detail
    loaded = named(backend(resident("m", 10)))
    memory.remember(loaded)
    assert share(memory.part(loaded, STALE_NS, 0)) == 0.0


def test_a_sensor_that_fails_in_other_things_is_believed_of_memory() -> None:
    """A temperature that is garbage, or a card that was taken out for good."""
    memory, backends = GpuMemory(), named(backend())
    crowded = card(15, ours_gb=0, others_gb=15)
    reading = GpuReading(
        at_ns=0, state=SensorState.FAILING, gpus=(crowded,), problem="GPU 1 is not there any more"
    )
    memory.sensed(reading, backends, 0)
    assert share(memory.part(backends, STALE_NS, 0)) == pytest.approx(15 / 16)
    assert memory.part(backends, STALE_NS, STALE_NS + 1).share is None


# Several backends


def test_the_best_of_the_backends_that_are_up_is_the_load() -> None:
    crowded = card(16, ours_gb=0, others_gb=16)
    here, there = backend(), backend(resident("m", 10), name="b2", is_local=False)
    part = judged(crowded, backends=named(here, there))
    assert (share(part), part.detail.endswith("(backend b2)")) == (0.0, True)
    there.up = False
    assert share(judged(crowded, backends=named(here, there))) == pytest.approx(1.0)


def test_a_server_elsewhere_of_which_nothing_is_known_vouches_for_nobody() -> None:
    crowded = card(16, ours_gb=0, others_gb=16)
    here, there = backend(), backend(name="b2", is_local=False)
    part = judged(crowded, backends=named(here, there))
    assert share(part) == pytest.approx(1.0)


def test_a_server_that_restarts_changes_nothing() -> None:
    crowded = card(16, ours_gb=0, others_gb=16)
    assert share(judged(crowded, backends=named(backend(up=False)))) == pytest.approx(1.0)


def test_a_box_without_a_gpu_has_no_such_part() -> None:
    part = judged(backends=named(backend(resident("m", 10, gpu_gb=0))))
    assert part.share is None
    assert "no backend had a model on a GPU yet" in part.detail
