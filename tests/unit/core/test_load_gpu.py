"""GPU memory that is not ours to plan with: three signs, and healthy reads as healthy."""

from __future__ import annotations

import pytest

from broker.core.gpu_load import REFUSED_LOAD, SETTLE_NS, GpuMemory, lacks_memory
from broker.core.placement import BackendState
from broker.core.residency import ResidencyState
from broker.core.sensing import GpuReading, GpuSample, SensorState
from broker.core.views import LoadPart
from tests.unit.core.sensed import STALE_NS, backend, card, gpus, named, resident

HEALTHY = 0.5  # the seeds' lowest threshold: below it every level is left


def judged(
    *cards: GpuSample, backends: dict[str, BackendState], memory: GpuMemory | None = None
) -> LoadPart:
    """After one sample of these cards, where any are given."""
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


def test_all_cards_count_together() -> None:
    backends = named(backend(resident("m", 3)))
    two = (card(0, ours_gb=0), card(16, ours_gb=0, others_gb=16, index=1))
    backends["b1"].residents.clear()
    assert share(judged(*two, backends=backends)) == pytest.approx(0.5)


def test_a_model_that_loads_is_ours_before_the_server_lists_it() -> None:
    loading = resident("m", 0, state=ResidencyState.LOADING)
    assert share(judged(card(11), backends=named(backend(loading)))) < 0.05


def test_memory_of_a_model_that_has_just_left_is_not_yet_that_of_others() -> None:
    backends, memory = named(backend(resident("m", 14))), GpuMemory()
    memory.sensed(gpus(card(15)), backends, 0)
    backends["b1"].residents.clear()
    memory.sensed(gpus(card(15), at_ns=SETTLE_NS), backends, SETTLE_NS)
    assert share(memory.part(backends, STALE_NS, SETTLE_NS)) < 0.05
    memory.sensed(gpus(card(15), at_ns=SETTLE_NS + 1), backends, SETTLE_NS + 1)
    assert share(memory.part(backends, STALE_NS, SETTLE_NS + 1)) > 0.9


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


# A refused load


def test_a_load_refused_for_lack_of_memory_counts_for_as_long_as_it_is_held_off() -> None:
    state, memory = backend(), GpuMemory()
    state.held_until_ns["blob-m"] = 100
    state.held_because["blob-m"] = "m could not be loaded on b1: CUDA error: out of memory"
    part = memory.part(named(state), STALE_NS, 99)
    assert share(part) == REFUSED_LOAD
    assert part.detail == "m was not loaded for lack of memory"
    assert memory.part(named(state), STALE_NS, 100).share is None


def test_a_load_that_failed_for_another_reason_says_nothing_of_memory() -> None:
    state = backend()
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
                at_ns=0, state=SensorState.FAILING, gpus=(card(16),), problem="GPU 1 is gone"
            ),
            "GPU 1 is gone",
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
