"""Memory and processor of the host: healthy reads as healthy, and what is not known says why."""

from __future__ import annotations

import pytest

from broker.core.host_load import HostLoad
from broker.core.load import NOTHING_LOCAL, worst_of
from broker.core.placement import BackendState
from broker.core.sensing import HostReading, SensorState
from broker.core.views import LoadPart
from tests.unit.core.sensed import STALE_NS, backend, host, named, resident

HEALTHY = 0.5  # the seeds' lowest threshold: below it every level is left


def judged(
    reading: HostReading | None, *, now_ns: int = 0, gpu_gb: float | None = None
) -> tuple[LoadPart, LoadPart]:
    return parts(reading, named(backend(resident("m", 40, gpu_gb=gpu_gb))), now_ns)


def parts(
    reading: HostReading | None, backends: dict[str, BackendState], now_ns: int = 0
) -> tuple[LoadPart, LoadPart]:
    """After one sample, which counts at once."""
    load = HostLoad()
    if reading is not None:
        load.sensed(reading, backends, 0, 0)
    return load.parts(backends, STALE_NS, now_ns)


def test_a_box_without_a_gpu_whose_models_fill_memory_and_processor_is_healthy() -> None:
    memory, cpu = judged(host(free_gb=20, models_gb=40, cpu=1.0, models_cpu=0.97))
    assert memory.share == pytest.approx(4 / 24)
    assert cpu.share == pytest.approx(0.03)
    assert "97% by models" in cpu.detail


def test_a_page_cache_that_fills_memory_is_healthy() -> None:
    """What it holds can be had back, so the sensor counts it as available."""
    memory, _ = judged(host(free_gb=58, models_gb=2))
    assert memory.share is not None
    assert memory.share < HEALTHY


def test_what_others_hold_is_judged_by_what_models_leave() -> None:
    memory, _ = judged(host(free_gb=4, models_gb=40))
    assert memory.share == pytest.approx(20 / 24)
    assert memory.detail == "others use 20.0 GB of 24.0 GB that no model holds"


def test_others_on_the_processor_count() -> None:
    _, cpu = judged(host(cpu=0.95, models_cpu=0.05))
    assert cpu.share == pytest.approx(0.9)


def test_models_that_seem_to_use_more_of_the_processor_than_all_are_no_relief() -> None:
    assert judged(host(cpu=0.5, models_cpu=0.6))[1].share == 0.0


def test_where_no_process_of_a_local_server_is_seen_its_own_words_are_taken_for_memory() -> None:
    memory, cpu = judged(host(free_gb=20, models_gb=None, models_cpu=None), gpu_gb=0)
    assert memory.share == pytest.approx(4 / 24)
    assert cpu.share is None
    assert "no process of a local server is seen" in cpu.detail
    on_gpu, _ = judged(host(free_gb=20, models_gb=None), gpu_gb=40)
    assert on_gpu.share == pytest.approx(44 / 64)


@pytest.mark.parametrize(
    ("reading", "now_ns", "why"),
    [
        pytest.param(None, 0, "has not answered yet", id="never"),
        pytest.param(host(), STALE_NS + 1, "silent for 10 s", id="stale"),
        pytest.param(
            HostReading(state=SensorState.FAILING, sample=host().sample, problem="it hangs"),
            0,
            "it hangs",
            id="failing",
        ),
        pytest.param(HostReading(state=SensorState.ABSENT), 0, "is absent", id="absent"),
    ],
)
def test_a_sensor_that_cannot_be_believed_is_unknown_and_says_why(
    reading: HostReading | None, now_ns: int, why: str
) -> None:
    for part in judged(reading, now_ns=now_ns):
        assert part.share is None
        assert why in part.detail
    assert worst_of(judged(reading, now_ns=now_ns)) is None


def test_a_sample_as_old_as_may_be_is_believed_and_one_from_after_now_as_well() -> None:
    assert judged(host(), now_ns=STALE_NS)[0].share is not None
    assert judged(host(at_ns=5), now_ns=0)[0].share is not None


@pytest.mark.parametrize(
    "reading",
    [host(free_gb=70), host(models_gb=64), host(free_gb=-1), host(total_gb=0, free_gb=0)],
    ids=["more free than there is", "all of it models", "less than none", "no memory"],
)
def test_figures_that_cannot_be_right_are_unknown(reading: HostReading) -> None:
    memory, cpu = judged(reading)
    assert memory.share is None
    assert "cannot be right" in memory.detail
    assert cpu.share is not None


def test_this_hosts_sensors_say_nothing_of_servers_elsewhere() -> None:
    backends = named(backend(is_local=False))
    for part in parts(host(free_gb=1), backends):
        assert (part.share, part.detail) == (None, NOTHING_LOCAL)


# What lasts


SETTLE_NS = 6_000_000_000


def after(load: HostLoad, seconds: int, free_gb: float, backends: dict[str, BackendState]) -> None:
    """So many more samples of this, one a second."""
    begun_s = (load.heard_ns or 0) // 1_000_000_000 if load.reading else -1
    for second in range(begun_s + 1, begun_s + 1 + seconds):
        at_ns = second * 1_000_000_000
        load.sensed(host(free_gb=free_gb, models_gb=None, at_ns=at_ns), backends, SETTLE_NS, at_ns)


def memory_of(load: HostLoad, backends: dict[str, BackendState]) -> LoadPart:
    return load.parts(backends, STALE_NS, load.heard_ns or 0)[0]


def test_memory_that_others_take_for_a_moment_is_no_load_and_what_lasts_is() -> None:
    load, backends = HostLoad(), named(backend())
    after(load, 6, 60, backends)
    assert memory_of(load, backends).detail == "not watched for 6 s yet"
    after(load, 1, 60, backends)
    after(load, 6, 4, backends)
    assert memory_of(load, backends).share == pytest.approx(4 / 64)
    after(load, 1, 4, backends)
    assert memory_of(load, backends).share == pytest.approx(60 / 64)
    after(load, 1, 60, backends)
    assert memory_of(load, backends).share == pytest.approx(4 / 64)


def test_before_a_server_has_listed_its_models_they_are_not_taken_for_others() -> None:
    load, backends = HostLoad(), named(backend(is_listed=False))
    after(load, 20, 4, backends)
    unknown = memory_of(load, backends)
    assert unknown.share is None
    assert "b1 has not told yet which models it holds" in unknown.detail
